"""MobileNetV3 against logits that the original implementations gave (golden/make_mobilenet_v3.py), and facts of its paper."""

import math
from functools import partial

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes
from jtl.models.mobilenet_v3 import mobilenet_v3_large, mobilenet_v3_small

SIZE = (44, 67)
DEPTHS = (1, 2, 1, 1, 1)


def test_logits_equal_those_of_torchvision():
    golden_case.check(
        'mobilenet_v3_torchvision', {'name': 'mobilenet_v3_small', 'depths': DEPTHS, 'width': 0.5}, size=SIZE, gain=1.5, tolerance=2e-5
    )


def test_logits_equal_those_of_timm_as_tensorflow_pads():
    golden_case.check('mobilenet_v3_timm', {'name': 'tf_mobilenetv3_small_100', 'depths': DEPTHS}, size=SIZE, gain=1.5, tolerance=2e-5)


@pytest.mark.parametrize(
    ('make', 'count', 'keras', 'blocks'), [(mobilenet_v3_large, 5_483_032, 5_507_432, 15), (mobilenet_v3_small, 2_542_856, 2_554_968, 11)]
)
def test_sizes_are_those_published(make, count, keras, blocks):
    model = make()
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    head = (params['backbone/hidden/dense/bias'].shape[0] + 1) * 1000
    assert sum(math.prod(leaf.shape) for leaf in params.values()) + head == count
    assert count + sum(math.prod(leaf.shape) for leaf in stats.values()) == keras, 'Keras counts statistics'
    assert [stage.name for stage in model.backbone.stages] == ['stem', *(f'block_{i}' for i in range(blocks)), 'top', 'hidden']


def test_squeeze_and_excite_and_hard_swish_stand_where_the_paper_has_them():
    stages = [stage.make() for stage in mobilenet_v3_large().backbone.stages]
    blocks = stages[1:-2]
    assert [i for i, block in enumerate(blocks, 1) if block.squeeze_excite] == [4, 5, 6, 11, 12, 13, 14, 15]
    assert [i for i, block in enumerate(blocks, 1) if block.activation is jax.nn.hard_swish] == list(range(7, 16))
    assert [i for i, block in enumerate(blocks, 1) if block.stride == 2] == [2, 4, 7, 13]
    small = [stage.make() for stage in mobilenet_v3_small().backbone.stages][1:-2]
    assert [i for i, block in enumerate(small, 1) if not block.squeeze_excite] == [2, 3]
    assert [i for i, block in enumerate(small, 1) if block.activation is jax.nn.hard_swish] == list(range(4, 12))
    assert [i for i, block in enumerate(small, 1) if block.stride == 2] == [1, 2, 4, 9]


def test_every_known_set_of_weights_has_its_own_preprocessing():
    found = {
        name: [
            (round(224 / w.preprocessing.crop), w.preprocessing.interpolation, w.preprocessing.mean[0])
            for w in build_model({'name': name}).weights
        ]
        for name in ('mobilenet_v3_large', 'mobilenet_v3_small', 'mobilenetv3_large_100', 'tf_mobilenetv3_large_100')
    }
    assert found == {
        'mobilenet_v3_large': [(232, 'bilinear', 123.675)],
        'mobilenet_v3_small': [(256, 'bilinear', 123.675)],
        'mobilenetv3_large_100': [(256, 'bicubic', 123.675)],
        'tf_mobilenetv3_large_100': [(256, 'bilinear', 127.5)] * 4,
    }


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case: compiling an initialisation takes longer than all that is tested."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(
        lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape, gain=1.5), shapes
    )


TINY = {'depths': (1,) * 5, 'width': 0.5}
MODEL = mobilenet_v3_small(**TINY)
X = golden_case.images((19, 14))
VARIABLES = _fill(MODEL.backbone.init, {'image': X})


@pytest.mark.parametrize('mode', [EVAL, Mode(True, True)])
def test_every_cut_equals_running_through(mode):
    """Of the first stages and of the last, op by op: equal bit by bit."""
    run = partial(MODEL.backbone.apply, VARIABLES, modes=dict.fromkeys(('stem', 'block_0', 'top', 'hidden'), mode), mutable=['batch_stats'])
    for x, start, cuts, stop in (
        ({'image': X}, None, ('block_0',), 'block_1'),
        ({'map': jnp.asarray(golden_case.images((3, 2), channels=48))}, 'top', ('hidden',), None),
    ):
        whole, _ = run(x, start=start, stop=stop)
        for cut in cuts:
            middle, _ = run(x, start=start, stop=cut)
            end, _ = run(middle, start=cut, stop=stop)
            jax.tree.map(np.testing.assert_array_equal, end, whole)
    assert whole['pooled'].shape == (2, 512) and whole.keys() == {'pooled'}


