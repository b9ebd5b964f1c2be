"""Meshes of one real device, listed as often as a test needs; tests/train/test_devices.py has eight."""

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.parallel.mesh import batch_parts, defaults, local_rows, make_mesh, over_batch, put_batch, put_leaf, replicated


@pytest.mark.parametrize(
    ('sizes', 'count', 'shape'),
    [
        ({'data': -1}, 8, (1, 8, 1, 1)),
        ({'data': 8}, 8, (1, 8, 1, 1)),
        ({'data': -1, 'tensor': 2}, 8, (1, 4, 1, 2)),
        ({'tensor': -1, 'data': 2}, 8, (1, 2, 1, 4)),
        ({'dcn': 2, 'data': 1, 'fsdp': -1, 'tensor': 2}, 8, (2, 1, 2, 2)),
        ({'data': -1}, 1, (1, 1, 1, 1)),
        ({}, 1, (1, 1, 1, 1)),
    ],
)
def test_the_rest_goes_to_the_free_axis(sizes, count, shape):
    mesh = make_mesh(sizes, jax.devices()[:1] * count)
    assert tuple(mesh.shape.values()) == shape and mesh.axis_names == ('dcn', 'data', 'fsdp', 'tensor')
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    assert batch_parts(mesh) * shape[3] == count


def test_all_devices_by_default():
    assert make_mesh(defaults()).size == len(jax.devices())


@pytest.mark.parametrize(
    ('sizes', 'says'),
    [
        ({'data': 3}, r"^config\.mesh: \{'data': 3\} does not fit 8 devices\. Let one of them be -1"),
        ({'data': 4}, 'does not fit 8 devices'),
        ({'data': 16}, 'does not fit 8 devices'),
        ({'data': -1, 'tensor': 3}, 'does not fit 8 devices'),
        ({'data': -1, 'fsdp': -1}, 'at most one of them -1'),
        ({'data': 0}, r"^config\.mesh: sizes of at least 1, .* found \{'data': 0\}\.$"),
        ({'data': -2}, 'sizes of at least 1'),
        ({'model': 2}, r"^config\.mesh: the axes are dcn, data, fsdp, tensor, found 'model'\."),
        ({'tenor': 2}, 'tensor'),
    ],
)
def test_sizes_that_do_not_fit(sizes, says):
    with pytest.raises(UserError, match=says):
        make_mesh(sizes, jax.devices()[:1] * 8)


def test_a_batch_needs_to_divide():
    mesh = make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2}, jax.devices()[:1] * 8)
    with pytest.raises(UserError, match=r'^batch_size: 10 examples do not divide over 4 devices'):
        local_rows(mesh, 10)


def test_values_arrive_where_they_belong():
    mesh = make_mesh({'data': 1}, jax.devices()[:1])
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    batch = put_batch({'x': rows, 'y': rows[:, 0].astype(np.int32)}, mesh)
    assert np.array_equal(batch['x'], rows) and batch['y'].dtype == np.int32
    assert batch['x'].sharding == over_batch(mesh)
    leaf = put_leaf(rows, replicated(mesh))
    assert np.array_equal(leaf, rows) and leaf.sharding == replicated(mesh)
    assert local_rows(mesh, 4).tolist() == [0, 1, 2, 3]
