"""The pickle inside a PyTorch file, read without running it.

A pickle is a program: whoever unpickles one runs it. Here it is run by a machine that knows a few names, each of them an inert
stand-in that only notes shapes, strides and storages; every other name is refused before anything is looked up, imported or called.

What the names mean: torch/_utils.py (`_rebuild_tensor_v2` and its kin) and torch/serialization.py of PyTorch.
"""

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from jtl.checkpoint.base import CheckpointError

PICKLE_LIMIT = 1 << 29  # bytes of pickle; a state dict of 10,000 tensors has about a million
_EXPANDED_LIMIT = 1 << 24  # bytes a tensor may have beyond its storage (a broadcast view, stride 0)

_STORAGES = {
    'DoubleStorage': np.dtype(np.float64),
    'FloatStorage': np.dtype(np.float32),
    'HalfStorage': np.dtype(np.float16),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype(np.int64),
    'IntStorage': np.dtype(np.int32),
    'ShortStorage': np.dtype(np.int16),
    'CharStorage': np.dtype(np.int8),
    'ByteStorage': np.dtype(np.uint8),
    'BoolStorage': np.dtype(np.bool_),
    'ComplexFloatStorage': np.dtype(np.complex64),
    'ComplexDoubleStorage': np.dtype(np.complex128),
}
_DTYPES = {
    **{n: np.dtype(n) for n in ('float64', 'float32', 'float16', 'complex64', 'complex128', 'bool')},
    **{n: np.dtype(n) for n in ('int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64')},
    **{n: np.dtype(getattr(ml_dtypes, n)) for n in ('bfloat16', 'float8_e4m3fn', 'float8_e5m2', 'float8_e4m3fnuz', 'float8_e5m2fnuz')},
}


class Storage(NamedTuple):
    """Where data lie: the file's name for them, and which part, counted in elements of `dtype`."""

    dtype: np.dtype
    key: str
    start: int
    numel: int
    whole: int


