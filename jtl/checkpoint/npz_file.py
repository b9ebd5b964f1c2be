"""NumPy's `.npz`: a zip archive of `.npy` files. Nothing in it is ever unpickled."""

import io
import math

import jax
import ml_dtypes
import numpy as np

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob, Member, as_array, read_member, zip_members

HEADER_LIMIT = 65536  # bytes of a .npy that surely hold its header; NumPy itself refuses to parse longer than 10,000


def open_npz(blob: Blob, origin: str, members: dict[str, Member] | None = None) -> Checkpoint:
    """An npz archive, compressed or not. Arrays of text become metadata; arrays of two raw bytes (`|V2`) are bfloat16.

    NumPy cannot name bfloat16 and writes `|V2`, which JAX projects read back as bfloat16 (so does big_vision).

    Args:
      blob: the file.
      origin: what the user wrote.
      members: of the archive, where they are known already.

    Raises:
      CheckpointError: truncated or damaged, or arrays of Python objects, which would need a pickle.
    """
    members = zip_members(blob) if members is None else members
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    layouts: dict[str, tuple[Member, int, np.dtype, bool]] = {}
    metadata = {}
    for name, member in members.items():
        key = name.removesuffix('.npy')
        dtype, shape, fortran, start = _header(blob, member)
        size = math.prod(shape) * dtype.itemsize
        if start + size != member.size:
            raise CheckpointError(
                f'{blob.name}: {key!r} is {dtype} {shape}, which needs {size} bytes, but {member.size - start} follow its header. The file is damaged.'
            )
        if dtype.kind in 'US':
            if size < HEADER_LIMIT:
                metadata[key] = np.frombuffer(read_member(blob, member)[start:], dtype).reshape(shape).astype('U').tolist()
            continue
        specs[key] = jax.ShapeDtypeStruct(shape, dtype.newbyteorder('='))
        layouts[key] = member, start, dtype, fortran

    def read(key: str) -> np.ndarray:
        member, start, dtype, fortran = layouts[key]
        shape = specs[key].shape
        raw = read_member(blob, member)[start:]
        array = as_array(raw, dtype, shape[::-1]).T if fortran else as_array(raw, dtype, shape)
        return array.astype(dtype.newbyteorder('='), copy=False)

    return Checkpoint(origin, 'npz', specs, read, metadata)


def _header(blob: Blob, member: Member) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    return npy_header(read_member(blob, member, first=HEADER_LIMIT).tobytes(), f'{blob.name}: member {member.name!r}')


def npy_header(head: bytes, name: str) -> tuple[np.dtype, tuple[int, ...], bool, int]:
    """dtype, shape, whether column-major, and where the data start in a `.npy` file.

    Args:
      head: its first HEADER_LIMIT bytes.
      name: of the file, for messages.

    Raises:
      CheckpointError: no `.npy` file, or arrays of Python objects, or of what is no plain number.
    """
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](file)
    except (ValueError, KeyError, EOFError) as error:
        raise CheckpointError(f'{name} is no array ({error!s:.100}). The file is damaged.') from None
    if dtype.hasobject:
        raise CheckpointError(
            f'{name} holds Python objects, which only a pickle could restore. Refused. Save plain arrays: one array a key, no nested dicts.'
        )
    if dtype == np.dtype('V2'):
        dtype = np.dtype(ml_dtypes.bfloat16)
    if dtype.kind not in 'biufcUS' and dtype != ml_dtypes.bfloat16:
        raise CheckpointError(f'{name} has dtype {dtype}, which is no plain number. Save it as float32.')
    return dtype, shape, fortran, file.tell()
