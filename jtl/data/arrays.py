"""Data held in memory: from a notebook, or from an .npz file."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jtl.data.base import Data, Example, Split, fingerprint
from jtl.errors import UserError, did_you_mean

SPLITS = ('train', 'validation', 'test')


@dataclass(frozen=True)
class ArrayExamples:
    """Examples out of `images` (N, H, W, C) and `targets` (N, ...)."""

    images: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return {'image': self.images[index], 'label': self.targets[index]}


def from_arrays(images: Mapping[str, Any], targets: Mapping[str, Any], labels: Sequence[str] = ()) -> Data:
    """A data set out of arrays, one entry a split ('train', and, where there are any, 'validation' and 'test').

    >>> data = from_arrays({'train': np.zeros((4, 8, 8), np.uint8)}, {'train': [0, 1, 0, 1]}, labels=('cat', 'dog'))
    >>> data.splits['train'].examples[2]['image'].shape
    (8, 8, 1)

    Args:
      images: (N, H, W) grey or (N, H, W, C) with 1 or 3 channels in RGB order, or any number of channels that the model reads; uint8, or
        float with values on the scale that the model's preprocessing expects (0..255 for pretrained weights).
      targets: (N,) integer class numbers, (N,) or (N, K) float values (floats that are only 0 and 1 serve `multi_label` too).
      labels: class names in the order of class numbers; () with integer targets: '0', '1', ...

    Raises:
      UserError: lengths, shapes, kinds or class numbers that do not fit each other.
    """
    if 'train' not in images:
        raise UserError(f"arrays: there is no 'train' split, found {', '.join(images) or 'nothing'}.")
    splits, content = {}, hashlib.sha256()
    for name in images:
        if name not in SPLITS:
            raise UserError(f'arrays: there is no split {name!r}. {did_you_mean(name, SPLITS)}')
        if name not in targets:
            raise UserError(f'arrays: {name} has images but no targets.')
        pictures, wanted = _images(name, images[name]), _targets(name, targets[name])
        if len(pictures) != len(wanted):
            raise UserError(f'arrays: {name} has {len(pictures)} images but {len(wanted)} targets.')
        if not len(pictures):
            raise UserError(f'arrays: {name} is empty.')
        splits[name] = Split(ArrayExamples(pictures, wanted), wanted, f'{name}[{{}}]'.format)
        content.update(repr((name, pictures.shape, pictures.dtype.str)).encode() + np.ascontiguousarray(pictures).tobytes())
    kinds = {(split.targets.dtype.kind, split.targets.shape[1:]) for split in splits.values()}
    if len(kinds) > 1:
        raise UserError('arrays: the targets of the splits differ in kind or shape: integers in one, floats or another width in another.')
    labels = tuple(str(label) for label in labels)
    if splits['train'].targets.dtype.kind == 'i':
        highest = max(int(split.targets.max()) for split in splits.values())
        labels = labels or tuple(str(k) for k in range(highest + 1))
        if highest >= len(labels) or min(int(split.targets.min()) for split in splits.values()) < 0:
            raise UserError(f'arrays: class numbers must lie in 0..{len(labels) - 1} (there are {len(labels)} labels), found {highest}.')
    return Data(splits, labels, fingerprint=fingerprint(splits, labels, content.hexdigest()))


def arrays(section: Mapping[str, Any]) -> Data:
    """`data.name='arrays'`: `data.root` is an .npz file with `train_images`, `train_labels`, and likewise `validation_*`, `test_*`.

    `label_names`, where it is there, holds the class names. Pickled objects are refused.
    """
    from etils import epath

    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='arrays' needs the path of an .npz file here. In a notebook: jtl.data.arrays.from_arrays.")
    path = epath.Path(root).expanduser()
    if not path.is_file():
        raise UserError(f'data.root: there is no file {root}.')
    try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
            found = {key: archive[key] for key in archive.files}
    except (ValueError, OSError, EOFError, AttributeError, TypeError) as error:
        raise UserError(f'data.root: {root} is no .npz file of plain arrays ({error}).') from None
    except Exception as error:  # zipfile.BadZipFile, zlib.error, KeyError of a damaged directory
        raise UserError(f'data.root: {root} is damaged ({type(error).__name__}: {error}).') from None
    keys = [f'{split}_{part}' for split in SPLITS for part in ('images', 'labels')] + ['label_names']
    for key in found:
        if key not in keys:
            raise UserError(f'data.root: {root} has an array {key!r} that means nothing here. {did_you_mean(key, keys)}'.rstrip())
    images = {split: found[f'{split}_images'] for split in SPLITS if f'{split}_images' in found}
    targets = {split: found[f'{split}_labels'] for split in SPLITS if f'{split}_labels' in found}
    for split in targets.keys() - images.keys():
        raise UserError(f'data.root: {root} has {split}_labels but no {split}_images.')
    return from_arrays(images, targets, [str(name) for name in found.get('label_names', ())])


def _images(name: str, value: Any) -> np.ndarray:
    images = np.asarray(value)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype.kind not in 'uif' or 0 in images.shape[1:]:
        raise UserError(f'arrays: images of {name} must be (N, H, W) or (N, H, W, C) numbers, found {images.shape} {images.dtype}.')
    if images.shape[1:3] == (1, 1):
        raise UserError(f'arrays: images of {name} have one pixel each, which shows nothing, found shape {images.shape}.')
    return images if images.dtype == np.uint8 else images.astype(np.float32)


def _targets(name: str, value: Any) -> np.ndarray:
    targets = np.asarray(value)
    if targets.dtype.kind in 'iub' and targets.ndim == 1:
        return targets.astype(np.int32)
    if targets.dtype.kind in 'iubf' and targets.ndim in (1, 2):
        if not np.isfinite(targets).all():
            raise UserError(f'arrays: targets of {name} hold values that are not finite.')
        return targets.astype(np.float32)
    raise UserError(
        f'arrays: targets of {name} must be (N,) class numbers or (N,) or (N, K) values, found {targets.shape} {targets.dtype}.'
    )
