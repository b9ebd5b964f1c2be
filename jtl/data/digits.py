"""scikit-learn's handwritten digits as a TFDS data set: 1797 grey pictures of 8 x 8, offline.

The pictures are the test part of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin & Kaynak, 1998); each
pixel counts the inked points of a 4 x 4 block, 0..16, here scaled to 0..255.

The split is fixed, whatever `data.seed`: within each class, in scikit-learn's order, every fifth picture (the 5th, 10th, ...)
is test: 1442 train, 355 test. `data.validation` takes its share of train.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jtl.data.arrays import from_arrays
from jtl.data.base import Data
from jtl.data.images import decode
from jtl.data.tfds_prepare import quiet
from jtl.errors import UserError


class SklearnDigits(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder. Features: `image` (8, 8, 1) uint8, `label` in 0..9."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description='Handwritten digits, 8 x 8, as scikit-learn carries them.',
            features=tfds.features.FeaturesDict(
                {'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'), 'label': tfds.features.ClassLabel(num_classes=10)}
            ),
            supervised_keys=('image', 'label'),
            homepage='https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits',
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # scikit-learn carries the pictures
        from sklearn.datasets import load_digits

        images, targets = load_digits(return_X_y=True)
        pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        test = is_test(targets)
        return {'train': self._generate_examples(pixels, targets, ~test), 'test': self._generate_examples(pixels, targets, test)}

    def _generate_examples(self, pixels: np.ndarray, targets: np.ndarray, chosen: np.ndarray) -> Iterator[tuple[int, dict[str, Any]]]:
        from PIL import Image

        for index in np.flatnonzero(chosen):
            file = io.BytesIO()  # encoded here: TFDS needs TensorFlow to encode an array
            Image.fromarray(pixels[index]).save(file, 'png')
            file.seek(0)
            yield int(index), {'image': file, 'label': int(targets[index])}


def is_test(targets: np.ndarray) -> np.ndarray:
    """(N,) bool: every fifth example of each class, in order."""
    chosen = np.zeros(len(targets), bool)
    for label in np.unique(targets):
        chosen[np.flatnonzero(targets == label)[4::5]] = True
    return chosen


def digits(section: Mapping[str, Any]) -> Data:
    """`data.name='digits'`. Prepared once, in `data.root` or the user's cache directory, then read into memory (115 kB)."""
    root = str(section.get('root') or '')
    if '://' in root:
        raise UserError(f'data.root: digits are prepared in a local directory, found {root}.')
    builder = prepared(Path(root).expanduser() if root else cache_dir())
    images, targets = {}, {}
    for split in ('train', 'test'):
        rows = list(builder.as_data_source(split, decoders={'image': tfds.decode.SkipDecoding()}))
        images[split] = np.stack([decode(row['image']) for row in rows])
        targets[split] = np.array([row['label'] for row in rows], np.int32)
    return from_arrays(images, targets, builder.info.features['label'].names)


def cache_dir() -> Path:
    """Where jtl prepares data sets: `$XDG_CACHE_HOME/jtl/tfds`, or below ~/.cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache').expanduser() / 'jtl' / 'tfds'


def prepared(data_dir: Path) -> tfds.core.DatasetBuilder:
    """The builder, its data prepared below `data_dir`. Safe when several processes come at once: each prepares aside, one rename wins."""
    version = str(SklearnDigits.VERSION)
    final = data_dir / SklearnDigits.name / version
    if not final.is_dir():
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix='.preparing_', dir=data_dir))
        except OSError as error:
            raise UserError(f'data.root: cannot write {data_dir} ({error}). Set data.root to a directory of yours.') from None
        try:
            _write(aside)
            final.parent.mkdir(parents=True, exist_ok=True)
            try:
                (aside / SklearnDigits.name / version).rename(final)
            except OSError:
                if not final.is_dir():  # not because another process was first
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return SklearnDigits(data_dir=str(data_dir), file_format='array_record')


def _write(data_dir: Path) -> None:
    builder = SklearnDigits(data_dir=str(data_dir), file_format='array_record')
    with quiet():
        builder.download_and_prepare()
