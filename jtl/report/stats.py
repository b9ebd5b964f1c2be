"""Is one recipe better than another? Paired by seed, because runs of one seed share data, order and initial head."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jtl.report.format import difference, plural


class PairedDifference(NamedTuple):
    """The mean of paired differences with its 95 % interval; `low` and `high` are None where one pair alone allows no interval."""

    mean: float
    low: float | None
    high: float | None
    values: tuple[float, ...]

    def as_json(self, metric: str) -> dict[str, Any]:
        """What comparison.json holds of it."""
        ci95 = None if self.low is None else [self.low, self.high]
        return {'metric': metric, 'mean': self.mean, 'ci95': ci95, 'values': list(self.values)}


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """`a - b` pair by pair, and Student's 95 % t interval of its mean, mean +- t(0.975, n - 1) s / sqrt(n).

    Args:
      a: one figure a seed.
      b: the figures of the other recipe for the same seeds in the same order.

    Raises:
      ValueError: the two differ in length, or are empty.
    """
    if len(a) != len(b) or not a:
        raise ValueError(f'Paired figures need two lists of one length, at least 1: found {len(a)} and {len(b)}.')
    values = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    mean, n = float(values.mean()), len(values)
    pairs = tuple(float(v) for v in values)
    if n < 2:
        return PairedDifference(mean, None, None, pairs)
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * float(values.std(ddof=1)) / math.sqrt(n)
    return PairedDifference(mean, mean - half, mean + half, pairs)


def spread(values: Sequence[float]) -> dict[str, Any]:
    """`{'mean', 'std', 'values'}` of one figure over seeds; the standard deviation is the sample's (n - 1), 0 for a single value."""
    array = np.asarray(values, np.float64)
    std = float(array.std(ddof=1)) if len(array) > 1 else 0.0
    return {'mean': float(array.mean()), 'std': std, 'values': [float(v) for v in array]}


def verdict(comparison: Mapping[str, Any]) -> list[str]:
    """A plain sentence for each pair of a comparison (the content of comparison.json), negative transfer called by its name.

    A pair is named 'a - b'. Negative transfer: `scratch` beats a transfer recipe, with the whole interval on its side.
    """
    maximize = comparison.get('maximize', True)
    sentences = []
    for pair, entry in comparison.get('paired', {}).items():
        a, _, b = pair.partition(' - ')
        metric, mean, ci95, n = entry['metric'], entry['mean'], entry.get('ci95'), len(entry.get('values', ()))
        gain = mean if maximize else -mean
        first, second = (a, b) if gain >= 0 else (b, a)
        size = difference(metric, abs(mean), sign=False)
        if ci95 is None:
            sentences.append(f'{first} is ahead of {second} by {size} on {metric}, on one seed alone: no interval can be given.')
            continue
        low, high = ci95
        interval = f'95 % interval {difference(metric, low, unit=False)} to {difference(metric, high)}, {plural(n, "seed")}'
        if low <= 0 <= high:
            sentences.append(f'{a} and {b} cannot be told apart on {metric}: {a} - {b} is {difference(metric, mean)} ({interval}).')
        elif first == 'scratch':
            sentences.append(
                f'Negative transfer: {second} is worse than training from scratch by {size} on {metric} ({a} - {b}: {interval}). '
                'The pretrained weights hurt here.'
            )
        else:
            sentences.append(f'{first} is better than {second} by {size} on {metric} ({a} - {b}: {interval}).')
    return sentences
