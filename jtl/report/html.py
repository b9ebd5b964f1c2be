"""The report of one run: a single HTML file that can be mailed, archived and opened anywhere."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np

from jtl.report.curves import curves
from jtl.report.format import count, duration, is_share, number, plural, significant, size
from jtl.report.kinds import SECTIONS
from jtl.report.page import Markup, cards, details, figure, join, page, section, table, tag
from jtl.report.plots import plan_plot
from jtl.report.record import RunRecord, SplitOutputs
from jtl.report.tables import against, config_table, leaf_table, metric_table, phase_table, rule_table, stage_table, stages_of_plan
from jtl.report.texts import lengths_of_texts

_WANTED = (
    'precision',
    'recall',
    'accuracy',
    'macro_f1',
    'mean_average_precision',
    'micro_f1',
    'exact_match',
    'perplexity',
    'rmse',
    'mae',
    'r2',
)


def run_report(record: RunRecord) -> str:
    """One self-contained HTML page about a run. It makes no request, runs no script, and reads well in light and dark."""
    filled = [split for split in record.splits if len(split.outputs)]
    by_name = {split.name: split for split in filled}
    shown = by_name.get('test') or by_name.get('validation') or (filled[-1] if filled else None)
    parts = [
        section('Result', _headline(record, shown), metric_table(filled) if filled else None),
        section('What was transferred and trained', *_transfer(record)),
        section('Curves', _curves(record, by_name)),
    ]
    if shown is not None and record.kind in SECTIONS:
        parts += SECTIONS[record.kind](record, shown)
    parts += [
        section('Lengths', lengths_of_texts(record.lengths['train'], record.buckets) if record.lengths else None),
        section('Preflight', tag('ul', [tag('li', note) for note in record.notes]) if record.notes else None),
        section('Run', _timings(record)),
        section('Configuration', details('every field', config_table(record.config)) if record.config else None),
    ]
    model = record.config.get('model', {}).get('name', '')
    recipe = record.config.get('tune', {}).get('recipe', '')
    phases = ' → '.join(phase['name'] for phase in record.plan['phases'])
    said = [
        text for text in (model, f'recipe {recipe}' if recipe else '', f'phases {phases}', f'seed {record.config.get("seed", "")}') if text
    ]
    return page(record.title, ' · '.join(said), parts)


def _headline(record: RunRecord, shown: SplitOutputs | None) -> Markup:
    items: list[tuple[str, Any, Any]] = []
    if shown is not None:
        chosen = [name for name in shown.metrics if '/' not in name]
        # What people ask for first, and at most three: the table below has them all.
        first = [name for name in dict.fromkeys((record.result.get('primary'), *_WANTED)) if name in chosen] or chosen
        items = [(f'{shown.name} {m}', number(m, shown.metrics[m]), against(m, shown.metrics[m], shown.baseline.get(m))) for m in first[:3]]
    sizes = record.result.get('parameters', {})
    if sizes:
        share = sizes['trainable'] / max(sizes['total'], 1)
        items.append(('parameters that trained', count(sizes['trainable']), f'{100 * share:.3g} % of {count(sizes["total"])}'))
    if 'seconds' in record.result:
        steps = record.result.get('steps')
        items.append(('time', duration(record.result['seconds']), plural(steps, 'step') if steps is not None else ''))
    return join(cards(items), _checksum(record.result))


def _checksum(result: Mapping[str, Any]) -> Markup | None:
    """Whether the frozen part is what it was, as the checksums say."""
    sums = result.get('frozen_checksum') or {}
    before, after = sums.get('before'), sums.get('after')
    if not result.get('parameters', {}).get('frozen') and before == after:
        return tag('p', 'Nothing was frozen throughout: every parameter trained in some phase.', class_='soft')
    if not before or not after:
        return tag('p', 'No checksums of the frozen part were recorded.', class_='bad')
    if before == after:
        frozen = count(result.get('parameters', {}).get('frozen', 0))
        text = f'Frozen means frozen: the {frozen} parameters that never trained have the same checksum before and after, '
        return tag('p', tag('span', '✓ ', class_='good'), text, tag('code', before), '.')
    return tag(
        'p', tag('strong', 'The frozen part changed: '), tag('code', before), ' before, ', tag('code', after), ' after.', class_='bad'
    )


def _transfer(record: RunRecord) -> list[Markup | None]:
    plan = record.plan
    totals, ignored = plan.get('totals', {}), plan.get('ignored', [])
    words = {'loaded': 'as they are', 'renamed': 'under another name', 'adapted': 'after a change of layout or size'}
    origin = [f'{totals[status]:,} {said}' for status, said in words.items() if totals.get(status)]
    loaded = sum(totals.get(status, 0) for status in words)
    sentences = [
        f'{plural(loaded, "leaf").replace("leafs", "leaves")} came from the checkpoint' + (f' ({", ".join(origin)})' if origin else '')
    ]
    sentences.append(f'{totals.get("new", 0):,} started new')
    sentences.append(f'{len(ignored):,} of the checkpoint were left aside')
    stages = stages_of_plan(plan)
    strip = None
    if stages and plan['phases']:
        uri = plan_plot(
            [stage.name for stage in stages],
            [f'{phase["name"]} ({phase["steps"]:,})' for phase in plan['phases']],
            np.array([stage.rates for stage in stages], np.float64),
            np.array([stage.trained for stage in stages]),
            np.array([stage.parameters for stage in stages]),
        )
        strip = figure(uri, 'Parameters that train, by stage (input first) and phase (steps); colour is the highest learning rate.')
    return [
        tag('p', '; '.join(sentences) + '.'),
        *(tag('p', note) for note in plan.get('notes', ())),
        strip,
        phase_table(plan),
        details('stages as a table', stage_table(plan)),
        details(f'rules and how many paths each decided ({len(plan["rules"])})', rule_table(plan['rules'])) if plan.get('rules') else None,
        details(f'left aside ({len(ignored)})', tag('ul', [tag('li', tag('code', key)) for key in ignored])) if ignored else None,
        details(f'every leaf ({len(plan["leaves"]):,})', leaf_table(plan)),
    ]


def _curves(record: RunRecord, by_name: Mapping[str, SplitOutputs]) -> Markup | None:
    validation, main = by_name.get('validation'), record.result.get('primary', '')
    baseline = {}
    if validation is not None and main in validation.baseline:
        baseline = {f'validation/{main}': validation.baseline[main]}
    drawn = curves(record.rows, baseline, [phase.get('task', '') for phase in record.plan['phases']])
    return tag('div', [figure(uri, caption) for caption, uri in drawn], class_='plots') if drawn else None


def _timings(record: RunRecord) -> Markup:
    result = record.result
    speeds = [row['examples_per_second'] for row in record.rows if row.get('examples_per_second')]
    rows: list[list[Any]] = []
    if speeds:
        rows.append(['examples per second, median', significant(float(f'{median(speeds):.3g}'))])
    if 'seconds' in result:
        rows.append(['whole run', duration(result['seconds'])])
    rows.append(['checkpoint and new leaves, bytes', size(record.plan.get('totals', {}).get('bytes', 0))])
    known = ('metrics', 'baseline', 'parameters', 'frozen_checksum', 'seconds')
    rows += [[name.replace('_', ' '), _told(name, value)] for name, value in result.items() if name not in known]
    return table((), rows)


def _told(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {_told(key, below)}' for key, below in value.items())
    if isinstance(value, float):
        return number(name, value) if is_share(name) else significant(value)
    return significant(value)
