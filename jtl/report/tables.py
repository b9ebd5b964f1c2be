"""What a report says in tables, computed from plan.json and from the outputs of a split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan, prod
from typing import Any

import numpy as np

from jtl.report.format import count, difference, is_share, number, rate, significant, size
from jtl.report.page import Markup, join, table, tag
from jtl.tasks.metrics import confusion, ratio

_LEAVES = 2000  # rows of the table of leaves: more make a page heavy, and plan.json has them all


@dataclass(frozen=True)
class StageSummary:
    """What the plan holds for one stage (or head).

    Attributes:
      name: of the stage, or 'heads/<task>'.
      parameters: elements, BatchNorm statistics not among them.
      nbytes: of parameters and statistics.
      statuses: leaves by where they come from ('loaded', 'new', ...).
      trained: parameters that train, for each phase.
      rates: the highest learning rate, for each phase; NaN where nothing trains.
    """

    name: str
    parameters: int
    nbytes: int
    statuses: Mapping[str, int]
    trained: tuple[int, ...]
    rates: tuple[float, ...]


def stages_of_plan(plan: Mapping[str, Any]) -> list[StageSummary]:
    """The plan's leaves gathered by stage, the input first, heads last; stages without leaves are left out."""
    phases = range(len(plan['phases']))
    leaves: dict[str, list[Mapping[str, Any]]] = {}
    for leaf in plan['leaves']:
        leaves.setdefault(_stage(leaf['path'], plan['stages']), []).append(leaf)
    known = [name for name in plan['stages'] if name in leaves]
    heads = [name for name in leaves if name.startswith('heads/')]
    others = [name for name in leaves if name not in known and name not in heads]
    summaries = []
    for name in (*others, *known, *heads):
        mine = leaves[name]
        parameters = [(leaf, prod(leaf['shape'])) for leaf in mine if not leaf.get('statistic')]
        training = [[(leaf, n) for leaf, n in parameters if leaf['groups'][k] != 'frozen'] for k in phases]
        summaries.append(
            StageSummary(
                name=name,
                parameters=sum(n for _, n in parameters),
                nbytes=sum(leaf['bytes'] for leaf in mine),
                statuses=Counter(leaf['status'] for leaf in mine),
                trained=tuple(sum(n for _, n in chosen) for chosen in training),
                rates=tuple(max((float(leaf['lr'][k]) for leaf, _ in training[k]), default=nan) for k in phases),
            )
        )
    return summaries


def _stage(path: str, stages: Sequence[str]) -> str:
    """The stage that a path belongs to: its first part below 'backbone', or the head it is in."""
    top, _, below = path.partition('/')
    owners = [name for name in stages if below == name or below.startswith(f'{name}/')]
    if top == 'backbone' and owners:
        return max(owners, key=len)
    return '/'.join(path.split('/')[:2])


def stage_table(plan: Mapping[str, Any]) -> Markup:
    """A row a stage: size, where its leaves come from, and for each phase what trains at which rate."""
    rows = []
    for stage in stages_of_plan(plan):
        origin = ', '.join(f'{n} {status}' for status, n in stage.statuses.items())
        phases = [_training(trained, stage.parameters, lr) for trained, lr in zip(stage.trained, stage.rates, strict=True)]
        rows.append([stage.name, count(stage.parameters), size(stage.nbytes), origin, *phases])
    return table(['stage', 'parameters', 'bytes', 'leaves', *(phase['name'] for phase in plan['phases'])], rows, numeric=(1, 2))


def _training(trained: int, total: int, lr: float) -> Any:
    if not trained:
        return tag('span', 'frozen' if total else '–', class_='soft')
    return f'{"all" if trained == total else count(trained)} at {rate(lr)}'


def phase_table(plan: Mapping[str, Any]) -> Markup:
    """A row a group of a phase: optimizer, rate, schedule and size; then what the phase freezes."""
    rows = []
    for phase in plan['phases']:
        for i, (name, group) in enumerate(phase['groups'].items()):
            shared = [phase['name'], significant(phase['steps'])] if i == 0 else ['', '']
            totals = [count(phase['frozen_parameters']), size(phase['optimizer_bytes'])] if i == 0 else ['', '']
            settings = [group['optimizer'], rate(group['lr']), group['schedule'], count(group['parameters']), significant(group['leaves'])]
            rows.append([*shared, name, *settings, *totals])
    headers = ['phase', 'steps', 'group', 'optimizer', 'rate', 'schedule', 'trains', 'leaves', 'frozen', 'optimizer state']
    return table(headers, rows, numeric=(1, 4, 6, 7, 8, 9))


