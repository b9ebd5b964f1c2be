"""Where every parameter, statistic and moment lies on the mesh, by rules like everything else.

A rule's value says how a leaf is split:

  'whole'         on every device;
  'fsdp'          its largest dimension that the axis `fsdp` divides (the last of equals) is split over it; whole, where there is none;
  ('tensor', k)   dimension k (from the end where negative) is split over the axis `tensor`, if that divides it, and the largest of the others
                  (of a bias the same) over `fsdp`: what families declare for the matrices of attention and MLP;
  a tuple with an entry for each dimension: None, the name of an axis, or a tuple of such names.

A user's rules (`config.sharding`) come first; then BatchNorm statistics are whole, `config.frozen.sharding` says it of what no phase trains,
the family's rules of its matrices, and all else is 'fsdp'.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jtl.errors import UserError
from jtl.parallel.mesh import AXES, batch_parts, over_batch, replicated
from jtl.rules import Assignment, Rule, as_rules, resolve

Spec = tuple[tuple[str, ...], ...]
"""The axes over which each dimension is split."""


def frozen_defaults() -> dict[str, str]:
    """The config's `frozen` section: of the parameters that no phase trains."""
    return {
        'dtype': '',  # in which they are kept: 'bfloat16' halves their memory; '': as others
        'sharding': '',  # how they are split, where no rule of `sharding` says so: 'whole', 'fsdp'; '': as others
    }


