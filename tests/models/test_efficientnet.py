"""EfficientNet against logits that the original implementations gave (golden/make_efficientnet.py), and facts of its paper."""

import math
from functools import partial

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes
from jtl.models.efficientnet import efficientnet_b0, tf_efficientnet_b0

COUNTS = {
    'efficientnet_b0': 5_288_548,
    'efficientnet_b1': 7_794_184,
    'efficientnet_b2': 9_109_994,
    'efficientnet_b3': 12_233_232,
    'tf_efficientnet_b4': 19_341_616,
    'tf_efficientnet_b5': 30_389_784,
    'tf_efficientnet_b6': 43_040_704,
    'tf_efficientnet_b7': 66_347_960,
}
BLOCKS = {'b0': 16, 'b1': 23, 'b2': 23, 'b3': 26, 'b4': 32, 'b5': 39, 'b6': 45, 'b7': 55}


def test_logits_equal_those_of_torchvision():
    golden_case.check(
        'efficientnet_torchvision', {'name': 'efficientnet_b0', 'width': 0.25, 'depth': 0.25}, size=(37, 52), gain=1.5, tolerance=2e-5
    )


def test_logits_equal_those_of_transformers():
    golden_case.check(
        'efficientnet_transformers', {'name': 'tf_efficientnet_b0', 'width': 0.5, 'depth': 0.25}, size=(76, 44), gain=1.5, tolerance=2e-5
    )


LARGE = ('b5', 'b6', 'b7')  # seconds of shape inference each, and nothing that the smaller ones do not have


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name.endswith(LARGE) else name for name in COUNTS])
def test_sizes_are_those_published(name):
    variant, model = name[-2:], build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    features = params['backbone/top/conv/kernel'].shape[-1]
    assert sum(math.prod(leaf.shape) for leaf in params.values()) + (features + 1) * 1000 == COUNTS[name]
    assert [stage.name for stage in model.backbone.stages] == ['stem', *(f'block_{i}' for i in range(BLOCKS[variant])), 'top']
    if variant == 'b0':  # Keras counts statistics, and mean, variance and count of its Normalization layer
        assert COUNTS[name] + sum(math.prod(leaf.shape) for leaf in stats.values()) + 7 == 5_330_571


@pytest.mark.parametrize(('variant', 'torchvision', 'timm', 'tf'), [('b0', 256, 256, 256), ('b1', 255, 267, 272), ('b3', 320, 329, 332)])
def test_every_known_set_of_weights_has_its_own_preprocessing(variant, torchvision, timm, tf):
    def resize(preprocessing):
        return round(preprocessing.size[0] / preprocessing.crop)

    ours = build_model({'name': f'efficientnet_{variant}'}).weights
    assert [resize(weights.preprocessing) for weights in ours] == [torchvision, timm]
    theirs = build_model({'name': f'tf_efficientnet_{variant}'}).weights
    assert [resize(weights.preprocessing) for weights in theirs[2:]] == [tf] * 3
    assert {weights.preprocessing.interpolation for weights in theirs[:2]} == {'nearest'}, 'Hugging Face, with head and without'
    assert {weights.preprocessing.mean for weights in theirs} == {(123.675, 116.28, 103.53)}
    assert ours[1].preprocessing.mean == ((127.5,) * 3 if variant == 'b1' else (123.675, 116.28, 103.53))


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case: compiling an initialisation takes longer than all that is tested."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(
        lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape, gain=1.5), shapes
    )


TINY = {'width': 0.25, 'depth': 0.25}
MODEL = efficientnet_b0(**TINY)
X = golden_case.images((19, 14))
VARIABLES = _fill(MODEL.backbone.init, {'image': X})


@pytest.mark.parametrize('mode', [EVAL, Mode(True, True)])
def test_every_cut_equals_running_through(mode):
    """Of stem and two kinds of block, op by op: equal bit by bit."""
    modes = dict.fromkeys(('stem', 'block_0', 'block_1'), mode)
    run = partial(MODEL.backbone.apply, VARIABLES, mutable=['batch_stats'])
    whole, _ = run({'image': X}, modes, stop='block_2')
    assert whole['map'].shape == (2, 5, 4, 8) and whole.keys() == {'map'}
    for cut in ('block_0', 'block_1'):
        middle, _ = run({'image': X}, modes, stop=cut)
        end, _ = run(middle, modes, start=cut, stop='block_2')
        np.testing.assert_array_equal(end['map'], whole['map'], f'cut at {cut}')