def rule_table(rules: Sequence[Mapping[str, Any]]) -> Markup | None:
    """A row a rule: what it decides, pattern, value, paths it decided, and who wrote it."""
    if not rules:
        return None
    rows = [
        [r['what'], r.get('phase', ''), tag('code', r['pattern']), tag('code', r['value']), significant(r['hits']), r.get('origin', '')]
        for r in rules
    ]
    return table(['decides', 'phase', 'pattern', 'value', 'hits', 'written by'], rows, numeric=(4,))


def leaf_table(plan: Mapping[str, Any]) -> Markup:
    """A row a leaf, at most 2,000 of them: source, what was done to it, and its group in each phase."""
    rows = [
        [
            tag('code', leaf['path']),
            ' × '.join(map(str, leaf['shape'])) or 'scalar',
            leaf['status'],
            tag('code', leaf['source']) if leaf['source'] else '',
            leaf['how'],
            *leaf['groups'],
        ]
        for leaf in plan['leaves'][:_LEAVES]
    ]
    more = len(plan['leaves']) - _LEAVES
    return join(
        table(['path', 'shape', 'status', 'source', 'how', *(phase['name'] for phase in plan['phases'])], rows),
        tag('p', f'and {more:,} more in plan.json') if more > 0 else None,
    )


def metric_table(splits: Sequence[Any]) -> Markup:
    """A row a metric; for each split a column of the model and one of the constant guess, where there is one."""
    names = list(dict.fromkeys(name for split in splits for name in split.metrics))
    headers, columns = ['metric'], [list[Any](names)]
    for split in splits:
        headers.append(f'{split.name} ({len(split.outputs):,})')
        columns.append([tag('strong', number(name, split.metrics.get(name))) for name in names])
        if split.baseline:
            headers.append('baseline')
            columns.append([tag('span', number(name, split.baseline.get(name)), class_='soft') for name in names])
    return table(headers, list(zip(*columns, strict=True)), numeric=range(1, len(headers)))


def class_table(rows: Sequence[Mapping[str, Any]], what: str = 'class', counted: str = 'examples') -> Markup:
    """Precision, recall and F1 of each class (rows of `jtl.tasks.metrics.per_class`), the weakest first.

    `what` the rows are, and what is `counted`, head the table.
    """
    ordered = sorted(rows, key=lambda row: row['f1'])
    cells = [
        [
            row['label'],
            *(f'{100 * row[name]:.1f} %' for name in ('precision', 'recall', 'f1')),
            f'{row["support"]:,}',
            f'{row["predicted"]:,}',
        ]
        for row in ordered
    ]
    return table([what, 'precision', 'recall', 'F1', counted, 'predicted'], cells, numeric=range(1, 6))


def confused_table(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str], limit: int = 12) -> Markup | None:
    """The classes taken for one another most often: true class, predicted class, how often and which share of the true class."""
    counts = confusion(targets, predicted, len(labels))
    support = counts.sum(axis=1)
    wrong = counts - np.diag(np.diag(counts))
    order = np.argsort(-wrong, axis=None, kind='stable')[:limit]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    if not pairs:
        return None
    rows = [[labels[i], labels[j], f'{wrong[i, j]:,}', f'{100 * wrong[i, j] / support[i]:.1f} %'] for i, j in pairs]
    return table(['true', 'predicted', 'times', 'of the true class'], rows, numeric=(2, 3))


def per_label(targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str]) -> list[dict[str, Any]]:
    """`per_class` for several labels an example: (N, K) booleans, one row a label."""
    right, guessed, support = (targets & predicted).sum(0), predicted.sum(0), targets.sum(0)
    columns = (ratio(right, guessed), ratio(right, support), ratio(2 * right, guessed + support), support, guessed)
    names = ('precision', 'recall', 'f1', 'support', 'predicted')
    return [{'label': label, **dict(zip(names, values, strict=True))} for label, *values in zip(labels, *columns, strict=True)]


def config_table(config: Mapping[str, Any]) -> Markup:
    """Every field of a config under its dotted name."""
    return table(['field', 'value'], [[tag('code', name), tag('code', repr(value))] for name, value in _flat(config, '')])


def _flat(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, below in value.items() for pair in _flat(below, f'{name}.{key}' if name else str(key))]
    if isinstance(value, list | tuple) and any(isinstance(below, Mapping) for below in value):
        return [pair for i, below in enumerate(value) for pair in _flat(below, f'{name}[{i}]')]
    return [(name, value)]


def against(metric: str, value: float, baseline: float | None) -> str:
    """How a metric stands to the constant guess, in a few words."""
    if baseline is None:
        return ''
    word = 'majority class' if is_share(metric) else 'constant guess'
    return f'{word} {number(metric, baseline)}, {difference(metric, value - baseline)}'


def text_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns for a terminal, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in (headers, *rows)) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        return '  '.join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))).rstrip()

    return '\n'.join([line(headers), '  '.join('─' * w for w in widths), *map(line, rows)])
