"""Writing a checkpoint in a format others read. A file appears under its name only when it is whole."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import BinaryIO

import numpy as np
from etils import epath

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.nested import nest
from jtl.checkpoint.safetensors_file import DTYPES
from jtl.errors import UserError

FORMATS = ('safetensors', 'npz', 'msgpack', 'orbax')


def format_for(path: str | os.PathLike[str]) -> str:
    """The format that a target's suffix means.

    Raises:
      UserError: a suffix of none of them.
    """
    suffix = epath.Path(path).suffix.removeprefix('.')
    if suffix not in FORMATS:
        raise UserError(
            f'{path}: the suffix {suffix!r} says no format. Use one of {", ".join("." + f for f in FORMATS)}, or give --format={"|".join(FORMATS)}.'
        )
    return suffix


def write_checkpoint(path: str | os.PathLike[str], leaves: Mapping[str, np.ndarray], format: str) -> None:
    """Writes arrays by key, replacing what is there.

    They are written under a temporary name beside the target, which is then renamed. safetensors and npz take one leaf at a time
    from `leaves`, which may read them when asked, and depend on nothing but keys and data: the same leaves give the same bytes.

    Args:
      path: the target: a file, or a directory for 'orbax'. Missing parents are made.
      leaves: arrays by key; msgpack and orbax nest the keys at '/'.
      format: one of `FORMATS`.

    Raises:
      UserError: an unknown format, a target that cannot be written, or a directory that is no Orbax checkpoint where one would be replaced.
      CheckpointError: a dtype that the format cannot hold, or keys that cannot be nested.
    """
    writers: dict[str, Callable[[epath.Path, Mapping[str, np.ndarray]], None]] = {
        'safetensors': _safetensors,
        'npz': _npz,
        'msgpack': _msgpack,
        'orbax': _orbax,
    }
    if format not in writers:
        raise UserError(f'format {format!r} is unknown. Known: {", ".join(FORMATS)}.')
    target = epath.Path(path).expanduser()
    if target.is_dir() and not (format == 'orbax' and (target / '_METADATA').exists()):
        raise UserError(f'{target}: is a directory, and no single Orbax checkpoint that could be replaced. Choose another name.')
    temporary = target.parent / f'{target.name}.tmp-{os.getpid()}'
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        writers[format](temporary, leaves)
        if format == 'orbax':  # a directory cannot be replaced in one go
            _remove(target)
        temporary.replace(target)
    except OSError as error:
        raise UserError(f'{target}: cannot be written ({error}).') from None
    finally:
        _remove(temporary)


class Leaves(Mapping[str, np.ndarray]):
    """The arrays of an open checkpoint, each read when it is asked for."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint

    def __getitem__(self, key: str) -> np.ndarray:
        return self._checkpoint.read(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._checkpoint.specs)

    def __len__(self) -> int:
        return len(self._checkpoint.specs)


def _remove(path: epath.Path) -> None:
    if path.is_dir():
        path.rmtree()
    elif path.exists():
        path.unlink()


def _plain(array: np.ndarray) -> np.ndarray:
    """Row-major and in the machine's (little-endian) byte order; 0-d stays 0-d."""
    array = np.asarray(array)
    return np.asarray(array.astype(array.dtype.newbyteorder('='), copy=False), order='C')


def _safetensors(path: epath.Path, leaves: Mapping[str, np.ndarray]) -> None:
    names = {dtype: name for name, dtype in DTYPES.items()}
    kinds = {}
    for key, leaf in leaves.items():
        array = np.asarray(leaf)
        dtype = array.dtype.newbyteorder('=')
        if dtype not in names:
            raise CheckpointError(f'{path.stem}: safetensors cannot hold {key!r}, which has dtype {dtype}.')
        kinds[key] = dtype, array.shape, array.nbytes
    # Wide types first, so that every array starts at a multiple of its item size.
    order = sorted(kinds, key=lambda key: (-kinds[key][0].itemsize, key))
    header, at = {}, 0
    for key in order:
        dtype, shape, size = kinds[key]
        header[key] = {'dtype': names[dtype], 'shape': list(shape), 'data_offsets': [at, at + size]}
        at += size
    text = json.dumps(header, separators=(',', ':'), ensure_ascii=False).encode()
    text += b' ' * (-len(text) % 8)
    with path.open('wb') as file:
        file.write(len(text).to_bytes(8, 'little') + text)
        for key in order:
            file.write(_plain(leaves[key]).reshape(-1).view(np.uint8).data)


def _npz(path: epath.Path, leaves: Mapping[str, np.ndarray]) -> None:
    # numpy.savez takes keys as Python arguments, among them `file`, and needs all arrays at once.
    with path.open('wb') as file, zipfile.ZipFile(file, 'w', zipfile.ZIP_STORED, allowZip64=True) as archive:
        for key in leaves:
            array = _plain(leaves[key])
            if array.dtype.kind not in 'biufc':
                if array.dtype != DTYPES['BF16']:
                    raise CheckpointError(f'{path.stem}: npz cannot hold {key!r}, which has dtype {array.dtype}. Write safetensors.')
                array = array.view('V2')  # as numpy.savez does; readers of JAX checkpoints take it back as bfloat16
            with archive.open(zipfile.ZipInfo(f'{key}.npy'), 'w', force_zip64=True) as member:
                _npy(member, array)  # type: ignore[arg-type]


def _npy(file: BinaryIO, array: np.ndarray) -> None:
    np.lib.format.write_array(file, array, allow_pickle=False)


def _msgpack(path: epath.Path, leaves: Mapping[str, np.ndarray]) -> None:
    from flax import serialization

    tree = nest({key: _plain(leaves[key]) for key in leaves}, path.stem)
    path.write_bytes(serialization.msgpack_serialize(tree, in_place=True))


def _orbax(path: epath.Path, leaves: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as ocp

    arrays = {key: _plain(leaves[key]) for key in leaves}
    empty = [key for key, array in arrays.items() if not array.size]
    if empty:
        raise CheckpointError(f'{path.stem}: Orbax cannot hold arrays without elements: {", ".join(empty[:5])}. Write safetensors.')
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(nest(arrays, path.stem)))
