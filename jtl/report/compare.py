"""Was transfer worth it? The comparison of recipes, for the terminal and as a page."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from jtl.report.format import count, difference, duration, is_share, minus, plural, size
from jtl.report.page import Markup, cards, figure, page, section, table, tag
from jtl.report.plots import compare_plot, paired_plot
from jtl.report.stats import verdict
from jtl.report.tables import text_table


def compare_table(comparison: Mapping[str, Any]) -> str:
    """Plain text for a terminal: a row a recipe (mean ± standard deviation over seeds), the paired differences, and the verdict.

    Args:
      comparison: the content of comparison.json.
    """
    headers, rows = _recipe_rows(comparison)
    parts = [text_table(headers, rows), '\n'.join(_choices(comparison))]
    paired = _paired_rows(comparison)
    if paired:
        parts.append(text_table(['paired difference', 'metric', 'mean', '95 % interval', 'seeds'], paired))
    parts += ['\n'.join(_verdict(comparison))]
    return '\n\n'.join(part for part in parts if part) + '\n'


def compare_report(comparison: Mapping[str, Any], links: Mapping[str, str]) -> str:
    """One self-contained HTML page: verdict, table, every seed drawn, paired differences, and the way to the runs.

    Args:
      comparison: the content of comparison.json.
      links: from a run's label to where its report lies, relative to this page.
    """
    primary, recipes = comparison['primary'], comparison['recipes']
    headers, rows = _recipe_rows(comparison)
    values = {name: figures[primary]['values'] for name, figures in recipes.items() if figures.get(primary, {}).get('values')}
    paired = {pair: entry for pair, entry in comparison.get('paired', {}).items() if entry['metric'] == primary}
    pairs = _paired_rows(comparison)
    sentences = _verdict(comparison)
    runs = [tag('li', tag('a', label, href=href)) for label, href in links.items()]
    spread = f'{primary} of every seed (dots), their mean (line) and one standard deviation each side of it (band).'
    interval = 'Difference of each pair of runs of one seed (dots), its mean (diamond) and the 95 % interval of the mean (line).'
    parts = [
        section('Verdict', _cards(values, comparison), [_said(sentence) for sentence in sentences]),
        section(
            'Recipes',
            table(headers, rows, numeric=range(1, len(headers))),
            [tag('p', sentence) for sentence in _choices(comparison)],
            lead='Mean ± standard deviation over seeds.',
        ),
        section('Every seed', figure(compare_plot(values, primary), spread) if values else None),
        section(
            'Paired differences',
            figure(paired_plot(paired, primary), interval) if paired else None,
            table(['pair', 'metric', 'mean', '95 % interval', 'seeds'], pairs, numeric=(2, 3, 4)) if pairs else None,
        ),
        section('Runs', tag('ul', runs, class_='columns') if runs else None),
    ]
    seeds = comparison.get('seeds', ())
    subtitle = f'{plural(len(recipes), "recipe")}, {plural(len(seeds), "seed")} each, on the same data, splits and steps'
    return page('Was transfer worth it?', subtitle, parts)


def _choices(comparison: Mapping[str, Any]) -> list[str]:
    """A sentence for each recipe that ran with several settings: which was kept, and how all did on what they were chosen by."""
    sentences = []
    for name, figures in comparison['recipes'].items():
        tried = []
        for choice, metrics in figures.get('choices', {}).items():
            metric, figure = next(iter(metrics.items()))
            tried.append(f'{choice} {_value(metric, figure)}{" %" if is_share(metric) else ""}')
        if tried:
            sentences.append(f'{name} keeps {figures["chosen"]}, the best on validation ({metric}: {"; ".join(tried)}).')
    return sentences


def _verdict(comparison: Mapping[str, Any]) -> list[str]:
    return list(comparison.get('verdict') or verdict(comparison))


def _said(sentence: str) -> Markup:
    bad = sentence.lower().startswith('negative transfer')
    return tag('p', tag('strong', sentence) if bad else sentence, class_='bad' if bad else None)


def _cards(values: Mapping[str, Sequence[float]], comparison: Mapping[str, Any]) -> Markup | None:
    primary = comparison['primary']
    if not values:
        return None
    unit = f'{primary} (%)' if is_share(primary) else primary
    return cards((name, _value(primary, comparison['recipes'][name][primary]), unit) for name in values)


def _metrics(comparison: Mapping[str, Any]) -> list[str]:
    """The primary metric first, then the other metrics of the same split, and its loss last, unless that is the nll once more."""
    primary, recipes = comparison['primary'], comparison['recipes']
    split = primary.partition('/')[0]
    known = dict.fromkeys(name for figures in recipes.values() for name, value in figures.items() if isinstance(value, Mapping))
    others = [name for name in known if name.count('/') == 1 and name.startswith(f'{split}/') and name != primary]
    nll, loss = f'{split}/nll', f'{split}/loss'
    if loss in others and nll in known and all(_value(loss, f.get(loss)) == _value(nll, f.get(nll)) for f in recipes.values()):
        others.remove(loss)
    return [primary, *sorted(others, key=lambda name: name.endswith('/loss'))]


def _recipe_rows(comparison: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    metrics = _metrics(comparison)
    headers = ['recipe', *(f'{name} (%)' if is_share(name) else name for name in metrics), 'trained', 'optimizer', 'time']
    rows = []
    for name, figures in comparison['recipes'].items():
        cells = [_value(metric, figures.get(metric)) for metric in metrics]
        seconds = figures.get('seconds')
        mean = seconds['mean'] if isinstance(seconds, Mapping) else seconds
        costs = [
            _or_dash(figures.get('trainable_parameters'), count),
            _or_dash(figures.get('optimizer_bytes'), size),
            _or_dash(mean, duration),
        ]
        rows.append([name, *cells, *costs])
    return headers, rows


def _value(metric: str, figure: Mapping[str, Any] | None) -> str:
    """'83.3 ± 0.4', in percent where the metric is a share; the spread is left out for one seed."""
    if not figure or figure.get('mean') is None:
        return '–'
    scale = 100 if is_share(metric) else 1
    mean, std = scale * figure['mean'], scale * figure['std']
    if len(figure.get('values', ())) < 2:
        return minus(f'{mean:.1f}' if scale == 100 else f'{mean:.4g}')
    # The spread says how many digits of the mean are worth reading: two of its own.
    digits = 1 if scale == 100 else 3 if std <= 0 else max(1 - math.floor(math.log10(std)), 0)
    return minus(f'{mean:.{digits}f} ± {std:.{digits}f}')


def _or_dash(value: float | None, show: Any) -> str:
    return '–' if value is None else show(value)


def _paired_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for pair, entry in comparison.get('paired', {}).items():
        metric, ci95 = entry['metric'], entry.get('ci95')
        interval = f'{difference(metric, ci95[0], unit=False)} to {difference(metric, ci95[1], unit=False)}' if ci95 else 'one seed: none'
        rows.append([pair, metric, difference(metric, entry['mean']), interval, str(len(entry.get('values', ())))])
    return rows
