from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage, stats

from jtl.data.warp import FILLS, affine_matrix, mirror, random_matrix, warp

RANGES = {'rotation': 50.0, 'height_shift': 0.3, 'width_shift': 0.1, 'shear': 30.0, 'zoom': (0.5, 1.25)}


def scipy_warp(image, matrix, fill, value=0.0):
    """float64; scipy's offset counts from the first pixel, ours from the middle."""
    matrix, middle = matrix.astype(np.float64), (np.array(image.shape[:2]) - 1) / 2
    linear = matrix[:, :2]
    offset = middle + matrix[:, 2] - linear @ middle
    planes = [
        ndimage.affine_transform(image[..., c].astype(np.float64), linear, offset, order=1, mode=fill, cval=value)
        for c in range(image.shape[-1])
    ]
    return np.stack(planes, -1)


@pytest.mark.parametrize('fill', FILLS)
def test_warp_equals_scipy(fill):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (24, 9, 14, 3), np.uint8)
    matrices = np.concatenate([rng.normal(size=(24, 2, 2)), 8 * rng.normal(size=(24, 2, 1))], -1).astype(np.float32)
    matrices[0] = np.eye(2, 3)
    matrices[1] = np.eye(2, 3)
    matrices[1, :, 2] = (2, -3)  # whole pixels
    matrices[2] = 40 * matrices[2]  # far outside, several mirrors away
    apart = fill != 'nearest'  # with nine rows, in halves of five
    found = np.asarray(jax.jit(jax.vmap(partial(warp, fill=fill, fill_value=77.0, apart=apart)))(images, matrices))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found[0], images[0])
    for image, matrix, result in zip(images, matrices, found, strict=True):
        # The third is looked up 300 pixels away, where float32 keeps fewer digits.
        np.testing.assert_allclose(result, scipy_warp(image, matrix, fill, 77.0), atol=0.03 if abs(matrix).max() > 50 else 2e-3)
    if fill == 'constant':
        assert (found == 77).any() and (found != 77).any()


def test_no_pixel_of_large_pictures_has_a_neighbours_weight():
    """Index and weight that a fused loop computes apart, rounding one of them otherwise, would give a wrong pixel in a million."""
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (6, 160, 160, 3), np.uint8)
    angles, shifts = np.deg2rad(rng.uniform(-20, 20, 6)).astype(np.float32), rng.uniform(-30, 30, (2, 6)).astype(np.float32)

    @jax.jit
    def turned(images, angles, shifts):
        matrices = jax.vmap(affine_matrix)(angles, shifts[0], shifts[1], angles / 2, jnp.ones((6, 2)))
        return jax.vmap(warp)(images, matrices), matrices

    found, matrices = map(np.asarray, turned(images, angles, shifts))
    wanted = np.stack([scipy_warp(image, matrix, 'nearest') for image, matrix in zip(images, matrices, strict=True)])
    np.testing.assert_allclose(found, wanted, atol=0.03)


def test_matrix_is_the_product_of_kerass():
    rng = np.random.default_rng(2)
    for angle, slant, down, right, rows, columns in rng.uniform(-1, 1, (5, 6)):
        found = np.asarray(affine_matrix(*map(jnp.float32, (angle, down, right, slant)), jnp.array([1 + rows / 2, 1 + columns / 2])))
        rotate = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        shift = np.array([[1, 0, right], [0, 1, down], [0, 0, 1]])
        shear = np.array([[1, -np.sin(slant), 0], [0, np.cos(slant), 0], [0, 0, 1]])
        zoom = np.diag([1 + columns / 2, 1 + rows / 2, 1])
        x, y, one = 0, 1, 2
        wanted = (rotate @ shift @ shear @ zoom)[np.ix_([y, x], [y, x, one])]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_drawn_parameters_are_uniform_in_their_ranges_and_independent():
    n, size = 3000, (40, 60)
    keys = jax.random.split(jax.random.key(0), n)
    m = np.asarray(jax.jit(jax.vmap(lambda key: random_matrix(key, size, **RANGES)))(keys), np.float64)
    (rows, columns) = m[:, 0], m[:, 1]
    angle = np.arctan2(rows[:, 1], columns[:, 1])
    shear = np.arctan2(-columns[:, 0], rows[:, 0]) - angle
    right = np.cos(angle) * columns[:, 2] + np.sin(angle) * rows[:, 2]
    down = np.cos(angle) * rows[:, 2] - np.sin(angle) * columns[:, 2]
    drawn = {
        'rotation': (np.rad2deg(angle), -50, 50),
        'shear': (np.rad2deg(shear), -30, 30),
        'height_shift': (down / 40, -0.3, 0.3),
        'width_shift': (right / 60, -0.1, 0.1),
        'zoom of rows': (np.hypot(rows[:, 0], columns[:, 0]), 0.5, 1.25),
        'zoom of columns': (np.hypot(rows[:, 1], columns[:, 1]), 0.5, 1.25),
    }
    for name, (values, low, high) in drawn.items():
        assert stats.kstest((values - low) / (high - low), 'uniform').pvalue > 1e-3, name
    correlations = np.corrcoef([values for values, _, _ in drawn.values()]) - np.eye(len(drawn))
    assert np.abs(correlations).max() < 0.08


def test_a_mirrored_map_is_the_mirrored_picture():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (7, 10, 1), np.uint8)
    matrix = jnp.asarray(np.concatenate([rng.normal(size=(2, 2)), rng.normal(size=(2, 1))], -1), jnp.float32)
    run = jax.jit(warp)
    for down in (False, True):
        for across in (False, True):
            axes = [axis for axis, flip in enumerate((down, across)) if flip]
            np.testing.assert_allclose(run(image, mirror(matrix, (down, across))), np.flip(run(image, matrix), axes), atol=1e-3)
