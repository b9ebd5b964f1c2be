"""Pictures for reports, each a data URI: curves, confusion, reliability, scatter, plan and comparison.

Everything is drawn with matplotlib's object-oriented API on the Agg canvas, nothing touches pyplot's global state, and the same input gives
the same bytes. Colours are those of Okabe and Ito, told apart with any colour vision.
"""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from jtl.report.format import count, is_fraction, number, rate

BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW = '#0072b2', '#e69f00', '#009e73', '#cc79a7', '#56b4e9', '#d55e00', '#b8a800'
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, YELLOW)
INK, SOFT, FAINT = '#1b1f24', '#5b6570', '#dde2e7'
LIMIT = 150_000  # characters of a data URI
_POINTS = 400  # of one curve: more cannot be told apart at this size

_STYLE = {
    'font.family': ['DejaVu Sans'],  # comes with matplotlib: the same picture everywhere
    'font.size': 9,
    'axes.edgecolor': SOFT,
    'axes.labelcolor': SOFT,
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'axes.grid': True,
    'axes.axisbelow': True,
    'grid.color': FAINT,
    'grid.linewidth': 0.6,
    'text.color': INK,
    'xtick.color': SOFT,
    'ytick.color': SOFT,
    'legend.frameon': False,
    'legend.fontsize': 8,
    'svg.hashsalt': 'jtl',  # element ids that do not change from run to run
    'svg.fonttype': 'path',
}


class Picture:
    """A figure being drawn, and its data URI once the `with` block of `picture` has ended."""

    def __init__(self, figure: Any) -> None:
        self.figure, self.uri = figure, ''


