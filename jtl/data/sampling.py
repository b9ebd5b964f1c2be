"""The order in which training examples are drawn: as the data have them, or so that rare classes come as often as common ones.

An order is an endless sequence of positions in the split with random access: what lies at a place is a function of (split, seed,
place) and of nothing else.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from jtl.data.base import Data
from jtl.data.select import has_classes, label_counts, what_instead
from jtl.errors import UserError, did_you_mean

SAMPLINGS = {'natural': 1.0, 'sqrt': 0.5, 'balanced': 0.0}
"""`data.sampling`: a class of n training examples is drawn in proportion to n to this power."""


def class_counts(data: Data) -> tuple[int, ...] | None:
    """The number of training examples (of words, where these have tags) of each class, in the order of labels; None for data without classes."""
    targets = data.splits['train'].targets
    return label_counts(targets, data.labels) if targets.dtype.kind == 'i' else None


def check_sampling(data: Data, sampling: str) -> None:
    """UserError for an unknown sampling, or one that these data cannot have."""
    if sampling not in SAMPLINGS:
        raise UserError(f'data.sampling: there is no {sampling!r}. {did_you_mean(str(sampling), SAMPLINGS)}')
    if sampling != 'natural' and not has_classes(data):
        raise UserError(f"data.sampling={sampling!r}: these data have no classes ({what_instead(data)}). Set data.sampling='natural'.")


def order(n: int, seed: int, first: int, count: int, stream: int = 0) -> np.ndarray:
    """Positions (count,) in a split of `n` that the endless, shuffled sequence holds at `first`, `first + 1`, ...

    Every n places, from a multiple of n on, are a permutation. Sequences of another `stream` are drawn apart.
    """
    epochs = range(first // n, (first + count - 1) // n + 1)
    if not epochs:
        return np.zeros(0, np.int32)
    whole = np.concatenate([_permutation(n, seed, epoch, stream) for epoch in epochs])
    return whole[first - epochs[0] * n :][:count].astype(np.int32)


@dataclass(frozen=True, eq=False)
class ClassOrder:
    """An order that draws classes in given proportions, and within each class its examples in permutation after permutation.

    It comes in rounds of about as many places as there are examples. Each round has the same number of places for a class (its
    quota), shuffled; so how often a class was drawn before a place is known without counting, and with it which of its examples is next.

    Attributes:
      members: the positions in the split of each class that occurs.
      quotas: places of each of them in a round, at least 1.
      seed: of the order.
    """

    members: tuple[np.ndarray, ...]
    quotas: tuple[int, ...]
    seed: int

    def __call__(self, first: int, count: int) -> np.ndarray:
        """Positions (count,) int32 at `first`, `first + 1`, ..."""
        size = sum(self.quotas)
        rounds = range(first // size, (first + count - 1) // size + 1)
        if not rounds:
            return np.zeros(0, np.int32)
        return np.concatenate([_round(self, number) for number in rounds])[first - rounds[0] * size :][:count]


def class_order(targets: np.ndarray, sampling: str, seed: int) -> ClassOrder:
    """The order of a split with class numbers (N,) as targets by one of `SAMPLINGS`; a class's quota is rounded, but at least 1."""
    classes, counts = np.unique(targets, return_counts=True)
    weights = counts.astype(np.float64) ** SAMPLINGS[sampling]
    quotas = np.maximum(1, np.rint(len(targets) * weights / weights.sum())).astype(int)
    return ClassOrder(tuple(np.flatnonzero(targets == label) for label in classes), tuple(quotas.tolist()), seed)


def with_shares(data: Data, sampling: str) -> Data:
    """The data with a note of how often the classes are drawn; as they are for 'natural'."""
    if sampling == 'natural':
        return data
    drawn = class_order(data.splits['train'].targets, sampling, 0)
    shares = [quota / sum(drawn.quotas) for quota in drawn.quotas]
    sizes = [len(members) / len(data.splits['train']) for members in drawn.members]
    note = (
        f'sampling={sampling}: a class is {min(shares):.1%} to {max(shares):.1%} of the examples drawn in training '
        f'({min(sizes):.1%} to {max(sizes):.1%} of those there are).'
    )
    return replace(data, notes=(*data.notes, note))


@lru_cache(maxsize=4)  # a batch may lie across two rounds, and batches are read ahead
def _round(drawn: ClassOrder, number: int) -> np.ndarray:
    """The positions (sum of quotas,) int32 of one round."""
    kinds = _permutation(sum(drawn.quotas), drawn.seed, number, 0)
    ends = np.cumsum(drawn.quotas)
    found = np.zeros(len(kinds), np.int32)
    for k, (members, quota) in enumerate(zip(drawn.members, drawn.quotas, strict=True)):
        places = np.sort(kinds[ends[k] - quota : ends[k]])
        found[places] = members[order(len(members), drawn.seed, number * quota, quota, stream=1 + k)]
    return found


@lru_cache(maxsize=4)  # a batch may lie across two epochs, and batches are read ahead
def _permutation(n: int, seed: int, epoch: int, stream: int) -> np.ndarray:
    apart = [stream] if stream else []
    return np.random.default_rng([abs(seed), int(seed < 0), epoch, *apart]).permutation(n)
