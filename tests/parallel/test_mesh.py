"""Meshes of one real device, listed as often as a test needs; tests/train/test_devices.py has eight."""

import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.parallel.mesh import local_slots, make_mesh, over_data, put_batch, put_leaf, replicated


@pytest.mark.parametrize(
    ('sizes', 'count', 'shape'),
    [
        ({'data': -1}, 8, {'data': 8}),
        ({'data': 8}, 8, {'data': 8}),
        ({'data': -1, 'model': 2}, 8, {'data': 4, 'model': 2}),
        ({'data': 2, 'model': -1}, 8, {'data': 2, 'model': 4}),
        ({'data': -1}, 1, {'data': 1}),
        ({'data': 1, 'model': -1}, 1, {'data': 1, 'model': 1}),
    ],
)
def test_the_rest_goes_to_the_free_axis(sizes, count, shape):
    mesh = make_mesh(sizes, jax.devices()[:1] * count)
    assert dict(mesh.shape) == shape and mesh.axis_names == tuple(sizes)
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_all_devices_by_default():
    assert make_mesh({'data': -1}).size == len(jax.devices())


@pytest.mark.parametrize(
    ('sizes', 'says'),
    [
        ({'data': 3}, r"^config\.mesh: \{'data': 3\} does not fit 8 devices\.$"),
        ({'data': 4}, 'does not fit 8 devices'),
        ({'data': 16}, 'does not fit 8 devices'),
        ({'data': -1, 'model': 3}, 'does not fit 8 devices'),
        ({'data': -1, 'model': -1}, 'at most one of them -1'),
        ({'data': 0}, r"^config\.mesh: sizes of at least 1, .* found \{'data': 0\}\.$"),
        ({'data': -2}, 'sizes of at least 1'),
        ({}, 'sizes of at least 1'),
    ],
)
def test_sizes_that_do_not_fit(sizes, says):
    with pytest.raises(UserError, match=says):
        make_mesh(sizes, jax.devices()[:1] * 8)


def test_a_batch_needs_a_data_axis_and_to_divide():
    with pytest.raises(UserError, match=r'^config\.mesh: needs an axis named data, found model\.$'):
        over_data(make_mesh({'model': 1}, jax.devices()[:1]))
    with pytest.raises(UserError, match=r'^batch_size: 12 examples do not divide over 8 devices'):
        local_slots(make_mesh({'data': 8}, jax.devices()[:1] * 8), 12)


def test_values_arrive_where_they_belong():
    mesh = make_mesh({'data': 1}, jax.devices()[:1])
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    batch = put_batch({'x': rows, 'y': rows[:, 0].astype(np.int32)}, mesh)
    assert np.array_equal(batch['x'], rows) and batch['y'].dtype == np.int32
    assert batch['x'].sharding == over_data(mesh)
    leaf = put_leaf(rows, replicated(mesh))
    assert np.array_equal(leaf, rows) and leaf.sharding == replicated(mesh)
    assert local_slots(mesh, 4) == slice(0, 4)
