"""Leaf functions: what is done to one array of a checkpoint before it becomes a leaf of the model, written as data.

A leaf function is a tuple of its name and whole numbers, such as `('transpose', 2, 3, 1, 0)`, so that it prints, hashes and goes to
JSON. `apply` runs on numpy arrays and under `jax` tracing alike, so that planning (from shapes alone) and loading share one definition.

| function | does |
|-|-|
| `('transpose', *axes)` | new axis i is old axis `axes[i]` |
| `('reshape', *sizes)` | row-major; one size may be -1 |
| `('part', i, n, axis)` | the i-th (from 0) of n equal, contiguous parts along `axis` |
| `('flip', axis)` | `axis` in reverse order (BGR to RGB) |
| `('squeeze', axis)` | drops `axis`, which has size 1 |
| `('expand', axis)` | puts in an axis of size 1, to stand at `axis` of the result |
| `('take', n, axis)` | the first `n` along `axis` |
| `('skip', n, axis)` | all but the first `n` along `axis` |
| `('grid', h, w)` | position embeddings (h * w, D) on their grid, resized to that of the leaf, bicubic with antialiasing |
| `('torch_grid', h, w)` | the same as PyTorch interpolates by default, for models that do so when they run |
| `('patch',)` | a patch kernel (h, w, C, D) for the patch size of the leaf |
| `('channels',)` | a first kernel (h, w, C, D) for the number of input channels of the leaf |

The last four fit an array to its leaf: `fit` writes the leaf's sizes behind their numbers, `('grid', 14, 14, 24, 24)`, or takes them out
where there is nothing to do. The grid of the source is always told, never guessed from the count of tokens.

>>> apply((('transpose', 1, 0), ('part', 1, 2, -1)), np.arange(6).reshape(2, 3)).tolist()
[[3], [4], [5]]
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import numpy as np

from jtl.checkpoint.resample import fit_channels, resize_grid, resize_patch
from jtl.errors import UserError, did_you_mean

Function = tuple[Any, ...]
"""The name of a leaf function, then its whole numbers."""


def apply(functions: Sequence[Function], x: Any, key: str = '') -> Any:
    """The functions done to `x`, the first one first.

    Args:
      functions: leaf functions, see the module's table.
      x: a numpy array, a jax array or a tracer; the result is of the same kind and dtype. Of numpy it may be a view.
      key: where `x` comes from, for messages.

    Raises:
      UserError: an unknown function, or one that cannot be done to an array of this shape.
    """
    for function in as_functions(functions, key):
        name, *numbers = function
        try:
            x = _TABLE[name].call(x, *numbers)
        except ValueError as error:
            where = f'{key!r} of shape' if key else 'an array of shape'
            raise UserError(f'{describe((function,))} cannot be done to {where} {tuple(x.shape)}: {error}.') from None
    return x


def spec_after(functions: Sequence[Function], spec: jax.ShapeDtypeStruct, key: str = '') -> jax.ShapeDtypeStruct:
    """Shape and dtype of `apply(functions, x, key)` for an `x` like `spec`, without any data. UserError as in `apply`."""
    if not functions:
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    # No leaf function changes the dtype; tracing in one that jax always has keeps 64-bit sources from being narrowed on the way.
    out = jax.eval_shape(partial(apply, functions, key=key), jax.ShapeDtypeStruct(spec.shape, np.uint8))
    return jax.ShapeDtypeStruct(out.shape, spec.dtype)


def fit(functions: Sequence[Function], spec: jax.ShapeDtypeStruct, target: Sequence[int], key: str = '') -> tuple[Function, ...]:
    """The functions with the leaf's sizes written into those that fit an array to its leaf; those that have nothing to do are left out.

    >>> fit((('transpose', 2, 3, 1, 0), ('channels',)), jax.ShapeDtypeStruct((8, 3, 3, 3), 'float32'), (3, 3, 1, 8))
    (('transpose', 2, 3, 1, 0), ('channels', 1))

    Args:
      functions: leaf functions.
      spec: shape and dtype of the array they are done to.
      target: the leaf's shape; functions it has too few axes for stay as they are.
      key: where the array comes from, for messages.

    Raises:
      UserError: as in `apply`.
    """
    done: list[Function] = []
    for name, *numbers in as_functions(functions, key):
        known = _TABLE[name]
        if known.fits and len(numbers) == known.takes and len(target) > max(known.fits):
            function = (name, *numbers, *(target[axis] for axis in known.fits))
            before = spec_after(done, spec, key)
            if spec_after((*done, function), spec, key).shape == before.shape:
                continue
            done.append(function)
        else:
            done.append((name, *numbers))
    return tuple(done)


def as_functions(functions: Sequence[Sequence[Any]], where: str = '') -> tuple[Function, ...]:
    """The functions as tuples (a config or JSON may hold lists), checked: name known, right count of whole numbers.

    Raises:
      UserError: with the nearest known names, or how the function is written.
    """
    start = f'{where}: ' if where else ''
    checked = []
    for function in functions:
        if not isinstance(function, list | tuple) or not function or not isinstance(function[0], str):
            raise UserError(f"{start}a leaf function is a tuple such as ('transpose', 1, 0), found {function!r}.")
        name, *numbers = function
        if name not in _TABLE:
            raise UserError(f'{start}there is no leaf function {name!r}. {did_you_mean(name, _TABLE)}')
        known = _TABLE[name]
        whole = all(isinstance(n, int) and not isinstance(n, bool) for n in numbers)
        if not whole or (known.takes is not None and len(numbers) not in (known.takes, known.takes + len(known.fits))):
            raise UserError(f'{start}{tuple(function)!r} should be written {known.usage}, with whole numbers.')
        checked.append((name, *numbers))
    return tuple(checked)


def describe(functions: Sequence[Function]) -> str:
    """For people and the plan: 'transpose(2, 3, 1, 0) then reshape(3, 3, -1, 1)'; '' for none."""
    return ' then '.join(f'{name}({", ".join(map(str, numbers))})' for name, *numbers in functions)


def _transpose(x: Any, *axes: int) -> Any:
    if len(axes) != x.ndim:
        raise ValueError(f'it names {len(axes)} axes, the array has {x.ndim}')
    axes = tuple(_axis(a, x.ndim) for a in axes)
    if len(set(axes)) != len(axes):
        raise ValueError('an axis is named twice')
    return x.transpose(axes)


def _reshape(x: Any, *sizes: int) -> Any:
    size, known = math.prod(x.shape), math.prod(s for s in sizes if s != -1)
    if sizes.count(-1) > 1 or min(sizes, default=0) < -1:
        raise ValueError('sizes are whole numbers from 0, and at most one is -1')
    if size != known if -1 not in sizes else (known == 0 or size % known):
        raise ValueError(f'it has {size} numbers')
    return x.reshape(sizes)


def _part(x: Any, i: int, n: int, axis: int) -> Any:
    axis = _axis(axis, x.ndim)
    if n < 1 or not 0 <= i < n:
        raise ValueError(f'there is no part {i} of {n}: parts are numbered from 0')
    if x.shape[axis] % n:
        raise ValueError(f'axis {axis} of size {x.shape[axis]} does not divide into {n} equal parts')
    width = x.shape[axis] // n
    return x[(slice(None),) * axis + (slice(i * width, (i + 1) * width),)]


def _flip(x: Any, axis: int) -> Any:
    return x[(slice(None),) * _axis(axis, x.ndim) + (slice(None, None, -1),)]


def _squeeze(x: Any, axis: int) -> Any:
    axis = _axis(axis, x.ndim)
    if x.shape[axis] != 1:
        raise ValueError(f'axis {axis} has size {x.shape[axis]}, not 1')
    return x.squeeze(axis)


def _expand(x: Any, axis: int) -> Any:
    return x[(slice(None),) * _axis(axis, x.ndim + 1) + (None,)]


def _take(x: Any, n: int, axis: int) -> Any:
    return x[(slice(None),) * _axis(axis, x.ndim) + (slice(None, _some(x, n, axis)),)]


def _skip(x: Any, n: int, axis: int) -> Any:
    return x[(slice(None),) * _axis(axis, x.ndim) + (slice(_some(x, n, axis), None),)]


def _some(x: Any, n: int, axis: int) -> int:
    size = x.shape[_axis(axis, x.ndim)]
    if not 0 <= n <= size:
        raise ValueError(f'axis {axis} has size {size}, which has no first {n}')
    return n


def _grid(x: Any, h: int, w: int, *size: int, torch_default: bool = False) -> Any:
    if x.ndim != 2 or h < 1 or w < 1 or x.shape[0] != h * w:
        raise ValueError(f'a grid of {h} x {w} needs ({h * w}, D): say which size of picture these weights were trained on')
    x = x.reshape(h, w, x.shape[1])
    return resize_grid(x, _sizes(size), torch_default=torch_default) if size else x


def _patch(x: Any, *size: int) -> Any:
    return resize_patch(_kernel(x), _sizes(size)) if size else _kernel(x)


def _channels(x: Any, *channels: int) -> Any:
    return fit_channels(_kernel(x), *_sizes(channels)) if channels else _kernel(x)


def _kernel(x: Any) -> Any:
    if x.ndim != 4:
        raise ValueError('a kernel has the axes (h, w, C, D)')
    return x


def _sizes(sizes: tuple[int, ...]) -> Any:
    if min(sizes) < 1:
        raise ValueError('sizes are whole numbers from 1')
    return sizes


def _axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front."""
    if not -ndim <= axis < ndim:
        raise ValueError(f'axis {axis} is out of range, there are {ndim}')
    return axis % ndim


class _Known(NamedTuple):
    call: Callable[..., Any]
    takes: int | None  # how many numbers; None: any
    usage: str
    fits: tuple[int, ...] = ()  # axes of the leaf whose sizes `fit` writes behind the numbers


_TABLE: Final = {
    'transpose': _Known(_transpose, None, "('transpose', axis, axis, ...)"),
    'reshape': _Known(_reshape, None, "('reshape', size, size, ...)"),
    'part': _Known(_part, 3, "('part', i, n, axis)"),
    'flip': _Known(_flip, 1, "('flip', axis)"),
    'squeeze': _Known(_squeeze, 1, "('squeeze', axis)"),
    'expand': _Known(_expand, 1, "('expand', axis)"),
    'take': _Known(_take, 2, "('take', n, axis)"),
    'skip': _Known(_skip, 2, "('skip', n, axis)"),
    'grid': _Known(_grid, 2, "('grid', h, w)", (0, 1)),
    'torch_grid': _Known(partial(_grid, torch_default=True), 2, "('torch_grid', h, w)", (0, 1)),
    'patch': _Known(_patch, 0, "('patch',)", (0, 1)),
    'channels': _Known(_channels, 0, "('channels',)", (2,)),
}
