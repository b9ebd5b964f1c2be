"""Position grids, patch kernels and first convolutions for other sizes, against Pillow, jax.image and hand computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl.checkpoint.adapt import NameTable, Source, adapt, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.leaf import apply, fit, spec_after
from jtl.checkpoint.resample import cubic_matrix, fit_channels, resize_grid, resize_patch
from jtl.errors import UserError
from jtl.rules import as_rules

SIZES = [((14, 14), (24, 24)), ((14, 14), (9, 5)), ((5, 7), (7, 5)), ((4, 1), (6, 3))]


def spec(*shape):
    return jax.ShapeDtypeStruct(shape, np.float32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(('before', 'after'), SIZES)
def test_grid_equals_pillow_and_jax(before, after):
    x = normal(*before, 3)
    ours = resize_grid(x, after)
    planes = [np.asarray(Image.fromarray(x[..., k]).resize(after[::-1], Image.Resampling.BICUBIC)) for k in range(3)]
    np.testing.assert_allclose(ours, np.stack(planes, -1), atol=1e-5)
    np.testing.assert_allclose(ours, jax.image.resize(x, (*after, 3), 'cubic'), atol=1e-5)
    assert ours.dtype == np.float32


def test_torch_default_by_hand():
    """Two numbers made four: the middle of the old pixels lies at 1/4 and 3/4 of the new ones; a = -3/4, borders repeated."""
    near, far = 1.25 * 0.75**3 - 2.25 * 0.75**2 + 1, -0.75 * 1.25**3 + 3.75 * 1.25**2 - 6 * 1.25 + 3
    near1, far1 = 1.25 * 0.25**3 - 2.25 * 0.25**2 + 1, -0.75 * 1.75**3 + 3.75 * 1.75**2 - 6 * 1.75 + 3
    # At -0.25: taps at -2, -1, 0, 1, the first three on the first number.
    np.testing.assert_allclose(cubic_matrix(2, 4, torch_default=True)[0], [far1 + near + near1, far], atol=1e-12)
    np.testing.assert_allclose(cubic_matrix(2, 4, torch_default=True)[3], [far, far1 + near + near1], atol=1e-12)


@pytest.mark.parametrize('torch_default', [False, True])
def test_rows_sum_to_one_and_nothing_changes_at_the_same_size(torch_default):
    for n, m in ((14, 24), (24, 14), (7, 7), (1, 5)):
        np.testing.assert_allclose(cubic_matrix(n, m, torch_default=torch_default).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(cubic_matrix(7, 7, torch_default=torch_default), np.eye(7), atol=1e-12)


def test_patch_kernel_answers_enlarged_pictures_as_the_old_one_did():
    kernel, picture = normal(4, 4, 2, 5), normal(4, 4, 2, seed=1)
    grown = resize_patch(kernel, (6, 8))
    rows, cols = cubic_matrix(4, 6), cubic_matrix(4, 8)
    enlarged = np.einsum('Hh,Ww,hwc->HWc', rows, cols, picture)
    np.testing.assert_allclose(np.einsum('hwc,hwcd->d', enlarged, grown), np.einsum('hwc,hwcd->d', picture, kernel), atol=1e-5)
    full = np.linalg.pinv(np.kron(rows, cols).T) @ kernel.reshape(16, 10)  # the definition, without the Kronecker product
    np.testing.assert_allclose(grown, full.reshape(6, 8, 2, 5), atol=1e-5)


def test_channels_answer_equal_channels_alike():
    kernel, grey = normal(3, 3, 3, 4), normal(3, 3, 1, seed=1)
    answer = np.einsum('hwc,hwcd->d', np.repeat(grey, 3, 2), kernel)
    for n in (1, 2, 3, 4, 7):
        np.testing.assert_allclose(np.einsum('hwc,hwcd->d', np.repeat(grey, n, 2), fit_channels(np.repeat(kernel[:, :, :1], 3, 2), n)),
                                   3 * np.einsum('hwc,hwcd->d', grey, kernel[:, :, :1]), atol=1e-5)  # fmt: skip
    np.testing.assert_allclose(np.einsum('hwc,hwcd->d', grey, fit_channels(kernel, 1)), answer, atol=1e-5)
    np.testing.assert_array_equal(fit_channels(kernel, 4)[:, :, 3], kernel[:, :, 0] * np.float32(0.75))


def test_fit_writes_the_leafs_sizes_or_leaves_out_what_has_nothing_to_do():
    grid = (('squeeze', 0), ('skip', 1, 0), ('grid', 2, 3))
    assert fit(grid, spec(1, 7, 4), (5, 2, 4)) == (*grid[:2], ('grid', 2, 3, 5, 2))
    assert fit(grid, spec(1, 7, 4), (2, 3, 4)) == (*grid[:2], ('grid', 2, 3, 2, 3))
    kernel = (('transpose', 2, 3, 1, 0), ('patch',), ('channels',))
    assert fit(kernel, spec(8, 3, 4, 4), (4, 4, 3, 8)) == kernel[:1]
    assert fit(kernel, spec(8, 3, 4, 4), (2, 4, 1, 8)) == (kernel[0], ('patch', 2, 4), ('channels', 1))
    assert fit(kernel, spec(8, 3, 4, 4), (8,)) == kernel


@pytest.mark.parametrize('function', [('grid', 2, 3, 4, 5), ('torch_grid', 2, 3, 4, 5), ('take', 2, 0), ('skip', 2, -1)])
def test_planned_shape_is_the_loaded_shape_and_numpy_equals_jax(function):
    x = normal(6, 4)
    loaded = apply((function,), x)
    assert spec_after((function,), spec(6, 4)).shape == loaded.shape
    np.testing.assert_allclose(jax.jit(lambda x: apply((function,), x))(x), loaded, atol=1e-6)
    half = jnp.asarray(x, jnp.bfloat16)
    assert apply((function,), half).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ('function', 'says'),
    [
        (('grid', 3, 3), r'grid\(3, 3\).*\(6, 4\).*a grid of 3 x 3 needs \(9, D\)'),
        (('grid', 3), r"should be written \('grid', h, w\)"),
        (('patch', 2, 2), 'the axes'),
        (('take', 7, 0), 'has no first 7'),
        (('skip', -1, 0), 'has no first -1'),
    ],
)
def test_wrong_functions_say_what_is_wrong(function, says):
    with pytest.raises(UserError, match=f'(?s){says}'):
        apply((function,), normal(6, 4), 'pos')


def checkpoint(arrays):
    return Checkpoint('w', 'fake', {k: spec(*v.shape) for k, v in arrays.items()}, arrays.__getitem__)


def adapted(rules, arrays, targets):
    table = NameTable('t', (), as_rules(rules, optional=True, origin='t'))
    source = checkpoint(arrays)
    found = adapt(targets, {'': Source(source, table)})
    return found, {path: read(origin, source) for path, origin in found.origins.items()}


POSITION = [
    ('backbone/cls_position', ('pos', ('squeeze', 0), ('take', 1, 0), ('squeeze', 0))),
    ('backbone/position', ('pos', ('squeeze', 0), ('skip', 1, 0), ('grid', 2, 2))),
]


def test_a_leaf_of_another_size_is_loaded_resized_and_the_plan_says_so():
    arrays = {'pos': normal(1, 5, 3)}
    found, leaves = adapted(POSITION, arrays, {'backbone/cls_position': spec(3), 'backbone/position': spec(3, 5, 3)})
    assert found.origins['backbone/position'].functions[-1] == ('grid', 2, 2, 3, 5)
    np.testing.assert_allclose(leaves['backbone/position'], resize_grid(arrays['pos'][0, 1:].reshape(2, 2, 3), (3, 5)))
    np.testing.assert_array_equal(leaves['backbone/cls_position'], arrays['pos'][0, 0])


def test_a_token_count_that_is_not_that_of_the_grid_is_an_error_and_so_is_half_a_key():
    targets = {'backbone/cls_position': spec(3), 'backbone/position': spec(2, 2, 3)}
    with pytest.raises(CheckpointError, match='a grid of 2 x 2 needs'):
        adapted(POSITION, {'pos': normal(1, 10, 3)}, targets)
    with pytest.raises(CheckpointError, match='the first 1 along axis 0 are read by no leaf'):
        adapted(POSITION, {'pos': normal(1, 5, 3)}, {'backbone/position': spec(2, 2, 3)})
