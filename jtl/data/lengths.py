"""Batches of texts of similar length, so that little of a batch is filling.

An order by length is again an order (see `jtl.data.sampling`): an endless sequence with random access, of which batch k of size B are the
places k * B to (k + 1) * B. It holds what the order below it holds, window by window of at most `WINDOW` batches; within a window batches
are made of neighbours in length, and come in a shuffled order. So an epoch has every example once, as before, and what a batch holds is a
function of (order, seed, k, B, lengths): any host knows it without the others.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

WINDOW = 64
"""Batches that are sorted by length together, unless an epoch has fewer."""


@dataclass(frozen=True, eq=False)
class LengthOrder:
    """An order whose batches hold texts of similar length.

    Attributes:
      lengths: (N,) tokens of each example.
      drawn: the order below: `(first, count) -> (count,)` positions.
      seed: of the order of batches in a window.
      batch_size: of the global batch.
    """

    lengths: np.ndarray
    drawn: Callable[[int, int], np.ndarray]
    seed: int
    batch_size: int

    @property
    def window(self) -> int:
        """Places of a window."""
        return self.batch_size * min(WINDOW, max(1, len(self.lengths) // self.batch_size))

    def __call__(self, first: int, count: int) -> np.ndarray:
        """Positions (count,) int32 at `first`, `first + 1`, ...; `order(k * batch_size, batch_size)` is batch k."""
        windows = range(first // self.window, (first + count - 1) // self.window + 1)
        if not windows:
            return np.zeros(0, np.int32)
        return np.concatenate([_window(self, number) for number in windows])[first - windows[0] * self.window :][:count]


def evaluation_order(lengths: np.ndarray) -> np.ndarray:
    """Positions (N,) int32, longest first, so that what needs the most memory comes at once; equals as they stand."""
    return np.argsort(-np.asarray(lengths, np.int64), kind='stable').astype(np.int32)


@lru_cache(maxsize=4)  # a window is read batch by batch, and batches are read ahead
def _window(order: LengthOrder, number: int) -> np.ndarray:
    """The positions (window,) int32 of one window."""
    drawn = order.drawn(number * order.window, order.window)
    batches = drawn[np.argsort(order.lengths[drawn], kind='stable')].reshape(-1, order.batch_size).astype(np.int32)
    _part_twins(batches, order.lengths)
    # Five numbers: no order of examples is seeded so (see jtl.data.sampling).
    shuffled = np.random.default_rng([abs(order.seed), int(order.seed < 0), number, 0, 1]).permutation(len(batches))
    return batches[shuffled].ravel()


def _part_twins(batches: np.ndarray, lengths: np.ndarray) -> None:
    """Sees to it, in place, that an example drawn m times (a window may lie across two epochs) is at most ceil(m / V) times in one of V batches.

    One too many changes places with an example of nearly its length out of the nearest batch that may take it.
    """
    examples, times = np.unique(batches, return_counts=True)
    allowed = {example: math.ceil(m / len(batches)) for example, m in zip(examples.tolist(), times.tolist(), strict=True) if m > 1}
    for row, batch in enumerate(batches):
        for place in _surplus(batch, allowed):
            twin = int(batch[place])
            rooms = np.flatnonzero(np.count_nonzero(batches == twin, axis=1) < allowed[twin])
            for other in rooms[np.argsort(np.abs(rooms - row), kind='stable')]:
                strange = np.flatnonzero(~np.isin(batches[other], batch))
                if len(strange):
                    gap = np.abs(lengths[batches[other, strange]].astype(np.int64) - int(lengths[twin]))
                    swapped = strange[np.argmin(gap)]
                    batch[place], batches[other, swapped] = batches[other, swapped], twin
                    break


def _surplus(batch: np.ndarray, allowed: dict[int, int]) -> list[int]:
    """Places in a batch of what it holds more often than allowed."""
    seen: Counter[int] = Counter()
    places = []
    for place, example in enumerate(batch.tolist()):
        seen[example] += 1
        if seen[example] > allowed.get(example, 1):
            places.append(place)
    return places
