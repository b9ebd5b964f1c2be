"""The report of one run: a single HTML file that can be mailed, archived and opened anywhere."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from jtl.report.curves import curves
from jtl.report.examples import worst_errors, worst_mistakes
from jtl.report.format import count, duration, is_share, number, plural, significant, size
from jtl.report.page import Markup, cards, details, figure, join, page, section, table, tag
from jtl.report.plots import confusion_plot, plan_plot, reliability_plot, scatter_plot
from jtl.report.tables import (
    against,
    class_table,
    config_table,
    confused_table,
    leaf_table,
    metric_table,
    per_label,
    phase_table,
    rule_table,
    stage_table,
    stages_of_plan,
)

Thumbnail = Callable[[str, int], np.ndarray]
"""From a split's name and a position to an (H, W, C) uint8 picture of that example."""


@dataclass(frozen=True)
class SplitOutputs:
    """What the final model says of one split.

    Attributes:
      name: 'train', 'validation', 'test'.
      outputs: (N, K) logits or values.
      targets: as in `jtl.data.base.Split`.
      losses: (N,) loss of each example.
      names: what a person calls each example.
      metrics: by name, without the split's.
      baseline: the same figures of a constant guess.
    """

    name: str
    outputs: np.ndarray
    targets: np.ndarray
    losses: np.ndarray
    names: tuple[str, ...]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report is made of.

    Attributes:
      title: of the run.
      config: nested plain data.
      plan: the content of plan.json.
      rows: of metrics.jsonl, in order.
      result: the content of result.json.
      kind: of the task: 'classification', 'multi_label' or 'regression'.
      labels: class or output names in output order.
      splits: evaluated with the final model; figures of single examples are of 'test', else 'validation', else the last.
      thumbnail: None where examples are no pictures.
      notes: of the preflight, a sentence each.
    """

    title: str
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    rows: list[dict[str, Any]]
    result: Mapping[str, Any]
    kind: str
    labels: tuple[str, ...]
    splits: tuple[SplitOutputs, ...]
    thumbnail: Thumbnail | None = None
    notes: tuple[str, ...] = ()


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
    if shown is not None:
        parts += {'classification': _classification, 'multi_label': _multi_label, 'regression': _regression}[record.kind](record, shown)
    parts += [
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
        wanted = ('accuracy', 'macro_f1', 'mean_average_precision', 'micro_f1', 'exact_match', 'rmse', 'mae', 'r2')
        first = [name for name in wanted if name in chosen] or chosen
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
    if not result.get('parameters', {}).get('frozen') and not before:
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
    validation = by_name.get('validation')
    baseline = {}
    if validation is not None:
        main = {'classification': 'accuracy', 'multi_label': 'mean_average_precision', 'regression': 'rmse'}[record.kind]
        baseline = {f'validation/{main}': validation.baseline[main]} if main in validation.baseline else {}
    drawn = curves(record.rows, baseline)
    return tag('div', [figure(uri, caption) for caption, uri in drawn], class_='plots') if drawn else None


def _classification(record: RunRecord, split: SplitOutputs) -> list[tuple[str, Markup]]:
    from jtl.tasks.metrics import confusion, expected_calibration_error, per_class, reliability, softmax

    p = softmax(split.outputs)
    targets, predicted = np.asarray(split.targets, np.int64), p.argmax(axis=1)
    wrong = int((predicted != targets).sum())
    n, where = len(targets), f'on {split.name}'
    matrix = confusion_plot(confusion(targets, predicted, len(record.labels)), record.labels)
    lead = f'{wrong:,} of {n:,} examples {where} are wrong.'
    drawn = figure(matrix, f'True classes as rows, predicted ones as columns, {where}.')
    confused = confused_table(targets, predicted, record.labels)
    pairs = tag('div', tag('h3', 'Most confused pairs'), confused) if confused else None
    ece = expected_calibration_error(p, targets)
    return [
        section('Confusion', tag('div', drawn, pairs, class_='plots' if len(record.labels) <= 12 else None), lead=lead),
        section('Classes', class_table(per_class(targets, predicted, record.labels)), lead=f'{where.capitalize()}, the weakest first.'),
        section(f'Worst mistakes {where}', worst_mistakes(split, p, predicted, record.labels, record.thumbnail)),
        section(
            'Calibration',
            figure(reliability_plot(reliability(p, targets), ece), f'How often predictions of a given confidence are right, {where}.'),
        ),
    ]


def _multi_label(record: RunRecord, split: SplitOutputs) -> list[tuple[str, Markup]]:
    from jtl.tasks.metrics import expected_calibration_error, reliability

    truth, predicted = np.asarray(split.targets) > 0.5, split.outputs >= 0
    p = 1 / (1 + np.exp(-np.clip(split.outputs.astype(np.float64), -500, 500)))
    # Each label of each example is a decision between no and yes.
    decisions, answers = np.stack([1 - p.ravel(), p.ravel()], axis=1), truth.ravel().astype(np.int64)
    diagram = reliability_plot(reliability(decisions, answers), expected_calibration_error(decisions, answers))
    exact = int((truth == predicted).all(axis=1).sum())
    where = f'on {split.name}'
    lead = f'All labels are right for {exact:,} of {len(truth):,} examples {where}; the weakest labels first.'
    return [
        section('Labels', class_table(per_label(truth, predicted, record.labels)), lead=lead),
        section(f'Worst mistakes {where}', worst_mistakes(split, p, predicted, record.labels, record.thumbnail)),
        section('Calibration', figure(diagram, f'How often decisions of a given confidence are right, over all labels, {where}.')),
    ]


def _regression(record: RunRecord, split: SplitOutputs) -> list[tuple[str, Markup]]:
    k = split.outputs.shape[1]
    targets = np.asarray(split.targets, np.float64).reshape(-1, k)
    names = record.labels if len(record.labels) == k else tuple(f'value_{i}' for i in range(k)) if k > 1 else ('value',)
    drawn = [figure(scatter_plot(split.outputs[:, i], targets[:, i], names[i]), f'{names[i]} on {split.name}') for i in range(min(k, 8))]
    rest = tag('p', f'and {k - 8:,} more outputs') if k > 8 else None
    return [
        section('Predicted and true values', tag('div', drawn, class_='plots'), rest),
        section(f'Largest errors on {split.name}', worst_errors(split, targets, names, record.thumbnail)),
    ]


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
