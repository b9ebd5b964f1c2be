"""Pictures in their orientations, each a class of its own: more to learn from few labels.

Lee, Hwang & Shin, "Self-supervised Label Augmentation via Input Transformations", ICML 2020: a net that must tell `3` from `3
turned by 90` learns strokes and directions that one which only tells `3` from `2` may ignore, and such features transfer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from jtl.data.base import Data, Example, Examples, Split, content_digest, fingerprint
from jtl.data.select import has_classes, what_instead
from jtl.errors import UserError

NAMES = (
    '',
    ' turned 90',
    ' turned 180',
    ' turned 270',
    ' mirrored',
    ' mirrored, turned 90',
    ' mirrored, turned 180',
    ' mirrored, turned 270',
)
"""What is said of each orientation: the eight symmetries of the square, turned counter-clockwise, the mirroring (left to right) first."""

COUNTS = (1, 4, len(NAMES))
"""No change, the four rotations, all eight orientations."""


def orient(image: np.ndarray, orientation: int) -> np.ndarray:
    """One picture (H, W, C) in an orientation, a position in `NAMES`: (H, W, C), or (W, H, C) for quarter turns."""
    return np.rot90(image[:, ::-1] if orientation >= 4 else image, orientation % 4)


@dataclass(frozen=True)
class Oriented:
    """Example `i` of the source in orientation `k` is example `i * count + k`."""

    examples: Examples
    count: int

    def __len__(self) -> int:
        return len(self.examples) * self.count

    def __getitem__(self, index: int) -> Example:
        source, orientation = divmod(index, self.count)
        example = self.examples[source]
        if 'image' not in example:
            raise UserError('data.orientations: these data have no pictures that could be turned. Set data.orientations=1.')
        return {
            **example,
            'image': orient(np.asarray(example['image']), orientation),
            'label': int(example['label']) * self.count + orientation,
        }

    def digest(self, index: int) -> bytes:
        """The digest of one example's content."""
        source, orientation = divmod(index, self.count)
        return content_digest(self.examples, source) + bytes([orientation])


def with_orientations(data: Data, count: int) -> Data:
    """Every example of every split in `count` orientations; class `c` becomes the classes `c * count`, ..., `c * count + count - 1`.

    Args:
      data: with class numbers as targets; splits and shots are chosen before, so that no picture is in two splits.
      count: one of `COUNTS`; 1 gives `data` back.

    Raises:
      UserError: another count, or data without classes.
    """
    if count not in COUNTS:
        raise UserError(f'data.orientations must be one of {", ".join(map(str, COUNTS))}, found {count!r}.')
    if count == 1:
        return data
    if not has_classes(data):
        raise UserError(f'data.orientations: these data have no classes ({what_instead(data)}), so an orientation cannot be part of one.')
    splits: Mapping[str, Split] = {name: _split(split, count) for name, split in data.splits.items()}
    labels = tuple(label + name for label in data.labels for name in NAMES[:count])
    note = f'orientations: every picture in {count}, each a class of its own: {len(labels)} classes.'
    return Data(splits, labels, (*data.notes, note), fingerprint(splits, labels, data.fingerprint))


def _split(split: Split, count: int) -> Split:
    targets = (split.targets[:, None] * count + np.arange(count)).reshape(-1).astype(np.int32)
    return Split(Oriented(split.examples, count), targets, _namer(split.name_of, count))


def _namer(name_of: Callable[[int], str], count: int) -> Callable[[int], str]:
    return lambda index: name_of(index // count) + NAMES[index % count]