def test_hidden_layer_by_hand():
    x = golden_case.images((2, 3), channels=288)
    found = MODEL.backbone.apply(VARIABLES, {'map': x}, start='hidden')['pooled']
    dense = VARIABLES['params']['hidden']['dense']
    y = x.mean((1, 2)) @ dense['kernel'] + dense['bias']
    np.testing.assert_allclose(found, y * np.clip(y + 3, 0, 6) / 6, atol=1e-5)


def test_bfloat16_computes_near_float32():
    half = mobilenet_v3_small(**TINY, dtype=jnp.bfloat16)
    x = {'map': jnp.asarray(golden_case.images((3, 2), channels=48))}
    found = half.backbone.apply(VARIABLES, x, start='top')['pooled']
    wanted = MODEL.backbone.apply(VARIABLES, x, start='top')['pooled']
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def _golden(name):
    """A checkpoint of the keys and shapes of a golden file."""
    with np.load(golden_case.GOLDEN / f'{name}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
    specs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    return Checkpoint(name, 'golden', specs, lambda key: golden_case.weight(key, shapes[key]))


def test_without_the_hidden_layer_its_keys_are_ignored_and_the_features_are_a_map():
    model = mobilenet_v3_small(depths=DEPTHS, width=0.5, hidden=False)
    shapes = jax.eval_shape(model.backbone.init, jax.random.key(0), {'image': X})
    assert jax.eval_shape(model.backbone.apply, shapes, {'image': X})['map'].shape == (2, 1, 1, 288)
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    assert model.backbone.stages[-1].name == 'top'
    found = adapt(params | stats, {'': Source(_golden('mobilenet_v3_torchvision'), model.weights[0].table)})
    ignored = {item.key for item in found.ignored if 'num_batches' not in item.key}
    assert ignored == {f'classifier.{i}.{leaf}' for i in (0, 3) for leaf in ('weight', 'bias')}


@pytest.mark.parametrize(
    ('golden', 'name'), [('mobilenet_v3_torchvision', 'tf_mobilenetv3_small_100'), ('mobilenet_v3_timm', 'mobilenet_v3_small')]
)
def test_checkpoints_of_another_lineage_are_refused_where_keys_tell(golden, name):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        choose_table(_golden(golden), [weights.table for weights in model.weights], params | stats)


def test_layers_of_keras_are_counted_by_class_in_the_order_of_the_model():
    named, named_by_2, counted = (weights.table for weights in build_model({'name': 'tf_mobilenetv3_small_100'}).weights[1:])
    pairs = {a.value[0]: b.value[0] for a, b in zip(named.rules + named.head, counted.rules + counted.head, strict=True)}
    assert len(set(pairs.values())) == len(pairs)
    assert pairs['conv/kernel'] == 'layers/conv2d/vars/0'
    assert pairs['expanded_conv_squeeze_excite_conv_1/bias'] == 'layers/conv2d_2/vars/1'
    assert pairs['expanded_conv_2_depthwise/kernel'] == 'layers/depthwise_conv2d_2/vars/0'
    assert pairs['conv_1_bn/moving_variance'] == 'layers/batch_normalization_33/vars/3', 'stem, 2 of the first block, 3 of ten others'
    assert pairs['logits/bias'] == f'layers/conv2d_{1 + 3 + 2 * 2 + 8 * 4 + 2}/vars/1', 'stem, blocks, conv_1 and conv_2 come before'
    pairs = {a.value[0]: b.value[0] for a, b in zip(named.rules + named.head, named_by_2.rules + named_by_2.head, strict=True)}
    assert pairs['conv_bn/gamma'] == 'Conv/BatchNorm/gamma' and pairs['logits/bias'] == 'Logits/bias'
    assert pairs['expanded_conv_depthwise/kernel'] == 'expanded_conv/depthwise/kernel'
    assert pairs['expanded_conv_3_squeeze_excite_conv_1/bias'] == 'expanded_conv_3/squeeze_excite/Conv_1/bias'
    assert pairs['expanded_conv_10_expand_bn/beta'] == 'expanded_conv_10/expand/BatchNorm/beta'


@pytest.mark.parametrize(
    'option',
    [
        {'depths': (1, 1)},
        {'depths': (1, 0, 1, 1, 1)},
        {'depths': (2, 1, 1, 1, 1)},
        {'width': 0.0},
        {'bn_momentum': 1.5},
        {'image_channels': 0},
    ],
)
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=next(iter(option))):
        build_model({'name': 'mobilenet_v3_small'} | option)
