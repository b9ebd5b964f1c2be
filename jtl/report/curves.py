"""Training curves over steps, from the rows of metrics.jsonl."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from jtl.report.canvas import COLOURS, SOFT, literal, picture
from jtl.report.format import is_share, number, rate

_POINTS = 400  # of one curve: more cannot be told apart at this size


def _series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of `key`, thinned to means of neighbours; a value that was no finite number is NaN."""
    found = [(row['step'], row[key]) for row in rows if key in row]
    steps = np.array([step for step, _ in found], np.float64)
    values = np.array([math.nan if value is None else value for _, value in found], np.float64)
    if len(steps) > _POINTS:
        edges = np.linspace(0, len(steps), _POINTS + 1).astype(int)[:-1]
        sizes = np.diff([*edges, len(steps)])
        steps, values = np.add.reduceat(steps, edges) / sizes, np.add.reduceat(values, edges) / sizes
    return steps, values


def _with_gaps(rows: Sequence[Mapping[str, Any]], key: str, part_of: Callable[[int], int]) -> tuple[np.ndarray, np.ndarray]:
    """As `_series`, with a gap between phases that `part_of` gives other numbers: no line should lead from one to the other."""
    parts: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        if key in row:
            parts.setdefault(part_of(row.get('phase', 0)), []).append(row)
    gap = (np.array([math.nan]), np.array([math.nan]))
    drawn = [piece for part in parts.values() for piece in (gap, _series(part, key))][1:]
    return np.concatenate([steps for steps, _ in drawn]), np.concatenate([values for _, values in drawn])


def _smooth(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A centred running mean over about a twentieth of the curve, narrower at its ends and where a gap of `_with_gaps` is."""
    gaps = np.flatnonzero(np.isnan(steps))
    if len(gaps):
        parts = zip(np.split(steps, gaps), np.split(values, gaps), strict=True)
        first, *others = [(s[k > 0 :], v[k > 0 :]) for k, (s, v) in enumerate(parts)]
        return np.concatenate([_smooth(*first), *(part for s, v in others for part in ([math.nan], _smooth(s, v)))])
    reach = max(len(values) // 40, 1)
    windows = (values[max(i - reach, 0) : i + reach + 1] for i in range(len(values)))
    finite = (window[np.isfinite(window)] for window in windows)
    return np.array([window.mean() if window.size else math.nan for window in finite])


def phase_starts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[float, str]]:
    """The step before the first row of each phase, with the phase's name, in order."""
    starts: dict[int, tuple[float, str]] = {}
    last = 0.0
    for row in sorted(rows, key=lambda row: row['step']):
        phase = row.get('phase', 0)
        if phase not in starts:
            starts[phase] = (last, str(row.get('phase_name', '') or f'phase {phase}'))
        last = float(row['step'])
    return list(starts.values())


def _mark_phases(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Every other phase on a faint ground, its name above where there is room."""
    if not rows:
        return
    starts, first, end = phase_starts(rows), 0.0, float(max(row['step'] for row in rows))
    axes.set_xlim(first, max(end * 1.01, 1.0))
    if len(starts) < 2:
        return
    ends = [step for step, _ in starts[1:]] + [end]
    for i, ((start, name), stop) in enumerate(zip(starts, ends, strict=True)):
        if i % 2:
            axes.axvspan(start, stop, color='#000000', alpha=0.035, linewidth=0)
        if i:
            axes.axvline(start, color=SOFT, linewidth=0.8, linestyle=(0, (2, 2)))
        room = int((stop - start) / max(end, 1.0) * 62)  # letters, about
        if room >= 2:
            text = name if len(name) <= room else name[: room - 1] + '…'
            axes.text((start + stop) / 2, 1.01, literal(text), transform=axes.get_xaxis_transform(), ha='center', va='bottom', fontsize=8)


def _log_axis(axes: Any) -> None:
    """A logarithmic axis with plain numbers, over four decades at most: a cosine's way to zero is no news."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale('log')
    low, high = axes.get_ylim()
    axes.set_ylim(bottom=max(low, high / 1e4))
    decades = math.log10(high / max(low, high / 1e4))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if decades > 2 else (1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(lambda value, _: rate(value))
    axes.yaxis.set_minor_formatter(NullFormatter())


def curves(
    rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, float] | None = None, tasks: Sequence[str] = ()
) -> list[tuple[str, str]]:
    """Training over steps, from the rows of metrics.jsonl.

    Args:
      rows: as `jtl.report.logs.read_rows` gives them.
      baseline: constant-guess values of the last phase's task by row name ('validation/accuracy'), drawn dashed.
      tasks: of each phase; lines break where another one begins, for its loss and accuracy are other figures. (): one and the same.

    Returns:
      (caption, data URI) of the loss, each kind of evaluation metric, the learning rates and the gradient norm, those of which there are rows.
    """
    draw = partial(_curve, rows, changes=[sum(a != b for a, b in pairwise(tasks[: k + 1])) for k in range(len(tasks))])
    baseline = baseline or {}
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ('step', 'phase', 'phase_name')))
    evaluated = [key for key in keys if key.count('/') == 1 and key.partition('/')[0] not in ('train', 'lr')]
    losses = [key for key in keys if key == 'train/loss'] + [key for key in evaluated if key.endswith('/loss')]
    drawn = [('Loss', draw(losses, 'loss', baseline))] if losses else []
    shares = [key for key in evaluated if is_share(key) and not key.endswith('/ece')]
    if shares:
        drawn.append(('Evaluation metrics', draw(shares[:5], 'percent', baseline)))
    others = [key for key in evaluated if not is_share(key) and not key.endswith(('/loss', '/nll'))]
    for name in list(dict.fromkeys(key.rpartition('/')[2] for key in others))[:4]:
        drawn.append((name, draw([key for key in others if key.rpartition('/')[2] == name], name, baseline)))
    rates = [key for key in keys if key.startswith('lr/')]
    if rates:
        drawn.append(('Learning rate of each group', draw(rates, 'learning rate', {}, log=True)))
    if 'grad_norm' in keys:
        drawn.append(('Gradient norm over what trains, before clipping', draw(['grad_norm'], 'gradient norm', {}, log=True)))
    return drawn


