"""Flax's msgpack checkpoints (`flax.serialization`), listed by walking over the data instead of unpacking them.

Format: msgpack maps with string keys; arrays are extension type 1 (numpy scalars type 3) that hold (shape, dtype name, bytes); arrays
above 2**30 bytes are maps with `__msgpack_chunked_array__`, their shape and flat chunks.
https://github.com/msgpack/msgpack/blob/master/spec.md and flax/serialization.py.
"""

import math
import struct
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob
from jtl.checkpoint.nested import flatten

_DEEPEST = 100
_CHUNKED = '__msgpack_chunked_array__'
_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
# First byte -> struct format of the number, or of the length that follows.
_NUMBERS = dict(zip(range(0xCA, 0xD4), ('>f', '>d', '>B', '>H', '>I', '>Q', '>b', '>h', '>i', '>q'), strict=True))
_BYTES = {0xC4: '>B', 0xC5: '>H', 0xC6: '>I', 0xD9: '>B', 0xDA: '>H', 0xDB: '>I'}
_EXTENSIONS = {0xC7: '>B', 0xC8: '>H', 0xC9: '>I'}
_MANY = {0xDC: '>H', 0xDD: '>I', 0xDE: '>H', 0xDF: '>I'}


class _Array(NamedTuple):
    """Where an array lies in the file; chunks of a large one lie one after the other in `parts`."""

    dtype: np.dtype
    shape: tuple[int, ...]
    parts: tuple[tuple[int, int], ...]  # (offset, bytes)


class _Bytes(NamedTuple):
    """A run of raw bytes, left in the file."""

    offset: int
    length: int