@dataclass(frozen=True)
class Placement:
    """Where things lie: made by `place`.

    Attributes:
      mesh: of devices.
      specs: of each leaf, by path.
    """

    mesh: Mesh
    specs: Mapping[str, Spec]

    def leaf(self, path: str) -> NamedSharding:
        """Where the leaf at `path` lies, and its gradient and average."""
        return NamedSharding(self.mesh, partition(self.specs[path]))

    def leaves(self, paths: Collection[str]) -> dict[str, NamedSharding]:
        """The same of several, by path."""
        return {path: self.leaf(path) for path in paths}

    def moment(self, path: str, shape: Sequence[int]) -> NamedSharding:
        """Where a moment of that leaf lies: as the leaf, where they are of one shape; else by its own largest dimension."""
        spec = self.specs[path]
        if len(spec) != len(shape) or any(n % self._parts(axes) for n, axes in zip(shape, spec, strict=True)):
            spec = largest_over('fsdp', shape, self.mesh)
        return NamedSharding(self.mesh, partition(spec))

    @property
    def whole(self) -> NamedSharding:
        """The same on every device."""
        return replicated(self.mesh)

    @property
    def batch(self) -> NamedSharding:
        """Examples over the axes of the batch."""
        return over_batch(self.mesh)

    def of_batch(self, features: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """Inside jit: the features between two stages, which lie as the batch does, whole examples, no part of one elsewhere.

        Unsaid, a compiler may think that to split activations where a parameter is split costs less than to gather the parameter.
        """
        parts = self.batch_parts
        return {
            name: jax.lax.with_sharding_constraint(x, self.batch) if x.ndim and x.shape[0] % parts == 0 else x
            for name, x in features.items()
        }

    def read(self, leaves: Mapping[str, Any]) -> dict[str, Any]:
        """Inside jit: the leaves, tables in which rows are looked up gathered over `fsdp` first.

        Rows of a table that is split by columns would be looked up in part, and moved for each example; the compiler knows no good way back
        to whole examples.
        """
        found = dict(leaves)
        for path in [path for path in leaves if path.endswith('/embedding') and any('fsdp' in axes for axes in self.specs.get(path, ()))]:
            rest = tuple(tuple(axis for axis in axes if axis != 'fsdp') for axes in self.specs[path])
            found[path] = jax.lax.with_sharding_constraint(leaves[path], NamedSharding(self.mesh, partition(rest)))
        return found

    @property
    def batch_parts(self) -> int:
        """Into how many parts a batch is split."""
        return batch_parts(self.mesh)

    def parts(self, path: str) -> int:
        """Into how many parts a leaf is split."""
        return self._parts(tuple(axis for axes in self.specs[path] for axis in axes))

    def _parts(self, axes: Collection[str]) -> int:
        return prod(self.mesh.shape[axis] for axis in axes)


def place(
    mesh: Mesh,
    shapes: Mapping[str, Sequence[int]],
    *,
    rules: Sequence[Any] = (),
    family: Sequence[tuple[str, Any]] = (),
    statistics: Collection[str] = (),
    frozen: Collection[str] = (),
    frozen_value: Any = '',
) -> tuple[Placement, Assignment]:
    """The placement of every leaf, and which rule decided it.

    Args:
      mesh: of AXES.
      shapes: of each leaf, by path.
      rules: the user's (pattern, value) pairs.
      family: those that the model's family declares; optional ones.
      statistics: paths of BatchNorm's, whole where no rule of the user's matches: they are small, and read in every step.
      frozen: paths that no phase trains.
      frozen_value: what is done to those, where no rule of the user's matches; '' for the same as to all others.

    Raises:
      UserError: a rule that matches nothing, or whose value is none, or does not fit a leaf that it matches.
    """
    users = as_rules(rules, origin='config.sharding')
    own = [*users, *as_rules(family, optional=True, origin='family'), Rule('.*', 'fsdp', optional=True, origin='default')]
    assigned = resolve(own, shapes, what='sharding rule')
    specs = {}
    for path, shape in shapes.items():
        index = assigned.by[path]
        value, where = assigned.values[path], f'config.sharding, {own[index].pattern!r}'
        if index >= len(users) and path in statistics:
            value = 'whole'
        elif index >= len(users) and frozen_value and path in frozen:
            value, where = frozen_value, 'config.frozen.sharding'
        specs[path] = spec_of(value, shape, mesh, f'{where}: {path}')
    return Placement(mesh, specs), assigned


def spec_of(value: Any, shape: Sequence[int], mesh: Mesh, where: str = 'sharding') -> Spec:
    """The axes of each dimension that a rule's value means for a leaf of that shape. Axes of one device are left out.

    Raises:
      UserError: a value that is none, or names an axis that does not divide its dimension; `where` begins the message.
    """
    if value == 'whole':
        return ((),) * len(shape)
    if value == 'fsdp':
        return largest_over('fsdp', shape, mesh)
    if isinstance(value, list | tuple) and len(value) == 2 and value[0] == 'tensor' and isinstance(value[1], int):
        k = value[1]
        if not -len(shape) <= k < len(shape):
            raise UserError(f'{where} has {len(shape)} dimensions, the rule splits dimension {k}.')
        k, tensor, fsdp = k % len(shape), mesh.shape['tensor'], mesh.shape['fsdp']
        axes: tuple[str, ...] = ('tensor',) if shape[k] % tensor == 0 else ()
        if axes and len(shape) == 1 and shape[k] % (tensor * fsdp) == 0:
            axes = ('tensor', 'fsdp')  # a bias has no other dimension
        spec = _without_ones([axes if i == k else () for i in range(len(shape))], mesh)
        return spec if 'fsdp' in axes else largest_over('fsdp', shape, mesh, spec)
    if not isinstance(value, list | tuple):
        raise UserError(f"{where}: 'whole', 'fsdp', ('tensor', dimension), or an entry for each dimension, found {value!r}.")
    entries: list[tuple[str, ...]] = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in value]
    named = [axis for entry in entries for axis in entry]
    if set(named) - set(AXES) or len(named) != len(set(named)):
        raise UserError(f'{where}: each of the axes {", ".join(AXES)} at most once, found {value!r}.')
    if len(entries) != len(shape):
        raise UserError(f'{where} has {len(shape)} dimensions {tuple(shape)}, the rule has {len(entries)} entries.')
    for n, entry in zip(shape, entries, strict=True):
        if n % prod(mesh.shape[axis] for axis in entry):
            raise UserError(
                f'{where}: a dimension of {n} is not divisible by the {prod(mesh.shape[a] for a in entry)} devices of {", ".join(entry)}.'
            )
    return _without_ones(entries, mesh)


def largest_over(axis: str, shape: Sequence[int], mesh: Mesh, spec: Spec | None = None) -> Spec:
    """`spec` (default: nothing split) with the largest dimension that is still whole, and that `axis` divides, split over it."""
    spec, parts = spec or ((),) * len(shape), mesh.shape[axis]
    fit = [k for k, n in enumerate(shape) if not spec[k] and n and n % parts == 0]
    if parts == 1 or not fit:
        return spec
    best = max(fit, key=lambda k: (shape[k], k))
    return tuple((axis,) if k == best else entry for k, entry in enumerate(spec))


def partition(spec: Spec) -> PartitionSpec:
    """The same as JAX says it."""
    return PartitionSpec(*(None if not axes else axes[0] if len(axes) == 1 else axes for axes in spec))


def spec_text(spec: Spec) -> str:
    """For people: 'whole', or the axes of each dimension, '-' where it is not split.

    >>> spec_text(((), ('fsdp', 'tensor')))
    '- x fsdp,tensor'
    """
    return ' x '.join(','.join(axes) or '-' for axes in spec) if any(spec) else 'whole'


def _without_ones(spec: Sequence[tuple[str, ...]], mesh: Mesh) -> Spec:
    return tuple(tuple(axis for axis in axes if mesh.shape[axis] > 1) for axes in spec)
