"""safetensors files: one, or several with an index. Every claim of the header is checked against the file before it is believed.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, JSON header, data without holes).
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit

DTYPES: dict[str, np.dtype] = {
    **{f'F{bits}': np.dtype(f'float{bits}') for bits in (16, 32, 64)},
    **{f'I{bits}': np.dtype(f'int{bits}') for bits in (8, 16, 32, 64)},
    **{f'U{bits}': np.dtype(f'uint{bits}') for bits in (8, 16, 32, 64)},
    'BOOL': np.dtype(np.bool_),
    'C64': np.dtype(np.complex64),
    'BF16': np.dtype(ml_dtypes.bfloat16),
    'F8_E4M3': np.dtype(ml_dtypes.float8_e4m3fn),
    'F8_E5M2': np.dtype(ml_dtypes.float8_e5m2),
    'F8_E8M0': np.dtype(ml_dtypes.float8_e8m0fnu),
}


def open_safetensors(blob: Blob, origin: str) -> Checkpoint:
    """One safetensors file.

    Args:
      blob: the file.
      origin: what the user wrote.

    Raises:
      CheckpointError: truncated, longer than its header says, or a header that is damaged or lies.
    """
    length = int(blob.array(0, np.dtype('<u8'), (), 'the length of its header')) if blob.size >= 8 else blob.size
    if length > HEADER_LIMIT or 8 + length > blob.size:
        raise CheckpointError(
            f'{blob.name}: its header should have {length} bytes, but the file has {blob.size} in all. '
            'It is truncated or no safetensors file: download or copy it again.'
        )
    entries = _json(blob.read(8, length).tobytes(), blob.name)
    metadata = entries.pop('__metadata__', {})
    if not isinstance(metadata, dict):
        raise CheckpointError(f'{blob.name}: __metadata__ of its header is no JSON object. The file is damaged.')
    data = blob.size - 8 - length
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    spans: list[tuple[int, int, str]] = []
    for key, entry in entries.items():
        dtype, shape, begin, end = _entry(key, entry, blob.name)
        specs[key] = jax.ShapeDtypeStruct(shape, dtype)
        spans.append((begin, end, key))
    at = 0
    for begin, end, key in sorted(spans):
        if begin != at:
            raise CheckpointError(f'{blob.name}: the data of {key!r} begin at {begin}, those before end at {at}. The header is damaged.')
        at = end
    if at != data:
        raise CheckpointError(
            f'{blob.name}: its header describes {at} bytes of data, but {data} follow it. '
            f'It is {"truncated" if data < at else "damaged"}: download or copy it again.'
        )
    starts = {key: 8 + length + begin for begin, _, key in spans}

    def read(key: str) -> np.ndarray:
        return blob.array(starts[key], specs[key].dtype, specs[key].shape, f'{key!r}')

    return Checkpoint(origin, 'safetensors', specs, read, metadata)


def _json(text: bytes, name: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError('a key twice')
        return found

    try:
        found = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f'{name}: its header is no JSON ({error!s:.100}). The file is damaged: download or copy it again.') from None
    if not isinstance(found, dict):
        raise CheckpointError(f'{name}: its header is no JSON object. The file is damaged.')
    return found


def _entry(key: str, entry: Any, name: str) -> tuple[np.dtype, tuple[int, ...], int, int]:
    try:
        dtype_name, shape, (begin, end) = entry['dtype'], entry['shape'], entry['data_offsets']
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise CheckpointError(f'{name}: the header describes {key!r} as {entry!r:.100}, which is not dtype, shape and data_offsets.')
    dtype = DTYPES.get(dtype_name) if isinstance(dtype_name, str) else None
    if dtype is None:
        raise CheckpointError(f'{name}: {key!r} has dtype {dtype_name!r:.40}, which is not supported. Known: {", ".join(sorted(DTYPES))}.')
    need = math.prod(shape) * dtype.itemsize
    if end - begin != need:
        raise CheckpointError(
            f'{name}: {key!r} is {dtype_name} {tuple(shape)}, which needs {need} bytes, but the header gives it {end - begin}. The file is damaged.'
        )
    return dtype, tuple(shape), begin, end


def open_safetensors_index(blob: Blob, origin: str, shard: Callable[[str], Checkpoint]) -> Checkpoint:
    """Several safetensors files named by an index (`model.safetensors.index.json`).

    Args:
      blob: the index: JSON with `weight_map` from key to file name.
      origin: what the user wrote.
      shard: opens one of the files by its name; CheckpointError where there is none.

    Raises:
      CheckpointError: a damaged index, a shard that is missing or damaged, or a key that its shard does not hold.
    """
    index = _json(blob.read(0, blob.size).tobytes(), blob.name)
    places = index.get('weight_map')
    if not isinstance(places, Mapping) or not all(isinstance(file, str) for file in places.values()):
        raise CheckpointError(f'{blob.name}: an index of shards needs "weight_map" from key to file name; it has {sorted(index)!r:.200}.')
    for file in sorted(set(places.values())):
        if '/' in file or '\\' in file or file in ('', '.', '..'):
            raise CheckpointError(f'{blob.name}: shard {file!r:.100} is not a file beside the index. Refused.')
    shards = {file: shard(file) for file in sorted(set(places.values()))}
    for key, file in places.items():
        if key not in shards[file].specs:
            raise CheckpointError(f'{blob.name}: the index places {key!r} in {file}, which does not hold it. Download the files again.')
    specs = {key: shards[file].specs[key] for key, file in places.items()}
    metadata = index.get('metadata')
    return Checkpoint(
        origin,
        f'safetensors in {len(shards)} shard{"s" * (len(shards) != 1)}',
        specs,
        lambda key: shards[places[key]].read(key),
        metadata if isinstance(metadata, dict) else {},
    )