def _curve(
    rows: Sequence[Mapping[str, Any]],
    keys: Sequence[str],
    unit: str,
    baseline: Mapping[str, float],
    log: bool = False,
    changes: Sequence[int] = (),
) -> str:
    """One picture; `changes` counts for each phase how often the task has changed until then."""

    def part_of(phase: int) -> int:
        return changes[phase] if phase < len(changes) else 0

    with picture(5.4, 3.1) as drawn:
        axes = drawn.figure.add_subplot()
        scale = 100.0 if unit == 'percent' else 1.0
        last = [row['step'] for row in rows if part_of(row.get('phase', 0)) == max(changes, default=0)]
        for key, (colour, label) in zip(keys, _inks([literal(key.removeprefix('lr/')) for key in keys]), strict=True):
            # A schedule starts again with each phase.
            steps, values = _with_gaps(rows, key, int if key.startswith('lr/') else part_of)
            if log:
                values = np.where(values > 0, values, math.nan)  # a rate of zero has no place on a log axis
            marker = 'o' if len(steps) <= 40 else None
            if key in ('train/loss', 'grad_norm') and len(steps) > 60:
                axes.plot(steps, scale * values, color=colour, alpha=0.3, linewidth=0.7)
                axes.plot(steps, scale * _smooth(steps, values), color=colour, linewidth=1.6, label=label)
            else:
                axes.plot(steps, scale * values, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
            if baseline.get(key) is not None and math.isfinite(baseline[key]) and last:
                line = f'constant guess {number(key, baseline[key])}'
                ends = [last[0] if max(changes, default=0) else 0, last[-1]]
                axes.plot(ends, [scale * baseline[key]] * 2, color=colour, linewidth=1, linestyle=(0, (4, 3)), label=line)
        if log:
            _log_axis(axes)
        axes.set_xlabel('step')
        axes.set_ylabel(unit)
        _mark_phases(axes, rows)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            drawn.figure.legend(loc='outside lower center', ncols=3, labelcolor=SOFT, handlelength=1.6, columnspacing=1.4)
    return drawn.uri


def _inks(labels: Sequence[str]) -> list[tuple[Any, str | None]]:
    """Colour and legend entry of each line; of many lines (a rate for each stage) shades in order, and the ends named."""
    if len(labels) <= len(COLOURS):
        return list(zip(COLOURS, labels, strict=False))
    from matplotlib import colormaps

    shades = colormaps['viridis'](np.linspace(0, 0.9, len(labels)))
    named = {0, len(labels) // 2, len(labels) - 1}
    return [(tuple(shade), label if i in named else None) for i, (shade, label) in enumerate(zip(shades, labels, strict=True))]
