"""HDF5 files: Keras's `.h5`, `.weights.h5` and `.keras`, and any other that holds plain arrays. Keys: see keras_keys.py.

HDF5 can do more than hold arrays: point to other files, compute data from other data, load filters as plug-ins, contain itself, and claim
arrays that are not there. Nothing of this is followed; a file that has it is refused as a whole. Arrays in one piece, which is how Keras
writes, are mapped straight from the file; only where they are chunked does the HDF5 library touch the data.
"""

import contextlib
import functools
import json
import math
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import jax
import ml_dtypes
import numpy as np

from jtl.checkpoint import keras_keys
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob, Member, read_member

MAGIC: Final = b'\x89HDF\r\n\x1a\n'
KERAS_MEMBER: Final = 'model.weights.h5'
_DEEPEST = 100
_TEXT_LIMIT = 1 << 24  # characters of an attribute; the config of the largest models of keras.applications has less than a million
_MOST_SHRUNK = 1032  # times; deflate cannot do more (RFC 1951), lzf less
_ATTRIBUTES = ('keras_version', 'backend', 'model_config', 'training_config')


@dataclass(frozen=True)
class _Array:
    """A dataset that may be read. `plain`: its bytes in the file, from `offset`, are those of an array of `dtype`."""

    dataset: Any
    shape: tuple[int, ...]
    dtype: np.dtype
    plain: bool
    offset: int | None


def open_hdf5(blob: Blob, origin: str) -> Checkpoint:
    """A file that Keras wrote (the state of the optimizer and of random generators is counted in the metadata, not listed), or any other.

    Args:
      blob: the file.
      origin: what the user wrote.

    Returns:
      Its arrays; the metadata hold Keras's version and backend, the model's config where it is there, and for `.weights.h5` the layers'
      names by their place (`layers/conv2d` -> `block1_conv1`) where this Keras writes them.

    Raises:
      CheckpointError: truncated or damaged; links to other places, external or virtual data, a group that contains itself, filters other
        than HDF5's own, arrays of objects or text, or larger than the data that are there.
    """
    import h5py

    with _readable(blob.name, 'it'):
        file = h5py.File(blob.file(), 'r')
        arrays, names = _walk(file, blob)
        metadata: dict[str, Any] = {}
        top = file['model_weights'] if isinstance(file.get('model_weights', getlink=True), h5py.HardLink) else file
        layers = _layer_names(top, blob.name)
        for name in _ATTRIBUTES:
            for group in (top, file):
                text = _texts(group.attrs, name, blob.name)
                if text:
                    metadata.setdefault(name, _data(text[0]))
    if layers is not None:
        kind, below = 'keras h5', top.name.strip('/') + '/' if top.name != '/' else ''
        weights = [path.removeprefix(below) for path in arrays if path.startswith(below) and not keras_keys.left_out(path)]
        keys = {below + path: key for path, key in keras_keys.by_name(weights, layers).items()}
    else:
        kind = 'keras weights.h5' if keras_keys.is_by_place(list(arrays)) else 'hdf5'
        weights = [path for path in arrays if kind == 'hdf5' or not keras_keys.left_out(path)]
        keys = keras_keys.by_place(weights)
        told = {place: names[place] for key in keys.values() if (place := key.rpartition('/vars/')[0]) in names}
        metadata |= {'layer_names': told} if told and kind != 'hdf5' else {}
    if kind != 'hdf5':
        rest = [what for path in arrays if (what := keras_keys.left_out(path))]
        if rest:
            metadata['not listed'] = {what: f'{rest.count(what)} arrays' for what in dict.fromkeys(rest)}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    for path, key in keys.items():
        if key in specs:
            raise CheckpointError(f'{blob.name}: two arrays would have the key {key!r}; one of them is {path!r}.')
        specs[key] = jax.ShapeDtypeStruct(arrays[path].shape, arrays[path].dtype.newbyteorder('='))
    places = {key: path for path, key in keys.items()}
    return Checkpoint(origin, kind, specs, lambda key: _read(blob, places[key], arrays[places[key]]), metadata)


