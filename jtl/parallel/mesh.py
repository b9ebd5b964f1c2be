"""The device mesh, and where parameters and batches lie on it."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jtl.errors import UserError


def make_mesh(sizes: Mapping[str, int], devices: list[Any] | None = None) -> Mesh:
    """A mesh with the named axes; a size of -1 takes the devices that are left.

    The default config is `{'data': -1}`: all devices, data-parallel. UserError where the sizes do not multiply to the device count.
    """
    devices = jax.devices() if devices is None else devices
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    free = [name for name, size in sizes.items() if size == -1]
    if len(free) > 1 or any(size < 1 and size != -1 for size in sizes.values()) or not sizes:
        raise UserError(f'config.mesh: sizes of at least 1, at most one of them -1 (the rest), found {dict(sizes)}.')
    if len(devices) % fixed or (not free and fixed != len(devices)):
        raise UserError(f'config.mesh: {dict(sizes)} does not fit {len(devices)} devices.')
    shape = tuple(len(devices) // fixed if size == -1 else size for size in sizes.values())
    return Mesh(np.asarray(devices).reshape(shape), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: parameters, optimizer state, scalars."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading (example) axis split over the mesh's `data` axis; UserError for a mesh without one."""
    if 'data' not in mesh.axis_names:
        raise UserError(f'config.mesh: needs an axis named data, found {", ".join(mesh.axis_names)}.')
    return NamedSharding(mesh, PartitionSpec('data'))


def local_slots(mesh: Mesh, batch_size: int) -> slice:
    """The contiguous rows of a global batch that this process feeds. UserError where the batch does not divide over the devices."""
    sharding = over_data(mesh)
    if batch_size % mesh.shape['data']:
        raise UserError(f'batch_size: {batch_size} examples do not divide over {mesh.shape["data"]} devices of the data axis.')
    rows = [index[0] for index in sharding.addressable_devices_indices_map((batch_size,)).values() if index is not None]
    return slice(min(r.start or 0 for r in rows), max(batch_size if r.stop is None else r.stop for r in rows))


def put_batch(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a batch as global arrays, split over the data axis."""
    sharding = over_data(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put_leaf(value: np.ndarray, sharding: NamedSharding) -> jax.Array:
    """A host array as a global one; each device receives its part alone."""
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