def open_msgpack(blob: Blob, origin: str) -> Checkpoint:
    """A Flax msgpack file. Levels are joined with '/'; plain numbers and strings are metadata.

    Args:
      blob: the file.
      origin: what the user wrote.

    Raises:
      CheckpointError: truncated or damaged, not written by Flax, or sizes that do not fit.
    """
    try:
        tree, end = _walk(blob, 0, 0)
    except (ValueError, TypeError, struct.error, RecursionError) as error:
        raise CheckpointError(f'{blob.name}: no Flax msgpack, or a damaged one ({error!s:.200}). Download or copy it again.') from None
    if not isinstance(tree, dict) or end != blob.size:
        raise CheckpointError(
            f'{blob.name}: a Flax msgpack is one map of {blob.size} bytes; here is a {type(tree).__name__} that ends at byte {end}. '
            'The file is damaged or something else.'
        )
    arrays, plain = flatten(tree, '/', blob.name, blob.size, lambda node: isinstance(node, _Array))

    def read(key: str) -> np.ndarray:
        dtype, shape, parts = arrays[key]
        if len(parts) == 1:
            return blob.array(parts[0][0], dtype, shape, repr(key))
        chunks = [blob.array(offset, dtype, (length // dtype.itemsize,), repr(key)) for offset, length in parts]
        return np.concatenate(chunks or [np.zeros(0, dtype)]).reshape(shape)

    specs = {key: jax.ShapeDtypeStruct(array.shape, array.dtype) for key, array in arrays.items()}
    return Checkpoint(origin, 'flax msgpack', specs, read, plain)


def _walk(blob: Blob, at: int, depth: int) -> tuple[Any, int]:
    """The value at a place and where it ends; arrays and bytes only as places."""
    if depth > _DEEPEST:
        raise ValueError(f'deeper than {_DEEPEST} levels')
    first = int(_take(blob, at, '>B'))
    at += 1
    if first <= 0x7F or first >= 0xE0:
        return (first if first <= 0x7F else first - 0x100), at
    if first in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[first], at
    if first in _NUMBERS:
        form = _NUMBERS[first]
        return _take(blob, at, form), at + struct.calcsize(form)
    if first <= 0x8F or first in (0xDE, 0xDF):
        count, at = (first & 0xF, at) if first <= 0x8F else _length(blob, at, _MANY[first])
        return _map(blob, at, count, depth)
    if first <= 0x9F or first in (0xDC, 0xDD):
        count, at = (first & 0xF, at) if first <= 0x9F else _length(blob, at, _MANY[first])
        items = []
        for _ in range(count):
            item, at = _walk(blob, at, depth + 1)
            items.append(item)
        return items, at
    if first <= 0xBF or first in _BYTES:
        length, at = (first & 0x1F, at) if first <= 0xBF else _length(blob, at, _BYTES[first])
        if first in (0xC4, 0xC5, 0xC6):
            return _Bytes(at, length), at + length
        return blob.read(at, length).tobytes().decode(), at + length
    if 0xD4 <= first <= 0xD8 or first in _EXTENSIONS:
        length, at = (1 << (first - 0xD4), at) if first in range(0xD4, 0xD9) else _length(blob, at, _EXTENSIONS[first])
        code = _take(blob, at, '>b')
        blob.read(at + 1, length)  # refuses a length that leaves the file
        return _extension(blob, code, at + 1, length, depth), at + 1 + length
    raise ValueError(f'byte 0x{first:02x} at {at - 1} begins nothing')


def _take(blob: Blob, at: int, form: str) -> Any:
    return struct.unpack(form, blob.read(at, struct.calcsize(form)).tobytes())[0]


def _length(blob: Blob, at: int, form: str) -> tuple[int, int]:
    return _take(blob, at, form), at + struct.calcsize(form)


def _map(blob: Blob, at: int, count: int, depth: int) -> tuple[Any, int]:
    found: dict[Any, Any] = {}
    for _ in range(count):
        key, at = _walk(blob, at, depth + 1)
        if not isinstance(key, str | int) or key in found:
            raise ValueError(f'key {key!r:.60} at {at} is twice there, or no string')
        found[key], at = _walk(blob, at, depth + 1)
    return (_chunked(found) if _CHUNKED in found else found), at


def _extension(blob: Blob, code: int, at: int, length: int, depth: int) -> Any:
    if code == _COMPLEX:
        return None
    if code not in (_ARRAY, _SCALAR):
        raise ValueError(f'extension type {code} at {at} is none of Flax')
    content, end = _walk(blob, at, depth + 1)
    if end != at + length or not isinstance(content, list) or len(content) != 3:
        raise ValueError(f'the array at {at} is not shape, dtype and bytes')
    shape, name, raw = content
    dtype = _dtype(name)
    if not isinstance(raw, _Bytes) or not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f'the array at {at} is not shape, dtype and bytes')
    if math.prod(shape) * dtype.itemsize != raw.length:
        raise ValueError(
            f'the array at {at} is {name} {tuple(shape)}, which needs {math.prod(shape) * dtype.itemsize} bytes, but has {raw.length}'
        )
    return _Array(dtype, tuple(shape), (tuple(raw),))  # type: ignore[arg-type]


def _dtype(name: Any) -> np.dtype:
    if name in ('bfloat16', 'float8_e4m3fn', 'float8_e5m2'):
        return np.dtype(getattr(ml_dtypes, name))
    dtype = np.dtype(name) if isinstance(name, str) else None
    if dtype is None or dtype.kind not in 'biufc':
        raise ValueError(f'dtype {name!r:.60} is no plain number')
    return dtype


def _chunked(node: dict[Any, Any]) -> _Array:
    """One array from `{'__msgpack_chunked_array__': True, 'shape': {'0': ...}, 'chunks': {'0': array, ...}}`."""
    if not all(
        isinstance(node.get(name), dict) and set(node[name]) == {str(i) for i in range(len(node[name]))} for name in ('shape', 'chunks')
    ):
        raise ValueError('an array in chunks without its shape or its chunks')
    shape, chunks = ([node[name][str(i)] for i in range(len(node[name]))] for name in ('shape', 'chunks'))
    if (
        not chunks
        or not all(isinstance(c, _Array) and c.dtype == chunks[0].dtype for c in chunks)
        or not all(type(n) is int for n in shape)
    ):
        raise ValueError('an array in chunks whose chunks are not arrays of one dtype')
    parts = tuple(part for chunk in chunks for part in chunk.parts)
    need, have = math.prod(shape) * chunks[0].dtype.itemsize, sum(length for _, length in parts)
    if need != have or min((0, *shape)) < 0:
        raise ValueError(f'an array in chunks of shape {tuple(shape)} needs {need} bytes, its chunks have {have}')
    return _Array(chunks[0].dtype, tuple(shape), parts)