def open_keras_zip(blob: Blob, origin: str, members: dict[str, Member]) -> Checkpoint:
    """A `.keras` archive: its `model.weights.h5`, with `metadata.json` and `config.json` as metadata. No layer is built from the config.

    Args:
      blob: the archive.
      origin: what the user wrote.
      members: of the archive, `model.weights.h5` among them.

    Raises:
      CheckpointError: as `open_hdf5`.
    """
    member = members[KERAS_MEMBER]
    name = f'{blob.name}, {KERAS_MEMBER}'
    if member.deflated:
        inflated = read_member(blob, member)
        found = open_hdf5(Blob(name, inflated.size, lambda offset, length: inflated[offset : offset + length]), origin)
        read: Callable[[str], np.ndarray] = found.read
    else:
        found = open_hdf5(Blob(name, member.size, lambda offset, length: blob.read(member.offset + offset, length)), origin)
        check = functools.cache(lambda: read_member(blob, member))  # the checksum is compared when the first array is read

        def read(key: str) -> np.ndarray:
            check()
            return found.read(key)

    metadata: dict[str, Any] = {}
    for file, key in (('metadata.json', None), ('config.json', 'model_config')):
        if file in members and members[file].size <= _TEXT_LIMIT:
            data = _data(read_member(blob, members[file]).tobytes().decode('utf-8', 'replace'))
            metadata |= {key: data} if key else ({'keras_version': data['keras_version']} if _has_version(data) else {})
    return Checkpoint(origin, 'keras zip', found.specs, read, metadata | found.metadata)


