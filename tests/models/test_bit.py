"""BiT against logits that other implementations gave (golden/make_bit.py), and facts of its paper."""

from pathlib import Path

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import choose_table
from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import depths, init_shapes
from jtl.models.bit import StdConv, bit

GOLDEN = Path(__file__).parent / 'golden'
SIZE = (37, 52)
# In millions, with a head of 1000 classes, as timm publishes them.
SIZES = {'50x1': 25.55, '50x3': 217.32, '101x1': 44.54, '101x3': 387.93, '152x2': 236.34, '152x4': 936.53}


def test_npz_of_the_original_gives_the_logits_that_timm_gives():
    golden_case.check('bit_npz', {'name': 'bit_resnet50x1', 'depths': (2, 1), 'width': 32}, size=SIZE, tolerance=2e-5)


def test_logits_equal_those_of_transformers():
    golden_case.check('bit_transformers', {'name': 'bit_resnet50x1', 'depths': (1, 2), 'width': 32}, size=SIZE, tolerance=2e-5)


@pytest.mark.parametrize('name', SIZES)
def test_sizes_are_those_published(name):
    model = build_model({'name': f'bit_resnet{name}'})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    features = params['backbone/norm/norm/scale'].shape[0]
    assert round((sum(int(np.prod(leaf.shape)) for leaf in params.values()) + (features + 1) * 1000) / 1e6, 2) == SIZES[name]
    assert features == 2048 * int(name[-1]) and not stats
    layers, last = name.split('x')[0], model.backbone.stages[-1]
    assert sum(path.endswith('kernel') and '/shortcut/' not in path for path in params) + 1 == int(layers)
    assert last.tail and last.name == 'norm' and depths(model.backbone.stages)['norm'] == len(model.backbone.stages) - 1


TINY = bit(depths=(1,), width=32)
X = golden_case.images((19, 14))
SHAPES = jax.eval_shape(TINY.backbone.init, jax.random.key(0), {'image': X})
VARIABLES = jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), SHAPES)


@pytest.fixture(scope='module')
def whole():
    return TINY.backbone.apply(VARIABLES, {'image': X})


def test_every_cut_equals_running_through(whole):
    assert whole['map'].shape == (2, 5, 4, 128) and whole.keys() == {'map'}
    for stage in TINY.backbone.stages[1:]:
        middle = TINY.backbone.apply(VARIABLES, {'image': X}, stop=stage.name)
        end = TINY.backbone.apply(VARIABLES, middle, start=stage.name)
        np.testing.assert_array_equal(end['map'], whole['map'], f'cut at {stage.name}')


def test_bfloat16_computes_near_float32(whole):
    half = bit(depths=(1,), width=32, dtype=jnp.bfloat16)
    found = jax.jit(half.backbone.apply)(VARIABLES, {'image': X})['map']
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), whole['map'], atol=0.05 * float(jnp.abs(whole['map']).max()))


def test_kernels_are_standardised_for_each_output():
    x = np.random.RandomState(0).standard_normal((1, 4, 5, 3))
    kernel = np.random.RandomState(1).standard_normal((3, 3, 3, 2)) * [0.01, 30.0] + [5.0, -7.0]
    found = StdConv(2, 3, stride=2).apply({'params': {'kernel': jnp.asarray(kernel, jnp.float32)}}, jnp.asarray(x, jnp.float32))
    padded = np.pad(x[0], ((1, 1), (1, 1), (0, 0)))
    standard = (kernel - kernel.mean((0, 1, 2))) / kernel.std((0, 1, 2))
    wanted = [[np.tensordot(padded[i : i + 3, j : j + 3], standard, 3) for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_allclose(
        found[0], wanted, atol=2e-3
    )  # the first kernel has 500 times its deviation as mean: what float32 leaves of it


@pytest.mark.parametrize(
    ('key', 'shape', 'other', 'side', 'crop'),
    [
        ('resnet/head/conv2d/kernel', (1, 1, 2048, 21843), {}, 224, 0.875),
        ('resnet/head/conv2d/kernel', (1, 1, 2048, 1000), {}, 480, 1.0),
        ('head.fc.weight', (21843, 2048, 1, 1), {}, 224, 0.875),
        ('head.fc.weight', (1000, 2048, 1, 1), {}, 448, 1.0),
        ('head.fc.weight', (1000, 8192, 1, 1), {'width': 256}, 480, 1.0),
    ],
)
def test_weights_are_told_apart_by_their_classes(key, shape, other, side, crop):
    model = bit(**other)
    keys = {name for weights in model.weights for name in weights.table.detect if ('/' in key) == ('/' in name)} | {key}
    specs = {name: jax.ShapeDtypeStruct(shape if name == key else (1,), jnp.float32) for name in keys}
    table = choose_table(Checkpoint('x', 'y', specs, np.zeros), [weights.table for weights in model.weights], ['backbone/stem/conv/kernel'])
    found = next(weights.preprocessing for weights in model.weights if weights.table == table)
    assert (found.size, found.crop, found.mean, found.std, found.interpolation) == (
        (side,) * 2,
        crop,
        (127.5,) * 3,
        (127.5,) * 3,
        'bilinear',
    )


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'width': 48}, 'multiple of 32'),
        ({'width': 0}, 'multiple of 32'),
        ({'depths': ()}, 'depths'),
        ({'image_channels': 0}, 'image_channels'),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'bit_resnet50x1'} | option)