def test_bfloat16_computes_near_float32():
    half = efficientnet_b0(**TINY, dtype=jnp.bfloat16)
    found = half.backbone.apply(VARIABLES, {'image': X}, stop='block_1')['map']
    wanted = MODEL.backbone.apply(VARIABLES, {'image': X}, stop='block_1')['map']
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def test_the_lineages_differ_in_padding_and_epsilon_alone():
    theirs = tf_efficientnet_b0(**TINY)
    assert jax.tree.map(jnp.shape, _fill(theirs.backbone.init, {'image': X})) == jax.tree.map(jnp.shape, VARIABLES)
    even = golden_case.images((20, 14))
    one, other = (model.backbone.apply(VARIABLES, {'image': even}, stop='block_0')['map'] for model in (MODEL, theirs))
    kernel = VARIABLES['params']['stem']['conv']['kernel']
    for found, pads, epsilon in ((one, ((1, 1), (1, 1)), 1e-5), (other, ((0, 1), (0, 1)), 1e-3)):
        y = jax.lax.conv_general_dilated(even, kernel, (2, 2), pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
        p, s = VARIABLES['params']['stem']['bn'], VARIABLES['batch_stats']['stem']['bn']
        y = (y - s['mean']) / jnp.sqrt(s['var'] + epsilon) * p['scale'] + p['bias']
        np.testing.assert_allclose(found, y / (1 + jnp.exp(-y)), atol=1e-6)


def _golden(name):
    """A checkpoint of the keys and shapes of a golden file."""
    with np.load(golden_case.GOLDEN / f'{name}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
    specs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    return Checkpoint(name, 'golden', specs, lambda key: golden_case.weight(key, shapes[key]))


def test_grey_pictures_get_the_sum_of_the_colour_kernels():
    model = efficientnet_b0(**TINY, image_channels=1)
    assert {weights.preprocessing.channels for weights in model.weights} == {model.preprocessing.channels} == {'L'}
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    checkpoint = _golden('efficientnet_torchvision')
    found = adapt(params | stats, {'': Source(checkpoint, model.weights[0].table)}).origins['backbone/stem/conv/kernel']
    wanted = golden_case.weight('features.0.0.weight', (8, 3, 3, 3)).transpose(2, 3, 1, 0).sum(2, keepdims=True)
    np.testing.assert_allclose(read(found, checkpoint), wanted, atol=1e-6)


@pytest.mark.parametrize(
    ('golden', 'name'), [('efficientnet_transformers', 'efficientnet_b0'), ('efficientnet_torchvision', 'tf_efficientnet_b0')]
)
def test_checkpoints_of_the_other_lineage_are_refused_where_keys_tell(golden, name):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        choose_table(_golden(golden), [weights.table for weights in model.weights], params | stats)


def test_layers_of_keras_are_counted_by_class_in_the_order_of_the_model():
    named, counted = (weights.table for weights in tf_efficientnet_b0(depth=0.25).weights[3:])
    pairs = {a.value[0]: b.value[0] for a, b in zip(named.rules + named.head, counted.rules + counted.head, strict=True)}
    assert len(set(pairs.values())) == len(pairs)
    assert pairs['stem_conv/kernel'] == 'layers/conv2d/vars/0'
    assert pairs['block1a_se_expand/bias'] == 'layers/conv2d_2/vars/1'
    assert pairs['block2a_expand_conv/kernel'] == 'layers/conv2d_4/vars/0', 'after stem, reduce, expand, project'
    assert pairs['block3a_dwconv/kernel'] == 'layers/depthwise_conv2d_2/vars/0'
    assert pairs['top_bn/moving_variance'] == 'layers/batch_normalization_21/vars/3', 'stem, 2 of the first block, 3 of six others'
    assert pairs['predictions/bias'] == 'layers/dense/vars/1'


def test_stochastic_depth_grows_with_depth():
    stages = efficientnet_b0(stochastic_depth=0.2).backbone.stages
    rates = [stage.make().drop_rate for stage in stages if stage.name.startswith('block')]
    np.testing.assert_allclose(rates, [0.2 * i / 16 for i in range(16)])


@pytest.mark.parametrize(
    'option', [{'stochastic_depth': 1.0}, {'bn_momentum': 1.5}, {'width': 0.0}, {'depth': -1.0}, {'image_channels': 0}]
)
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=next(iter(option))):
        build_model({'name': 'efficientnet_b0'} | option)
