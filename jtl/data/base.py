"""What a data set is to jtl: named splits, each a random-access sequence of examples."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from jtl.errors import UserError

Example = dict[str, Any]
"""One example, host side: `image` (H,W,C) uint8 or float32, or encoded bytes not yet decoded; or `text` a str, with `pair` another, or
`words` a tuple of str; `label` an int, a float or an array."""

SPLIT_NAMES = {
    'train': ('train', 'training'),
    'validation': ('validation', 'val', 'valid', 'dev'),
    'test': ('test', 'testing'),
}
"""What people call each split."""


class UnreadableError(UserError):
    """One example that cannot be read: a truncated or damaged picture, an empty text. The message names it."""


class Examples(Protocol):
    """Random access to examples; reading one touches no other.

    A source may also have `digest(index) -> bytes`: a digest of one example's content, cheaper than reading the example in full,
    that raises `UnreadableError` where reading would.
    """

    def __len__(self) -> int:
        """The number of examples."""

    def __getitem__(self, index: int) -> Example:
        """The example, the same at every call."""


@dataclass(frozen=True)
class Split:
    """One split.

    Attributes:
      examples: random access; `image` is decoded, (H,W,C) uint8 or float.
      targets: (N,) int32 class numbers, (N, K) float32 multi-label, (N,) / (N, K) float32 values, or (N, W) int32 tags of words, -1 where
        there is no word: without reading pictures. Zeros (N,) int32 where the data have no labels at all.
      name_of: from a position to what a person calls the example (a file's path, a line of a file).
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
      labels: class names in the order of class numbers; empty for regression, and where there are no labels.
      notes: what was noticed while opening (files skipped, splits made), a sentence each, for the preflight and the report.
      fingerprint: a digest of what the data are (names, sizes, labels), compared when a run resumes.
    """

    splits: Mapping[str, Split]
    labels: Sequence[str] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    fingerprint: str = ''


@dataclass(frozen=True)
class Subset:
    """Some of the examples, in the order of `indices`."""

    examples: Examples
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.examples[int(self.indices[index])]

    def digest(self, index: int) -> bytes:
        """The digest of one example's content."""
        return content_digest(self.examples, int(self.indices[index]))


def take(split: Split, indices: np.ndarray) -> Split:
    """The split that holds the examples at `indices` (K,), in that order."""
    indices = np.asarray(indices, np.int64)
    name_of = split.name_of
    return Split(Subset(split.examples, indices), split.targets[indices], lambda index: name_of(int(indices[index])))


def content_digest(examples: Examples, index: int) -> bytes:
    """A digest of one example's content, its label apart: the source's own where it offers one, else of shape and pixels of a picture, or of
    the text. Raises UnreadableError.
    """
    own = getattr(examples, 'digest', None)
    if own is not None:
        return own(index)
    example = examples[index]
    if 'image' in example:
        return pixels_digest(example['image'], f'example {index}')
    return hashlib.sha256(repr([(key, example[key]) for key in sorted(example) if key != 'label']).encode()).digest()


def pixels_digest(image: np.ndarray, name: str) -> bytes:
    """A digest of shape and pixels, after a look whether they are those of a picture; `name` is what to call it."""
    image = np.ascontiguousarray(image)
    check_image(image, name)
    return hashlib.sha256(repr((image.shape, image.dtype.str)).encode() + image.tobytes()).digest()


def check_image(image: np.ndarray, name: str) -> None:
    """UnreadableError for an array that is no picture: not (H, W) or (H, W, C), or empty."""
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise UnreadableError(f'{name}: an image must be (height, width) or (height, width, channels), found shape {image.shape}.')
    if image.shape[:2] == (1, 1):
        raise UnreadableError(f'{name}: an image of one pixel shows nothing.')


def fingerprint(splits: Mapping[str, Split], labels: Sequence[str], content: str = '') -> str:
    """A digest of labels, split names and sizes, targets and example names, in order.

    Args:
      splits: by name; the order of the names does not matter.
      labels: class names.
      content: what the source adds to it (file sizes, the version of a data set).
    """
    digest = hashlib.sha256(repr((list(labels), content)).encode())
    for name in sorted(splits):
        split = splits[name]
        digest.update(repr((name, len(split), split.targets.shape, split.targets.dtype.str)).encode())
        digest.update(np.ascontiguousarray(split.targets).tobytes())
        for index in range(len(split)):
            digest.update(split.name_of(index).encode() + b'\0')
    return digest.hexdigest()[:32]
