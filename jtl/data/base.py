"""What a data set is to jtl: named splits, each a random-access sequence of examples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Example = dict[str, Any]
"""One example, host side: `image` (H,W,C) uint8 or float32, or encoded bytes not yet decoded; `label` an int, a float or an array."""


class Examples(Protocol):
    """Random access to examples; reading one touches no other."""

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example, the same at every call."""


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      examples: random access; `image` is decoded, (H,W,C) uint8 or float.
      targets: (N,) int32 class numbers, (N, K) float32 multi-label, or (N,) / (N, K) float32 values: without reading pictures.
      name_of: from a position to what a person calls the example (a file's path).
    """

    examples: Examples
    targets: np.ndarray
    name_of: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.examples)


@dataclass(frozen=True)
class Data:
    """A data set: `splits` has 'train' and, where there are any, 'validation' and 'test'.

    Attributes:
      splits: by name.
      labels: class names in the order of class numbers; empty for regression.
      notes: what was noticed while opening (files skipped, splits made), a sentence each, for the preflight and the report.
      fingerprint: a digest of what the data are (names, sizes, labels), compared when a run resumes.
    """

    splits: Mapping[str, Split]
    labels: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    fingerprint: str = ''