@contextlib.contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    """The HDF5 library's errors as one message."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise CheckpointError(
            f'{name}: {what} cannot be read as HDF5 ({error!s:.200}). The file is truncated or damaged: download or copy it again.'
        ) from None


def _walk(file: Any, blob: Blob) -> tuple[dict[str, _Array], dict[str, str]]:
    """Every array by its path, and of each group `vars` the name of its layer. Only hard links are followed."""
    import h5py

    arrays: dict[str, _Array] = {}
    names: dict[str, str] = {}
    seen = {h5py.h5o.get_info(file.id).addr}
    stack = [(file, '', 0)]
    while stack:
        group, above, depth = stack.pop()
        for name in group:
            path = above + name
            if '/' in name or name in ('', '.', '..') or not name.isprintable():
                raise CheckpointError(f'{blob.name}: an entry named {path!r:.100} is no part of a path. Refused.')
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise CheckpointError(f'{blob.name}: {path!r} is a link to another place or file ({type(link).__name__}). Refused.')
            entry = group[name]
            if isinstance(entry, h5py.Dataset):
                array = _array(blob, path, entry)
                if array is not None:
                    arrays[path] = array
            elif isinstance(entry, h5py.Group):
                address = h5py.h5o.get_info(entry.id).addr
                if address in seen or depth >= _DEEPEST:
                    raise CheckpointError(
                        f'{blob.name}: the group {path!r:.100} contains itself, is there under two names, or lies more than {_DEEPEST} groups deep. Refused.'
                    )
                seen.add(address)
                stack.append((entry, f'{path}/', depth + 1))
                if name == 'vars':
                    text = _texts(entry.attrs, 'name', blob.name)
                    if text and above:
                        names[above.rstrip('/')] = text[0]
    return arrays, names


def _array(blob: Blob, path: str, dataset: Any) -> _Array | None:
    """The dataset checked, from its description alone; None for one without a shape (HDF5's null)."""
    import h5py

    where = f'{blob.name}: {path!r}'
    layout = dataset.id.get_create_plist()
    # First of all: asking a virtual dataset for its shape may open the files that it is made of.
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise CheckpointError(f'{where} is put together from other data or lies in another file. Refused: save plain arrays.')
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    known = (h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF)
    if not set(filters) <= set(known) or len(filters) > len(set(filters)) or {known[0], known[3]} <= set(filters):
        raise CheckpointError(
            f'{where} is stored through the filters {filters}; gzip or lzf, shuffle and fletcher32 are known. Save it plainly.'
        )
    if dataset.shape is None:
        return None
    dtype, offset = dataset.dtype, dataset.id.get_offset()
    plain = offset is not None and h5py.h5t.py_create(dtype, logical=True) == dataset.id.get_type()
    if dtype == np.dtype('V2'):  # NumPy and h5py cannot name it; Keras writes bfloat16 so
        dtype = np.dtype(ml_dtypes.bfloat16)
    if dtype.kind not in 'biufc' and dtype != ml_dtypes.bfloat16:
        raise CheckpointError(
            f'{where} holds {dtype} (objects, text, records or raw bytes), not plain numbers. Refused: save arrays of numbers.'
        )
    array = _Array(dataset, tuple(dataset.shape), dtype, plain, offset)
    stored, claimed = dataset.id.get_storage_size(), math.prod(array.shape) * dataset.id.get_type().get_size()
    # A chunk is read as a whole, and may be larger than the array.
    claimed = max(claimed, math.prod(dataset.chunks) * dtype.itemsize) if dataset.chunks and claimed else claimed
    shrunk = _MOST_SHRUNK if {known[0], known[3]} & set(filters) else 1
    end = (offset or 0) + stored
    if claimed > stored * shrunk or end > blob.size:
        raise CheckpointError(
            f'{where} is {dtype} {array.shape}, which needs {claimed} bytes, but the file, of {blob.size} bytes, has {stored} of it'
            f'{f" from byte {offset}" if offset else ""}. It is truncated or damaged: download or copy it again.'
        )
    return array


def _read(blob: Blob, path: str, array: _Array) -> np.ndarray:
    native = array.dtype.newbyteorder('=')
    if array.plain and array.offset is not None:
        return blob.array(array.offset, array.dtype, array.shape, f'{path!r}').astype(native, copy=False)
    with _readable(blob.name, f'{path!r}'):
        if array.dataset.chunks:
            _check_chunks(blob, path, array.dataset)
        data = np.asarray(array.dataset[()])
        return data.view(native) if data.dtype.kind == 'V' else data.astype(native, copy=False)


def _check_chunks(blob: Blob, path: str, dataset: Any) -> None:
    """CheckpointError where a chunk would inflate to more than it should hold: the HDF5 library itself sets no limit."""
    import h5py

    layout = dataset.id.get_create_plist()
    filters = [layout.get_filter(i)[0] for i in range(layout.get_nfilters())]
    if h5py.h5z.FILTER_DEFLATE not in filters:
        return
    bit = 1 << filters.index(h5py.h5z.FILTER_DEFLATE)
    after = 4 if h5py.h5z.FILTER_FLETCHER32 in filters else 0  # its checksum may be compressed with the chunk
    most = math.prod(dataset.chunks) * dataset.id.get_type().get_size() + after

    for i in range(dataset.id.get_num_chunks()):
        chunk = dataset.id.get_chunk_info(i)
        raw = blob.read(chunk.byte_offset, chunk.size)
        if not chunk.filter_mask & bit and len(zlib.decompressobj().decompress(raw.data, most + 1)) > most:
            raise CheckpointError(f'{blob.name}: a chunk of {path!r} inflates to more than its {most} bytes. The file is damaged.')


def _layer_names(group: Any, name: str) -> list[str] | None:
    """Keras's `layer_names`, in pieces (`layer_names0`, ...) where they are too many for one attribute; None where there are none."""
    whole = _texts(group.attrs, 'layer_names', name)
    if whole is not None:
        return whole
    pieces: list[str] = []
    count = 0
    while (piece := _texts(group.attrs, f'layer_names{count}', name)) is not None:
        pieces += piece
        count += 1
    return pieces if count else None


def _texts(attributes: Any, key: str, name: str) -> list[str] | None:
    """The strings of an attribute; None where it is not there, and none where it holds anything else."""
    import h5py

    if key not in attributes:
        return None
    attribute = attributes.get_id(key)
    count = math.prod(attribute.shape or ())
    if not count:
        return []
    if count * attribute.get_type().get_size() > _TEXT_LIMIT:
        raise CheckpointError(f'{name}: its attribute {key!r} claims {count} entries. Refused.')
    if h5py.check_string_dtype(attribute.dtype) is None:
        return []
    values = np.asarray(attributes[key], dtype=object).reshape(-1)
    texts = [value.decode('utf-8', 'replace') if isinstance(value, bytes) else str(value) for value in values]
    if sum(map(len, texts)) > _TEXT_LIMIT:
        raise CheckpointError(f'{name}: its attribute {key!r} has more than {_TEXT_LIMIT} characters. Refused.')
    return texts


def _data(text: str) -> Any:
    """What JSON text means, and other text as it is."""
    try:
        return json.loads(text) if re.match(r'\s*[{\[]', text) else text
    except (ValueError, RecursionError):
        return text


def _has_version(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get('keras_version'), str)
