"""HDF5 files: Keras's `.h5`, `.weights.h5` and `.keras`, and any other that holds plain arrays. Keys: see keras_keys.py.

HDF5 can do more than hold arrays: point to other files, compute data from other data, load filters as plug-ins, contain itself, and claim
arrays that are not there. Nothing of this is followed; a file that has it is refused as a whole. Arrays in one piece, which is how Keras
writes, are mapped straight from the file; only where they are chunked does the HDF5 library touch the data.
"""

import contextlib
import functools
import itertools
import json
import math
import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import jax
import ml_dtypes
import numpy as np

from jtl.checkpoint import keras_keys
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob, Member, read_member
from jtl.checkpoint.hdf5_text import TEXT_LIMIT, text_reader

MAGIC: Final = b'\x89HDF\r\n\x1a\n'
KERAS_MEMBER: Final = 'model.weights.h5'
_DEEPEST = 100
_MOST_SHRUNK = 1032  # times; deflate cannot do more (RFC 1951), lzf less
_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, struct.error, zlib.error)


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
        if file.id.get_create_plist().get_sizes() != (8, 8):
            raise CheckpointError(f'{blob.name}: its offsets and lengths are not of 8 bytes, which is not supported. Save it anew.')
        arrays, groups = _walk(file, blob)
        texts = text_reader(blob)
        below = 'model_weights/' if 'model_weights' in groups else ''
        root, top = texts(groups['']), texts(groups[below.rstrip('/')])
        layers = _layer_names(top)
        kind = 'keras h5' if layers is not None else 'keras weights.h5' if keras_keys.is_by_place(list(arrays)) else 'hdf5'
        weights = [path for path in arrays if kind == 'hdf5' or not keras_keys.left_out(path)]
        if layers is not None:
            by_name = keras_keys.by_name([path.removeprefix(below) for path in weights if path.startswith(below)], layers)
            keys = {below + path: key for path, key in by_name.items()}
        else:
            keys = keras_keys.by_place(weights)
        places = dict.fromkeys(path.rpartition('/')[0] for path in keys) if kind == 'keras weights.h5' else ()
        names = {place.removesuffix('vars').rstrip('/'): texts(groups[place]).get('name', [''])[0] for place in places}
    not_listed = Counter(keras_keys.left_out(path) or 'others' for path in arrays.keys() - keys.keys())
    metadata: dict[str, Any] = {
        'keras_version': next(iter(top.get('keras_version', root.get('keras_version', []))), None),
        'backend': next(iter(top.get('backend', root.get('backend', []))), None),
        'layer_names': {place: name for place, name in names.items() if name},
        'not listed': {what: f'{count} arrays' for what, count in sorted(not_listed.items())},
        **{name: _data(root[name][0]) for name in ('model_config', 'training_config') if root.get(name)},
    }
    metadata = {name: value for name, value in metadata.items() if value}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    for path, key in keys.items():
        if key in specs:
            raise CheckpointError(f'{blob.name}: two arrays would have the key {key!r}; one of them is {path!r}.')
        specs[key] = jax.ShapeDtypeStruct(arrays[path].shape, arrays[path].dtype.newbyteorder('='))
    paths = {key: path for path, key in keys.items()}
    return Checkpoint(origin, kind, specs, lambda key: _read(blob, paths[key], arrays[paths[key]]), metadata)


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
        if file in members and members[file].size <= TEXT_LIMIT:
            data = _data(read_member(blob, members[file]).tobytes().decode('utf-8', 'replace'))
            metadata |= {key: data} if key else ({'keras_version': data['keras_version']} if _has_version(data) else {})
    return Checkpoint(origin, 'keras zip', found.specs, read, {**metadata, **found.metadata})


@contextlib.contextmanager
def _readable(name: str, what: str) -> Iterator[None]:
    """The HDF5 library's errors as one message."""
    try:
        yield
    except _ERRORS as error:
        raise CheckpointError(
            f'{name}: {what} cannot be read as HDF5 ({error!s:.200}). The file is truncated or damaged: download or copy it again.'
        ) from None


def _walk(file: Any, blob: Blob) -> tuple[dict[str, _Array], dict[str, int]]:
    """Every array by its path, and the address of every group's header. Only hard links are followed."""
    import h5py

    arrays: dict[str, _Array] = {}
    groups = {'': h5py.h5o.get_info(file.id).addr}
    seen = set(groups.values())
    stack = [(file, '', 0)]
    while stack:
        group, above, depth = stack.pop()
        for name in group:
            path = f'{above}{name}'
            if not isinstance(name, str) or '/' in name or name in ('', '.', '..') or not name.isprintable():  # bytes: no UTF-8
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
                groups[path] = h5py.h5o.get_info(entry.id).addr
                if groups[path] in seen or depth >= _DEEPEST:
                    raise CheckpointError(
                        f'{blob.name}: the group {path!r:.100} contains itself, is there under two names, or lies more than {_DEEPEST} groups deep. Refused.'
                    )
                seen.add(groups[path])
                stack.append((entry, f'{path}/', depth + 1))
    return arrays, groups


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


def _layer_names(texts: Mapping[str, list[str]]) -> list[str] | None:
    """Keras's `layer_names`, in pieces (`layer_names0`, ...) where they are too many for one attribute; None where there are none."""
    if 'layer_names' in texts or 'layer_names0' not in texts:
        return texts.get('layer_names')
    pieces = itertools.takewhile(lambda name: name in texts, (f'layer_names{i}' for i in itertools.count()))
    return [layer for name in pieces for layer in texts[name]]


def _data(text: str) -> Any:
    """What JSON text means, and other text as it is."""
    try:
        return json.loads(text) if re.match(r'\s*[{\[]', text) else text
    except (ValueError, RecursionError):
        return text


def _has_version(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get('keras_version'), str)
