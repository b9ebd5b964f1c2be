"""Batches of texts of similar length, so that little of a batch is filling.

An order by length is again an order (see `jtl.data.sampling`): an endless sequence with random access, of which batch k of size B are the
places k * B to (k + 1) * B. It holds what the order below it holds, window by window of at most `WINDOW` batches; within a window batches
are made of neighbours in length, and come in a shuffled order. So an epoch has every example once, as before, and what a batch holds is a
function of (order, seed, k, B, lengths): any host knows it without the others.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

WINDOW = 64
"""Batches that are sorted by length together."""


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

    def __call__(self, first: int, count: int) -> np.ndarray:
        """Positions (count,) int32 at `first`, `first + 1`, ...; `order(k * batch_size, batch_size)` is batch k."""
        raise NotImplementedError


def evaluation_order(lengths: np.ndarray) -> np.ndarray:
    """Positions (N,) int32, longest first, so that what needs the most memory comes at once; among equals in order."""
    return np.argsort(-np.asarray(lengths, np.int64), kind='stable').astype(np.int32)
