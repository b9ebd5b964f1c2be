"""Pictures of results and plans, each a data URI: confusion, reliability, scatter, lengths, plan and comparison."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.report.canvas import BLUE, COLOURS, INK, SKY, SOFT, literal, picture, short
from jtl.report.format import count, is_share, rate


def confusion_plot(counts: np.ndarray, labels: Sequence[str]) -> str:
    """A (K, K) matrix of counts, rows the true class: colour is the share of the row, counts are written where they can be read."""
    k = len(labels)
    side = float(np.clip(1.9 + 0.34 * k, 3.4, 9.0))
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
                written = f'{counts[i, j]}' if counts[i, j] < 10_000 else count(counts[i, j])
                axes.text(j, i, written, ha='center', va='center', color=ink, fontsize=min(size, 8.5) if k <= 20 else 6)
        every = math.ceil(k / 60)  # of more classes the names of every second or third
        places = range(0, k, every)
        names = [short(labels[i], 22) for i in places]
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
        upper.set_title(f'calibration error {100 * ece:.1f} %', loc='right', fontsize=9)
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
        axes.set(xlabel=literal(f'true {name}'.strip()), ylabel=literal(f'predicted {name}'.strip()))
    return drawn.uri


def length_plot(lengths: np.ndarray, buckets: Sequence[int]) -> str:
    """How many texts, (N,) token counts, have which length; `buckets`, ascending, as dashed lines with their number."""
    longest = int(max(lengths.max(), *buckets)) if buckets else int(lengths.max())
    width = math.ceil(longest / 60)  # a bar for each length, or for a few
    edges = np.arange(0, longest + width, width) + 0.5
    with picture(7.0, 2.6) as drawn:
        axes = drawn.figure.add_subplot()
        axes.hist(lengths, edges, color=SKY, edgecolor='white', linewidth=0.4)
        for bucket in buckets:
            axes.axvline(bucket + 0.5, color=SOFT, linewidth=1, linestyle=(0, (4, 3)))
            axes.text(bucket + 0.5, 1.01, f'{bucket:,}', transform=axes.get_xaxis_transform(), ha='center', va='bottom', fontsize=8)
        axes.set(xlabel='tokens', ylabel='texts', xlim=(0, longest * 1.01 + 0.5))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis='x', visible=False)
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
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    rows, columns = rates.shape
    positive = rates[np.isfinite(rates) & (rates > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (1e-3, 1e-3)
    span = max(high / low, 10.0)
    norm = LogNorm(low / span**0.6, high * span**0.1)  # away from the ends: the lowest rate is still no white
    size = 8 if rows <= 30 else 6
    with picture(float(np.clip(2.4 + 1.5 * columns, 4.5, 11)), 0.9 + (0.27 if rows <= 30 else 0.17) * rows) as drawn:
        axes = drawn.figure.add_subplot()
        shown = np.ma.masked_invalid(np.where(rates > 0, rates, math.nan))
        image = axes.imshow(shown, cmap=colormaps['YlGnBu'].with_extremes(bad='#eceff2'), norm=norm, aspect='auto', interpolation='nearest')
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
        axes.set_xticks(range(columns), [short(name, 20) for name in phases], fontsize=size, rotation=0 if columns <= 6 else 30)
        axes.xaxis.tick_top()
        axes.set_yticks(range(rows), [short(name, 28) for name in stages], fontsize=size)
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
        axes.use_sticky_edges = False  # else the plot ends where the lowest band begins, through its dot
        scale = 100.0 if is_share(metric) else 1.0
        for i, (_, seeds) in enumerate(values.items()):
            x = scale * np.asarray(seeds, np.float64)
            colour, y = COLOURS[i % len(COLOURS)], len(values) - 1 - i
            mean, std = x.mean(), x.std(ddof=1) if len(x) > 1 else 0.0
            axes.barh(y, 2 * std, left=mean - std, height=0.42, color=colour, alpha=0.18, linewidth=0)
            axes.plot([mean, mean], [y - 0.3, y + 0.3], color=colour, linewidth=2.4, solid_capstyle='butt')
            jitter = 0.12 * ((np.arange(len(x)) % 3) - 1) if len(x) > 2 else np.zeros(len(x))
            axes.plot(x, y + jitter, 'o', color=colour, markersize=4.5, markeredgecolor='white', markeredgewidth=0.6)
        axes.set_yticks(range(len(values)), [short(name, 28) for name in reversed(list(values))], fontsize=9)
        axes.set(xlabel=metric + (' (percent)' if scale == 100 else ''), ylim=(-0.6, len(values) - 0.4))
        axes.grid(axis='y', visible=False)
    return drawn.uri


def paired_plot(paired: Mapping[str, Mapping[str, Any]], metric: str) -> str:
    """For each pair 'a - b' the mean difference with its 95 % interval against zero, and the difference of every seed."""
    with picture(7.0, 0.9 + 0.45 * max(len(paired), 1)) as drawn:
        axes = drawn.figure.add_subplot()
        scale = 100.0 if is_share(metric) else 1.0
        axes.axvline(0, color=INK, linewidth=1)
        for i, entry in enumerate(paired.values()):
            y, mean = len(paired) - 1 - i, scale * entry['mean']
            axes.plot(
                scale * np.asarray(entry.get('values', ())),
                [y - 0.22] * len(entry.get('values', ())),
                'o',
                color=SOFT,
                alpha=0.6,
                markersize=4,
            )
            if entry.get('ci95'):
                low, high = (scale * end for end in entry['ci95'])
                axes.plot([low, high], [y, y], color=BLUE, linewidth=2.4, solid_capstyle='butt')
            axes.plot(mean, y, 'D', color=BLUE, markersize=6, markeredgecolor='white', markeredgewidth=0.8)
        axes.set_yticks(range(len(paired)), [short(name, 34) for name in reversed(list(paired))], fontsize=9)
        axes.set(xlabel=f'difference in {metric}' + (' (points)' if scale == 100 else ''), ylim=(-0.6, len(paired) - 0.4))
        axes.grid(axis='y', visible=False)
    return drawn.uri
