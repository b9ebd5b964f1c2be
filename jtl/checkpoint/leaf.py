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

>>> apply((('transpose', 1, 0), ('part', 1, 2, -1)), np.arange(6).reshape(2, 3)).tolist()
[[3], [4], [5]]
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import jax
import numpy as np

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
        if not whole or (known.takes is not None and len(numbers) != known.takes):
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


def _axis(axis: int, ndim: int) -> int:
    """`axis` counted from the front."""
    if not -ndim <= axis < ndim:
        raise ValueError(f'axis {axis} is out of range, there are {ndim}')
    return axis % ndim


class _Known(NamedTuple):
    call: Callable[..., Any]
    takes: int | None  # how many numbers; None: any
    usage: str


_TABLE: Final = {
    'transpose': _Known(_transpose, None, "('transpose', axis, axis, ...)"),
    'reshape': _Known(_reshape, None, "('reshape', size, size, ...)"),
    'part': _Known(_part, 3, "('part', i, n, axis)"),
    'flip': _Known(_flip, 1, "('flip', axis)"),
    'squeeze': _Known(_squeeze, 1, "('squeeze', axis)"),
    'expand': _Known(_expand, 1, "('expand', axis)"),
}
