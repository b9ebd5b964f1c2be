"""TFDS data sets, read without TensorFlow: array_record files by random access through `tfds.data_source`."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jtl.data.base import Data, Example, Split, fingerprint, pixels_digest, take
from jtl.data.images import decode, verify
from jtl.data.texts import Texts
from jtl.data.tfds_prepare import conversion, first_line, preparation, prepare, quiet
from jtl.errors import UserError, did_you_mean

SPLIT_NAMES = {'train': ('train',), 'validation': ('validation', 'valid', 'val', 'dev'), 'test': ('test',)}
"""What TFDS data sets call the splits, best first; others are left out, and said."""


@dataclass(frozen=True)
class TfdsExamples:
    """Examples of one split; a record is read and its picture decoded at every access."""

    source: Any  # random access to rows whose pictures are still encoded
    image_key: str
    targets: np.ndarray
    name: str

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Example:
        image = self.source[index][self.image_key]
        return {'image': decode(image, f'{self.name}[{index}]') if isinstance(image, bytes) else image, 'label': self.targets[index]}

    def digest(self, index: int) -> bytes:
        """SHA-256 of the encoded picture, after a look whether it can be read to its end."""
        image = self.source[index][self.image_key]
        if not isinstance(image, bytes):
            return pixels_digest(image, f'{self.name}[{index}]')
        verify(image, f'{self.name}[{index}]')
        return hashlib.sha256(image).digest()


def named(section: Mapping[str, Any]) -> Data:
    """A TFDS name: `mnist`, `oxford_iiit_pet:4.0.0`, `imagenette/320px-v2`, prepared below `data.root` (default: ~/tensorflow_datasets).

    What is not there is prepared as array_record where `data.download` is set: archives lying in `<root>/downloads/manual`
    under their published names are used, others are downloaded.

    Raises:
      UserError: unknown name (with the nearest), not prepared, prepared as tfrecord, or a preparation that fails.
    """
    name, root = section['name'], str(section.get('root') or '')
    data_dir = epath.Path(root or tfds.core.constants.DATA_DIR).expanduser()
    builder = _builder(name, data_dir)
    if not (epath.Path(builder.data_path) / 'dataset_info.json').exists():
        if not section.get('download'):
            raise UserError(
                f'data.name: {name} is not prepared in {data_dir}. Set data.download=True to have it downloaded and prepared, '
                f'or run: {preparation(name, str(data_dir))}'
            )
        builder = prepare(name, data_dir)
    return from_builder(builder, section)


def directory(section: Mapping[str, Any]) -> Data:
    """`data.name='tfds'`: `data.root` is a prepared data set, the directory that holds dataset_info.json."""
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='tfds' needs a prepared directory here, the one that holds dataset_info.json.")
    path = epath.Path(root).expanduser()
    if not (path / 'dataset_info.json').exists():
        raise UserError(
            f'data.root: {root} is no prepared TFDS directory, it holds no dataset_info.json (it ends in .../<name>/<version>).'
        )
    try:
        builder = tfds.builder_from_directory(str(path))
    except Exception as error:  # whatever a damaged directory makes TFDS raise
        raise UserError(f'data.root: {root} cannot be opened as a TFDS data set ({first_line(error)}).') from None
    return from_builder(builder, section)


def from_builder(builder: Any, section: Mapping[str, Any]) -> Data:
    """The data of a prepared `tfds.core.DatasetBuilder`.

    The image is `data.image_key`, or the supervised key, or the only image; the label likewise. A ClassLabel gives classes, a
    Sequence of ClassLabel gives multi-label targets, a number or vector gives values. A data set without images, or one whose
    `data.text_key` is given, is one of texts, which are found likewise; `data.pair_key` is the second text of pairs.

    Raises:
      UserError: not in a random-access format, or no feature that can be the image, the text or the label.
    """
    name, features = builder.info.full_name, builder.info.features
    label_key = _key(builder, section, 'label_key', 1, [k for k, f in features.items() if _class_label(f) is not None])
    text_keys = _text_keys(builder, section, label_key)
    image_key = '' if text_keys else _key(builder, section, 'image_key', 0, _images(features))
    class_label = _class_label(features[label_key])
    labels = tuple(class_label.names) if class_label is not None and class_label.num_classes else ()
    # Pictures stay encoded, so that labels are read without decoding any; those of other features are never decoded. Float pictures are
    # disguised as PNGs with an alpha channel, which only TFDS can read.
    still = {k: tfds.decode.SkipDecoding() for k, f in features.items() if isinstance(f, tfds.features.Image) and f.np_dtype != np.float32}
    splits, notes = {}, []
    for split, names in SPLIT_NAMES.items():
        found = [n for n in names if n in builder.info.splits and builder.info.splits[n].num_examples]
        if not found:
            continue
        try:
            source = builder.as_data_source(found[0], decoders=still)
        except NotImplementedError:
            raise UserError(
                f'data: {name} in {builder.data_path} is prepared as {builder.info.file_format.value}, which only TensorFlow reads. Add array_record '
                f'files, once, where TensorFlow and apache-beam are installed: {conversion(str(builder.data_path))}'
            ) from None
        columns = _columns(source, (label_key, *text_keys))
        targets, name_of = _targets(columns[0], label_key, class_label), f'{found[0]}[{{}}]'.format
        examples = _texts(columns[1:], targets, name_of) if text_keys else TfdsExamples(source, image_key, targets, found[0])
        whole = Split(examples, targets, name_of)
        if class_label is not None and targets.ndim == 1 and targets.min() < 0:  # TFDS's sign for "label not published"
            known = np.flatnonzero(targets >= 0)
            notes.append(f'{found[0]}: {len(targets) - len(known)} of {len(targets)} examples have no label and are left out.')
            if not len(known):
                continue
            whole = take(whole, known)
        splits[split] = whole
    if 'train' not in splits:
        raise UserError(f'data: {name} has no split "train" with labels, only {", ".join(builder.info.splits) or "none"}.')
    unused = [n for n in builder.info.splits if not any(n in names for names in SPLIT_NAMES.values())]
    if unused:
        notes.append(f'splits of {name} that are left out: {", ".join(unused)}.')
    sizes = [builder.info.splits[s].num_bytes for s in sorted(builder.info.splits)]
    content = repr((name, *(text_keys or (image_key,)), label_key, sizes))
    return Data(splits, labels, tuple(notes), fingerprint(splits, labels, content))


def _builder(name: str, data_dir: epath.Path) -> Any:
    try:
        with quiet():
            return tfds.builder(name, data_dir=str(data_dir), try_gcs=False)
    except tfds.core.registered.DatasetNotFoundError:
        from jtl.data import DATA

        here = [path.name for path in data_dir.iterdir() if path.is_dir()] if data_dir.is_dir() else []
        known = [*DATA, *tfds.list_builders(with_community_datasets=False), *here]
        plain = name.split('/')[0].split(':')[0]
        raise UserError(
            f'data.name: there is no data set {name!r}'
            + (f' ({plain} is there in another version or configuration)' if plain in known else '')
            + '. '
            f'{did_you_mean(plain, known)} Of your own: "path/to/file.py:function"; your pictures: data.name=\'folder\'.'
        ) from None
    except ImportError as error:
        raise UserError(
            f'data.name: the definition of {name} needs {error.name}, which is not installed. Install it, or prepare the data elsewhere '
            f"({preparation(name, 'DIR')}) and set data.name='tfds', data.root=<the prepared directory, that of dataset_info.json>."
        ) from None
    except Exception as error:  # AssertionError, ValueError: no such version or configuration; TFDS's message names those there are
        raise UserError(f'data.name: {name} cannot be opened: {first_line(error)}') from None


def _images(features: Mapping[str, Any]) -> list[str]:
    return [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]


def _text_keys(builder: Any, section: Mapping[str, Any], label_key: str) -> tuple[str, ...]:
    """The features of the text and, where there are pairs, of the second; () for a data set of images."""
    features = builder.info.features
    texts = [key for key, feature in features.items() if _is_text(feature) and key != label_key]
    wanted = [field for field in ('text_key', 'pair_key') if section.get(field)]
    if not wanted and (section.get('image_key') or _images(features) or not texts):
        return ()
    keys = {field: _key(builder, section, field, 0, texts) for field in dict.fromkeys(('text_key', *wanted))}
    for field, key in keys.items():
        if key not in texts:
            raise UserError(f'data.{field}: the feature {key!r} of {builder.info.full_name} is no text but {type(features[key]).__name__}.')
    return tuple(keys.values())


def _is_text(feature: Any) -> bool:
    """Whether a feature is one string: `features.Text`, or `np.str_` by another name."""
    return isinstance(feature, tfds.features.Tensor) and feature.shape == () and feature.np_dtype == np.object_


def _key(builder: Any, section: Mapping[str, Any], field: str, place: int, candidates: list[str]) -> str:
    """The feature named by `data.<field>`, or the supervised key, or the only candidate."""
    features, name = builder.info.features, builder.info.full_name
    wanted = section.get(field) or ''
    if wanted:
        if wanted not in features:
            raise UserError(f'data.{field}: {name} has no feature {wanted!r}. {did_you_mean(wanted, features)}'.rstrip())
        return wanted
    supervised = builder.info.supervised_keys
    if supervised and isinstance(supervised[place], str) and (place == 1 or supervised[place] in candidates):
        return supervised[place]
    if len(candidates) == 1:
        return candidates[0]
    what = field.removesuffix('_key')
    listed = ', '.join(f'{key} ({type(feature).__name__})' for key, feature in features.items())
    raise UserError(f'data.{field}: {name} has {len(candidates)} features that could be the {what}; name one of its features: {listed}.')


def _class_label(feature: Any) -> Any:
    """The ClassLabel that a feature is, or is a sequence of; else None."""
    inner = getattr(feature, 'feature', feature)
    return inner if isinstance(inner, tfds.features.ClassLabel) else None


def _columns(source: Any, keys: Sequence[str]) -> list[list[Any]]:
    """The features `keys` of every example, a list each."""
    columns: list[list[Any]] = [[] for _ in keys]
    for first in range(0, len(source), 1024):  # many at once: four times as fast as one by one
        for row in source.__getitems__(range(first, min(first + 1024, len(source)))):
            for column, key in zip(columns, keys, strict=True):
                column.append(row[key])
    return columns


def _texts(columns: Sequence[Sequence[bytes]], targets: np.ndarray, name_of: Callable[[int], str]) -> Texts:
    """The examples of one or two columns. What is no UTF-8 is escaped, so that reading that example says so, as it does for damaged pictures."""
    text, *pair = (tuple(raw.decode('utf-8', 'surrogateescape').strip() for raw in column) for column in columns)
    return Texts(text, pair[0] if pair else (), targets, name_of)


def _targets(rows: Sequence[Any], label_key: str, class_label: Any) -> np.ndarray:
    if class_label is None:
        try:
            return np.array(rows, np.float32)
        except (ValueError, TypeError):
            raise UserError(f'data.label_key: {label_key} holds no numbers of one shape, found such as {rows[0]!r}.') from None
    if np.ndim(rows[0]) == 0:
        return np.array(rows, np.int32)
    targets = np.zeros((len(rows), class_label.num_classes), np.float32)
    for row, present in zip(targets, rows, strict=True):
        row[np.asarray(present, np.int64)] = 1
    return targets