@contextmanager
def picture(width: float, height: float) -> Iterator[Picture]:
    """A matplotlib figure of `width` x `height` inches in the house style; `.uri` is set on leaving."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        drawn = Picture(Figure(figsize=(width, height), layout='constrained'))
        yield drawn
        drawn.uri = _uri(drawn.figure)


def _uri(figure: Any) -> str:
    """An SVG as a data URI, or a PNG where the SVG would be large."""
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None, 'Creator': None, 'Format': None, 'Type': None})
    svg = re.sub(r'<\?xml.*?\?>\s*<!DOCTYPE.*?>\s*', '', buffer.getvalue(), count=1, flags=re.DOTALL)
    uri = 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()
    for dpi in (144, 100, 72):
        if len(uri) <= LIMIT:
            break
        png = io.BytesIO()
        figure.savefig(png, format='png', dpi=dpi, facecolor='white')
        uri = 'data:image/png;base64,' + base64.b64encode(png.getvalue()).decode()
    return uri


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


def _smooth(values: np.ndarray) -> np.ndarray:
    """A centred running mean over about a twentieth of the curve, narrower at its ends."""
    reach = max(len(values) // 40, 1)
    return np.array([values[max(i - reach, 0) : i + reach + 1].mean() for i in range(len(values))])


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
            axes.text((start + stop) / 2, 1.01, _literal(text), transform=axes.get_xaxis_transform(), ha='center', va='bottom', fontsize=8)


def _literal(text: str) -> str:
    """A name as it is: matplotlib reads dollar signs as mathematics."""
    return text.replace('$', r'\$')


def curves(rows: Sequence[Mapping[str, Any]], baseline: Mapping[str, float] | None = None) -> list[tuple[str, str]]:
    """Training over steps, from the rows of metrics.jsonl.

    Args:
      rows: as `jtl.report.logs.read_rows` gives them.
      baseline: constant-guess values by row name ('validation/accuracy'), drawn dashed.

    Returns:
      (caption, data URI) of the loss, each kind of evaluation metric, the learning rates and the gradient norm, those of which there are rows.
    """
    baseline = baseline or {}
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in ('step', 'phase', 'phase_name')))
    evaluated = [key for key in keys if '/' in key and key.partition('/')[0] not in ('train', 'lr')]
    losses = [key for key in keys if key == 'train/loss'] + [key for key in evaluated if key.endswith('/loss')]
    drawn = [('Loss', _curve(rows, losses, 'loss', baseline))] if losses else []
    shares = [key for key in evaluated if is_fraction(key) and not key.endswith('/ece')]
    if shares:
        drawn.append(('Evaluation metrics', _curve(rows, shares[:5], 'percent', baseline)))
    others = [key for key in evaluated if not is_fraction(key) and not key.endswith(('/loss', '/nll'))]
    for name in list(dict.fromkeys(key.rpartition('/')[2] for key in others))[:4]:
        drawn.append((name, _curve(rows, [key for key in others if key.rpartition('/')[2] == name], name, baseline)))
    rates = [key for key in keys if key.startswith('lr/')]
    if rates:
        drawn.append(('Learning rate of each group', _curve(rows, rates, 'learning rate', {}, log=True)))
    if 'grad_norm' in keys:
        drawn.append(('Gradient norm over what trains, before clipping', _curve(rows, ['grad_norm'], 'gradient norm', {}, log=True)))
    return drawn


def _curve(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], unit: str, baseline: Mapping[str, float], log: bool = False) -> str:
    with picture(5.4, 2.9) as drawn:
        axes = drawn.figure.add_subplot()
        scale = 100.0 if unit == 'percent' else 1.0
        shown = keys[: 2 * len(COLOURS)]
        for i, key in enumerate(shown):
            steps, values = _series(rows, key)
            if log:
                values = np.where(values > 0, values, math.nan)  # a rate of zero has no place on a log axis
            colour, style = COLOURS[i % len(COLOURS)], '-' if i < len(COLOURS) else '--'
            label = _literal(key.removeprefix('lr/'))
            marker = 'o' if len(steps) <= 40 else None
            if key in ('train/loss', 'grad_norm') and len(steps) > 60:
                axes.plot(steps, scale * values, color=colour, alpha=0.3, linewidth=0.7)
                axes.plot(steps, scale * _smooth(values), color=colour, linewidth=1.6, label=label)
            else:
                axes.plot(steps, scale * values, style, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
            if baseline.get(key) is not None and math.isfinite(baseline[key]):
                line = f'majority {number(key, baseline[key])}' if unit == 'percent' else f'baseline {number(key, baseline[key])}'
                axes.axhline(scale * baseline[key], color=colour, linewidth=1, linestyle=(0, (4, 3)), label=f'{label}: {line}')
        if log:
            axes.set_yscale('log')
        axes.set_xlabel('step')
        axes.set_ylabel(unit)
        _mark_phases(axes, rows)
        if len(shown) > 1 or baseline or len(keys) > 1:
            columns = 1 if len(shown) <= 8 else 2
            axes.legend(loc='best', ncols=columns, labelcolor=SOFT, handlelength=1.6, borderaxespad=0.3, labelspacing=0.3)
    return drawn.uri


def confusion_plot(counts: np.ndarray, labels: Sequence[str]) -> str:
    """A (K, K) matrix of counts, rows the true class: colour is the share of the row, counts are written where they can be read."""
    k = len(labels)
    side = float(np.clip(2.2 + 0.42 * k, 3.6, 9.0))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = float(np.clip(300 / k, 4.5, 9))
    with picture(side + 0.9, side) as drawn:
        axes = drawn.figure.add_subplot()
        image = axes.imshow(share, cmap='Blues', vmin=0, vmax=1, interpolation='nearest')
        axes.grid(False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if k <= 30:
            for i, j in np.argwhere(counts > 0):
                ink = 'white' if share[i, j] > 0.55 else INK
                axes.text(j, i, f'{counts[i, j]}', ha='center', va='center', color=ink, fontsize=min(size, 8.5) if k <= 20 else 6)
        every = math.ceil(k / 60)  # of more classes the names of every second or third
        places = range(0, k, every)
        names = [_literal(_short(labels[i], 22)) for i in places]
        flat = k <= 12 and max(len(name) for name in names) <= 5
        axes.set_xticks(places, names, rotation=0 if flat else 90, fontsize=size)
        axes.set_yticks(places, names, fontsize=size)
        axes.tick_params(length=0)
        axes.set_xlabel('predicted')
        axes.set_ylabel('true')
        bar = drawn.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, format=lambda x, _: f'{100 * x:.0f} %')
        bar.outline.set_visible(False)
        bar.ax.tick_params(length=0, labelsize=7)
        bar.set_label('share of the true class', fontsize=7)
    return drawn.uri


def reliability_plot(bins: Sequence[Mapping[str, Any]], ece: float) -> str:
    """Accuracy against confidence from the bars of `jtl.tasks.metrics.reliability`, with how many predictions each bar holds below."""
    with picture(5.0, 4.2) as drawn:
        upper, lower = drawn.figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        left, width = [b['lower'] for b in bins], [b['upper'] - b['lower'] for b in bins]
        accuracy, confidence = [b['accuracy'] for b in bins], [b['confidence'] for b in bins]
        style = {'align': 'edge', 'edgecolor': 'white', 'linewidth': 0.8}
        upper.bar(left, accuracy, width, color=SKY, label='accuracy', **style)
        upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label='perfectly calibrated')
        upper.plot(confidence, accuracy, 'o', color=BLUE, markersize=4, label='mean confidence of the bar')
        upper.set(ylabel='accuracy', ylim=(0, 1.02), xlim=(0, 1))
        upper.legend(loc='upper left', labelcolor=SOFT)
        upper.text(0.98, 0.05, f'calibration error {100 * ece:.1f} %', transform=upper.transAxes, ha='right', color=INK)
        lower.bar(left, [b['count'] for b in bins], width, color=SOFT, alpha=0.7, **style)
        lower.set(xlabel='confidence (probability of the prediction)', ylabel='predictions')
        lower.ticklabel_format(axis='y', style='plain')
    return drawn.uri


def scatter_plot(predicted: np.ndarray, true: np.ndarray, name: str = '') -> str:
    """Predicted against true values, (N,) each, with the line of perfect prediction."""
    finite = np.isfinite(predicted) & np.isfinite(true)
    predicted, true = predicted[finite], true[finite]
    with picture(4.8, 4.4) as drawn:
        axes = drawn.figure.add_subplot()
        many = len(true) > 400
        axes.scatter(true, predicted, s=6 if many else 14, color=BLUE, alpha=0.3 if many else 0.55, linewidths=0, rasterized=many)
        if len(true):
            ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
            axes.plot(ends, ends, color=SOFT, linewidth=1, linestyle=(0, (4, 3)), label='predicted = true')
            axes.legend(loc='upper left', labelcolor=SOFT)
        axes.set(xlabel=_literal(f'true {name}'.strip()), ylabel=_literal(f'predicted {name}'.strip()))
    return drawn.uri


def plan_plot(stages: Sequence[str], phases: Sequence[str], rates: np.ndarray, trained: np.ndarray, totals: np.ndarray) -> str:
    """What trains when: a strip of stages (rows) by phases (columns), coloured by learning rate, grey where frozen.

    Args:
      stages: S row names, the input first.
      phases: P column names.
      rates: (S, P) highest learning rate of the stage in the phase; NaN where nothing of it trains.
      trained: (S, P) parameters that train.
      totals: (S,) parameters of the stage.
    """
    from matplotlib.colors import LogNorm

    rows, columns = rates.shape
    positive = rates[np.isfinite(rates) & (rates > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1e-3, 1e-3)
    norm = LogNorm(low / 3, high * 2)  # away from the ends: neither white nor black
    size = 8 if rows <= 30 else 6
    with picture(float(np.clip(2.4 + 1.5 * columns, 4.5, 11)), 0.9 + (0.27 if rows <= 30 else 0.17) * rows) as drawn:
        axes = drawn.figure.add_subplot()
        axes.set_facecolor('#eceff2')
        shown = np.ma.masked_invalid(np.where(rates > 0, rates, math.nan))
        image = axes.imshow(shown, cmap='YlGnBu', norm=norm, aspect='auto', interpolation='nearest')
        axes.grid(False)
        axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
        axes.grid(which='minor', color='white', linewidth=1.5)
        axes.tick_params(which='both', length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        for i in range(rows):
            for j in range(columns):
                frozen = trained[i, j] == 0
                part = '' if trained[i, j] == totals[i] else f' of {count(totals[i])}'
                text = '–' if totals[i] == 0 else 'frozen' if frozen else f'{count(trained[i, j])}{part}'
                if columns <= 10:
                    dark = not frozen and rates[i, j] > 0 and norm(rates[i, j]) > 0.5
                    axes.text(j, i, text, ha='center', va='center', fontsize=size - 1, color='white' if dark else SOFT if frozen else INK)
        axes.set_xticks(range(columns), [_literal(_short(name, 20)) for name in phases], fontsize=size, rotation=0 if columns <= 6 else 30)
        axes.xaxis.tick_top()
        axes.set_yticks(range(rows), [_literal(_short(name, 28)) for name in stages], fontsize=size)
        if positive.size:
            ticks = sorted(set(np.unique(positive).tolist())) if len(np.unique(positive)) <= 6 else None
            bar = drawn.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, ticks=ticks, format=lambda x, _: rate(x))
            bar.outline.set_visible(False)
            bar.ax.tick_params(length=0, labelsize=7)
            bar.ax.minorticks_off()
            bar.set_label('highest learning rate', fontsize=7)
    return drawn.uri


def compare_plot(values: Mapping[str, Sequence[float]], metric: str) -> str:
    """For each recipe every seed as a dot, the mean as a line, and one standard deviation each side of it."""
    with picture(7.0, 0.9 + 0.5 * max(len(values), 1)) as drawn:
        axes = drawn.figure.add_subplot()
        scale = 100.0 if is_fraction(metric) else 1.0
        for i, (_, seeds) in enumerate(values.items()):
            x = scale * np.asarray(seeds, np.float64)
            colour, y = COLOURS[i % len(COLOURS)], len(values) - 1 - i
            mean, std = x.mean(), x.std(ddof=1) if len(x) > 1 else 0.0
            axes.barh(y, 2 * std, left=mean - std, height=0.42, color=colour, alpha=0.18, linewidth=0)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color=colour, linewidth=2.4, solid_capstyle='butt')
            jitter = 0.12 * ((np.arange(len(x)) % 3) - 1) if len(x) > 2 else np.zeros(len(x))
            axes.plot(x, y + jitter, 'o', color=colour, markersize=4.5, markeredgecolor='white', markeredgewidth=0.6)
        axes.set_yticks(range(len(values)), [_literal(_short(name, 28)) for name in reversed(values)], fontsize=9)
        axes.set(xlabel=metric + (' (percent)' if scale == 100 else ''), ylim=(-0.6, len(values) - 0.4))
        axes.grid(axis='y', visible=False)
    return drawn.uri


def paired_plot(paired: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """For each pair 'a - b' the mean difference with its 95 % interval against zero, and the difference of every seed."""
    with picture(7.0, 0.9 + 0.45 * max(len(paired), 1)) as drawn:
        axes = drawn.figure.add_subplot()
        scale = 100.0 if is_fraction(metric) else 1.0
        axes.axvline(0, color=INK, linewidth=1)
        for i, entry in enumerate(paired.values()):
            y, mean = len(paired) - 1 - i, scale * entry['mean']
            axes.plot(scale * np.asarray(entry.get('values', ())), [y] * len(entry.get('values', ())), 'o', color=SOFT, alpha=0.45, markersize=4)
            if entry.get('ci95'):
                low, high = (scale * end for end in entry['ci95'])
                axes.plot([low, high], [y, y], color=BLUE, linewidth=2.4, solid_capstyle='butt')
            axes.plot(mean, y, 'D', color=BLUE, markersize=6, markeredgecolor='white', markeredgewidth=0.8)
        axes.set_yticks(range(len(paired)), [_literal(_short(name, 34)) for name in reversed(paired)], fontsize=9)
        axes.set(xlabel=f'difference in {metric}' + (' (points)' if scale == 100 else ''), ylim=(-0.6, len(paired) - 0.4))
        axes.grid(axis='y', visible=False)
    return drawn.uri


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + '…'
