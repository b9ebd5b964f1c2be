"""The device mesh, and how a batch lies on it.

Four axes, always in this order, of sizes that multiply to the number of devices:

  dcn     slices of a TPU pod (or racks of GPUs) that a slower network joins; the batch is split over them;
  data    the batch is split, parameters are whole;
  fsdp    the batch is split, and so are parameters and optimizer state (Zhao et al. 2023; ZeRO stage 3, Rajbhandari et al. 2020);
  tensor  the matrices of a layer are split, the batch is not (Shoeybi et al. 2019, Megatron-LM).
"""

from collections.abc import Mapping
from math import prod
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from jtl.errors import UserError, did_you_mean

AXES = ('dcn', 'data', 'fsdp', 'tensor')
BATCH = ('dcn', 'data', 'fsdp')
"""The axes that a batch is split over."""


def defaults() -> dict[str, int]:
    """The config's `mesh` section: all devices data-parallel."""
    return {'dcn': 1, 'data': -1, 'fsdp': 1, 'tensor': 1}  # devices of each axis; -1: the rest


def make_mesh(sizes: Mapping[str, int], devices: list[Any] | None = None) -> Mesh:
    """A mesh of AXES; a size of -1 takes the devices that are left, an axis that is not named has one.

    On TPUs the devices are ordered by where they stand in the torus, so that neighbours on an axis are neighbours on the wire
    (`jax.experimental.mesh_utils`).

    Args:
      sizes: by axis.
      devices: all by default.

    Raises:
      UserError: an axis that is none of AXES, or sizes that do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    unknown = [name for name in sizes if name not in AXES]
    if unknown:
        raise UserError(f'config.mesh: the axes are {", ".join(AXES)}, found {unknown[0]!r}. {did_you_mean(unknown[0], AXES)}'.rstrip())
    free = [name for name, size in sizes.items() if size == -1]
    told = {name: size for name, size in sizes.items() if size != 1} or dict(sizes)
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()):
        raise UserError(f'config.mesh: sizes of at least 1, at most one of them -1 (the rest), found {told}.')
    fixed = prod(size for size in sizes.values() if size != -1)
    if len(devices) % fixed or (not free and fixed != len(devices)):
        rest = '' if free else ' Let one of them be -1: the rest.'
        raise UserError(f'config.mesh: {told} does not fit {len(devices)} devices.{rest}')
    full = {name: len(devices) // fixed if size == -1 else size for name, size in {**dict.fromkeys(AXES, 1), **sizes}.items()}
    return Mesh(_arranged(full, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arranged(sizes: Mapping[str, int], devices: list[Any]) -> np.ndarray:
    shape = tuple(sizes[name] for name in AXES)
    if devices[0].platform != 'tpu':
        return np.asarray(devices).reshape(shape)  # in the order of processes
    slices = len({getattr(device, 'slice_index', 0) for device in devices})
    if slices == 1 and sizes['dcn'] == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if slices != sizes['dcn']:
        raise UserError(f'config.mesh.dcn: {sizes["dcn"]}, but the devices are of {slices} slices.')
    inside, between = (1, *shape[1:]), (slices, *(1,) * (len(shape) - 1))
    return mesh_utils.create_hybrid_device_mesh(inside, between, devices, allow_split_physical_axes=True)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: scalars, and what is small."""
    return NamedSharding(mesh, PartitionSpec())


def over_batch(mesh: Mesh) -> NamedSharding:
    """The leading (example) axis split over all axes of BATCH."""
    return NamedSharding(mesh, PartitionSpec(BATCH))


def batch_parts(mesh: Mesh) -> int:
    """Into how many parts a batch is split."""
    return prod(mesh.shape[name] for name in BATCH)


def local_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, ' b']:
    """The rows of a global batch that this process feeds, in order. UserError where the batch does not divide over the devices."""
    parts = batch_parts(mesh)
    if batch_size % parts:
        raise UserError(f'batch_size: {batch_size} examples do not divide over {parts} devices (mesh axes {", ".join(BATCH)}).')
    held = over_batch(mesh).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in held.values() if index is not None]))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch, those of `local_rows`, as global arrays over BATCH."""
    parts = batch_parts(mesh)
    blocks = local_rows(mesh, parts)  # which parts are here
    return {name: _put_rows(value, over_batch(mesh), parts, blocks) for name, value in batch.items()}


def _put_rows(value: np.ndarray, sharding: NamedSharding, parts: int, blocks: np.ndarray) -> jax.Array:
    rows = len(value) // len(blocks)

    def part(index: Any) -> np.ndarray:
        here = int(np.searchsorted(blocks, (index[0].start or 0) // rows)) * rows
        return value[here : here + rows]

    return jax.make_array_from_callback((rows * parts, *value.shape[1:]), sharding, part)


def put_whole(tree: Any, mesh: Mesh) -> Any:
    """Small host arrays, the same on every process, as global ones on every device. (`jax.device_put` compares them between the processes.)"""
    return jax.tree.map(lambda value: put_leaf(np.asarray(value), replicated(mesh)), tree)


def put_leaf(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array as a global one; each device receives its part alone."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