class Tensor(NamedTuple):
    """A tensor as the pickle describes it; `start` and `stride` count elements of the storage's data seen as `dtype`."""

    storage: Storage
    dtype: np.dtype
    start: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(dict):
    """Stands for OrderedDict; the attributes torch hangs on it (`_metadata`) are dropped."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


def _rebuild(storage: Any, start: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """_rebuild_tensor(storage, offset, size, stride), _v2(..., requires_grad, hooks), _v3(..., requires_grad, hooks, dtype)."""
    shape, stride = tuple(shape), tuple(stride)
    if not isinstance(storage, Storage) or not all(type(n) is int for n in (start, *shape, *stride)):
        raise ValueError('a tensor of something else than a storage and whole numbers')
    if len(shape) != len(stride) or len(shape) > 32 or min(0, start, *shape, *stride) < 0:
        raise ValueError(f'a tensor of start {start}, shape {shape} and strides {stride}')
    dtype = _dtype(rest[2]) if len(rest) > 2 else storage.dtype
    data = storage.numel * storage.dtype.itemsize
    elements = math.prod(shape)
    last = start + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if elements and (last + 1) * dtype.itemsize > data:
        raise ValueError(f'a tensor of start {start}, shape {shape} and strides {stride} in a storage of only {data} bytes')
    if elements * dtype.itemsize > data + _EXPANDED_LIMIT:
        raise ValueError(f'a tensor of {elements * dtype.itemsize} bytes made from {data}')
    return Tensor(storage, dtype, start, shape, stride)


def _typed(rebuild: Any, _: Any, args: Any, *__: Any) -> Any:
    """_rebuild_from_type_v2(function, class, arguments, state): a tensor with attributes of its own, which are dropped."""
    if not isinstance(rebuild, _Name):
        raise ValueError('a tensor rebuilt by something that is no function')
    return rebuild(*args)


# Every name a pickle may use: functions that return our own inert tuples, dtypes, and markers. Nothing of torch or Python is reached.
_ALLOWED: dict[str, Any] = {
    'collections.OrderedDict': lambda pairs=(): _Dict(pairs),
    'torch._utils._rebuild_tensor': _rebuild,
    'torch._utils._rebuild_tensor_v2': _rebuild,
    'torch._utils._rebuild_tensor_v3': _rebuild,
    'torch._utils._rebuild_parameter': lambda data, *_: data,
    'torch._utils._rebuild_parameter_with_state': lambda data, *_: data,
    'torch._tensor._rebuild_from_type_v2': _typed,
    'torch.Size': lambda sizes=(): tuple(sizes),
    'torch.device': lambda *_: None,
    'torch.Tensor': None,
    'torch.nn.parameter.Parameter': None,
    'torch.storage.UntypedStorage': np.dtype(np.uint8),
    **{f'torch.{name}': dtype for name, dtype in _STORAGES.items()},
    **{f'torch.cuda.{name}': dtype for name, dtype in _STORAGES.items()},
    **{f'torch.{name}': dtype for name, dtype in _DTYPES.items()},
}


class _Name:
    """A name of `_ALLOWED` inside a pickle: can be called where its meaning is a function, and cannot be changed.

    The meaning itself would not do: the BUILD opcode can set a function's attributes, among them its defaults, and a dtype's state.
    """

    __slots__ = ('_name',)
    _name: str

    def __init__(self, name: str):
        object.__setattr__(self, '_name', name)

    def __setattr__(self, key: str, value: Any) -> None:
        raise ValueError(f'{self._name} changed by the file')

    def __call__(self, *args: Any) -> Any:
        meaning = _ALLOWED[self._name]
        if meaning is None or isinstance(meaning, np.dtype):
            raise ValueError(f'{self._name} called')
        return meaning(*args)


def _dtype(name: Any) -> np.dtype:
    dtype = _ALLOWED[name._name] if isinstance(name, _Name) else None
    if not isinstance(dtype, np.dtype):
        raise ValueError(f'a type of data that is none: {name!r:.80}')
    return dtype


class _Unpickler(pickle.Unpickler):
    """Unpickles tensors only."""

    def __init__(self, data: bytes, name: str, storage: Callable[[Any], Storage]):
        super().__init__(io.BytesIO(data), encoding='utf-8')
        self._file, self._storage = name, storage

    def find_class(self, module: str, name: str) -> _Name:
        full = f'{module}.{name}'
        if full not in _ALLOWED:
            raise CheckpointError(
                f'{self._file}: the pickle asks for {full!r:.200}, which is not needed to rebuild tensors. Refused, and nothing was executed. '
                'If you trust its origin, load it where it was made and save the weights alone: torch.save(model.state_dict(), PATH).'
            )
        return _Name(full)

    def persistent_load(self, pid: Any) -> Storage:
        if type(pid) is not tuple or len(pid) < 5 or pid[0] != 'storage':
            raise ValueError(f'a reference to something that is no storage: {pid!r:.80}')
        return self._storage(pid)


def unpickle(file: BinaryIO, name: str, storage: Callable[[Any], Storage]) -> tuple[Any, int]:
    """Unpickles what starts at the file's position, once every opcode has been looked at; also its length in bytes."""
    start, memo = file.tell(), 0
    try:
        for opcode, argument, position in pickletools.genops(file):
            if opcode.name.startswith('EXT') or opcode.name == 'NEXT_BUFFER':  # objects of a registry outside the file
                raise CheckpointError(f'{name}: the pickle uses the opcode {opcode.name}. Refused, and nothing was executed.')
            if 'PUT' in opcode.name:
                memo = max(memo, int(argument or 0))
            if (position or 0) - start > PICKLE_LIMIT:
                raise ValueError(f'more than {PICKLE_LIMIT} bytes')
        length = file.tell() - start
        if memo > length:  # the unpickler allots its memo up to the highest number used
            raise ValueError(f'a memo of {memo} entries in {length} bytes')
        file.seek(start)
        return _Unpickler(file.read(length), name, storage).load(), length
    except CheckpointError:
        raise
    except Exception as error:  # whatever a hostile or damaged pickle provokes inside the unpickler
        raise CheckpointError(
            f'{name}: the pickle that describes the tensors is truncated, damaged or not made by torch.save ({error!s:.200}).'
        ) from None


def storage_of(pid: tuple[Any, ...], view: Any = None) -> Storage:
    """('storage', type, key, device, numel), and in the old layout (view's key, start, numel) or None."""
    dtype, key, numel = _dtype(pid[1]), pid[2], pid[4]
    start, length = (view[1], view[2]) if view is not None else (0, numel)
    if type(key) is not str or not all(type(n) is int for n in (numel, start, length)):
        raise ValueError(f'a storage that is not one: {pid!r:.80}')
    if min(numel, start, length) < 0 or start + length > numel:
        raise ValueError(f'a part of a storage that leaves it: {pid!r:.80}')
    return Storage(dtype, key, start, length, numel)
