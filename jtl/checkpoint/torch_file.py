"""PyTorch's `.pth`, `.pt`, `.bin`, without PyTorch: the zip layout and the one before it (torch < 1.6).

Both hold a pickle that says how tensors are put together, and apart from it the raw data of the storages.
Layouts: `_save` and `_legacy_save` in torch/serialization.py of PyTorch.
"""

import io
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.blob import Blob, Member, read_member, zip_members
from jtl.checkpoint.nested import flatten
from jtl.checkpoint.torch_pickle import PICKLE_LIMIT, Storage, Tensor, storage_of, unpickle

LEGACY_MAGIC = b'\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # the pickled number 0x1950a86a20f9469cfc6c, after the protocol's two bytes
_LEGACY_PROTOCOL = 1001


def _checkpoint(tree: Any, origin: str, kind: str, most: int, name: str, data_of: Callable[[Storage], np.ndarray]) -> Checkpoint:
    tensors, plain = flatten(tree, '.', name, most, lambda node: isinstance(node, Tensor))

    def read(key: str) -> np.ndarray:
        tensor: Tensor = tensors[key]
        storage = tensor.storage
        raw = data_of(storage)[storage.start * storage.dtype.itemsize :][: storage.numel * storage.dtype.itemsize]
        item = tensor.dtype.itemsize
        if not math.prod(tensor.shape):
            return np.zeros(tensor.shape, tensor.dtype)
        array = np.ndarray(tensor.shape, tensor.dtype, raw.data, tensor.start * item, [s * item for s in tensor.stride])
        return np.asarray(array, order='C') if array.flags.aligned else array.copy()

    specs = {key: jax.ShapeDtypeStruct(t.shape, t.dtype) for key, t in tensors.items()}
    return Checkpoint(origin, kind, specs, read, plain)


def open_torch_zip(blob: Blob, origin: str, members: dict[str, Member] | None = None) -> Checkpoint:
    """The zip layout (torch >= 1.6). Keys of nested dicts are joined with '.'; plain numbers and strings are metadata.

    Args:
      blob: the file.
      origin: what the user wrote.
      members: of the archive, where they are known already.

    Raises:
      CheckpointError: truncated or damaged; a pickle that asks for anything but tensors; a TorchScript archive.
    """
    members = zip_members(blob) if members is None else members
    pickles = [name for name in members if name.rpartition('/')[2] == 'data.pkl' and name.count('/') <= 1]
    if len(pickles) != 1:
        raise CheckpointError(f'{blob.name}: a zip archive with {len(pickles)} data.pkl; torch.save writes one.')
    root = pickles[0].removesuffix('data.pkl')
    if f'{root}constants.pkl' in members:
        raise CheckpointError(f'{blob.name}: a TorchScript program, not weights. Save them alone: torch.save(model.state_dict(), PATH).')
    if f'{root}byteorder' in members and read_member(blob, members[f'{root}byteorder']).tobytes() != b'little':
        raise CheckpointError(
            f'{blob.name}: saved in big-endian byte order, which is not supported. Load and save it on a little-endian machine.'
        )
    if members[pickles[0]].size > PICKLE_LIMIT:
        raise CheckpointError(f'{blob.name}: its pickle claims {members[pickles[0]].size} bytes; no checkpoint has so many.')

    def storage(pid: tuple[Any, ...]) -> Storage:
        found = storage_of(pid)
        member = members.get(f'{root}data/{found.key}')
        claimed = found.numel * found.dtype.itemsize
        if member is None or member.size < claimed:
            raise CheckpointError(
                f'{blob.name}: storage {found.key!r} should have {claimed} bytes, but the archive has '
                f'{"none" if member is None else member.size} of it. The file is damaged: download or copy it again.'
            )
        return found

    checked: dict[str, np.ndarray] = {}  # views of stored members, whose checksum need be compared only once

    def data_of(storage: Storage) -> np.ndarray:
        member = members[f'{root}data/{storage.key}']
        if storage.key in checked:
            return checked[storage.key]
        data = read_member(blob, member)
        if not member.deflated and not data.flags.owndata:
            checked[storage.key] = data
        return data

    tree, length = unpickle(io.BytesIO(read_member(blob, members[pickles[0]]).tobytes()), blob.name, storage)
    return _checkpoint(tree, origin, 'torch zip', length, blob.name, data_of)


def open_torch_legacy(blob: Blob, origin: str) -> Checkpoint:
    """The layout of torch < 1.6 (`_use_new_zipfile_serialization=False`): pickles one after the other, then raw storages.

    Raises:
      CheckpointError: as for the zip layout.
    """
    found: dict[str, Storage] = {}

    def storage(pid: tuple[Any, ...]) -> Storage:
        one = storage_of(pid, pid[5] if len(pid) > 5 else None)
        first = found.setdefault(one.key, one)
        if (first.dtype, first.whole) != (one.dtype, one.whole):
            raise ValueError(f'storage {one.key!r} described in two ways')
        return one

    file = blob.file()
    (_, _), (protocol, _), (system, _), (tree, length), (keys, _) = (unpickle(file, blob.name, storage) for _ in range(5))
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or type(keys) is not list or set(keys) != set(found):
        raise CheckpointError(f'{blob.name}: begins like a file of torch before 1.6, but what follows is not one. The file is damaged.')
    if system.get('little_endian') is not True:
        raise CheckpointError(
            f'{blob.name}: saved in big-endian byte order, which is not supported. Load and save it on a little-endian machine.'
        )
    at, places = file.tell(), {}
    for key in keys:
        one = found[key]
        numel = int(blob.array(at, np.dtype('<i8'), (), f'the size of storage {key!r}'))
        if numel != one.whole:
            raise CheckpointError(
                f'{blob.name}: storage {key!r} has {numel} elements, its description says {one.whole}. The file is damaged.'
            )
        places[key] = at + 8
        at += 8 + numel * one.dtype.itemsize
        if at > blob.size:
            raise CheckpointError(
                f'{blob.name}: storage {key!r} ends at byte {at}, but the file has {blob.size}. It is truncated: download or copy it again.'
            )

    def data_of(storage: Storage) -> np.ndarray:
        return blob.read(places[storage.key], storage.whole * storage.dtype.itemsize)

    return _checkpoint(tree, origin, 'torch legacy', length, blob.name, data_of)
