"""ConvNeXt against logits that the original implementations gave (golden/make_convnext.py), and facts of its paper."""

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import Mode, depths, init_shapes
from jtl.models.convnext import Block, convnext

SIZE = (37, 50)
TINY = {'name': 'convnext_tiny', 'depths': (1, 1), 'width': 4}
SIZES = {'convnext_tiny': 28_589_128, 'convnext_small': 50_223_688, 'convnext_base': 88_591_464}


@pytest.mark.parametrize('source', ['torchvision', 'transformers'])
def test_logits_equal_those_of_the_original(source):
    golden_case.check(f'convnext_{source}', TINY, size=SIZE, tolerance=2e-5)


@pytest.mark.parametrize(('name', 'side'), [('convnext_tiny', 236), ('convnext_small', 230), ('convnext_base', 232)])
def test_sizes_are_those_published(name, side):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    width = params['backbone/norm/layer_norm/scale'].shape[0]
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) + (width + 1) * 1000 == SIZES[name]
    assert not stats
    assert params['backbone/layer_3_0/depthwise/kernel'].shape == (7, 7, 1, width // 2)
    assert [round(224 / w.preprocessing.crop) for w in model.weights] == [side, *[256] * 4]
    assert [w.preprocessing.interpolation for w in model.weights] == ['bilinear', *['bicubic'] * 4]


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), shapes)


MODEL = convnext(depths=(1, 1), width=4)
X = golden_case.images((17, 26))


def test_every_cut_equals_running_through_and_bfloat16_comes_near():
    variables = _fill(MODEL.backbone.init, {'image': X})
    names = [stage.name for stage in MODEL.backbone.stages]
    assert names == ['stem', 'layer_1_0', 'downsample_2', 'layer_2_0', 'norm']
    assert depths(MODEL.backbone.stages) == {name: k for k, name in enumerate(names)}
    whole = MODEL.backbone.apply(variables, {'image': X})
    assert {name: x.shape for name, x in whole.items()} == {'map': (2, 2, 3, 8), 'pooled': (2, 8)}
    for cut in names[1:]:
        middle = MODEL.backbone.apply(variables, {'image': X}, stop=cut)
        end = MODEL.backbone.apply(variables, middle, start=cut)
        jax.tree.map(np.testing.assert_array_equal, end, whole)
    half = convnext(depths=(1, 1), width=4, dtype=jnp.bfloat16)
    found = jax.jit(half.backbone.apply)(variables, {'image': X})
    for name in ('map', 'pooled'):
        assert found[name].dtype == jnp.bfloat16
        np.testing.assert_allclose(found[name].astype(np.float32), whole[name], atol=0.05 * float(jnp.abs(whole[name]).max()))


def test_block_by_hand():
    block = Block(layer_scale=1.0)
    x = golden_case.images((5, 6), n=1, channels=3)
    p = _fill(block.init, {'map': x})['params']
    padded = np.pad(x, ((0, 0), (3, 3), (3, 3), (0, 0)))
    y = np.zeros_like(x)
    for i in range(7):
        for j in range(7):
            y += padded[:, i : i + 5, j : j + 6] * p['depthwise']['kernel'][i, j, 0]
    y += p['depthwise']['bias']
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6) * p['norm']['scale'] + p['norm']['bias']
    y = y @ p['expand']['kernel'] + p['expand']['bias']
    y = y * 0.5 * (1 + np.asarray(jax.scipy.special.erf(y / 2**0.5)))
    y = (y @ p['project']['kernel'] + p['project']['bias']) * p['layer_scale']
    np.testing.assert_allclose(jax.jit(block.apply)({'params': p}, {'map': x})['map'], x + y, atol=1e-5)


def test_branches_are_dropped_more_with_depth_and_only_in_training():
    stages = convnext(depths=(2, 3), width=4, stochastic_depth=0.2).backbone.stages
    rates = [stage.make().drop_rate for stage in stages if stage.name.startswith('layer')]
    np.testing.assert_allclose(rates, [0, 0.05, 0.1, 0.15, 0.2])
    block = Block(layer_scale=1.0, drop_rate=0.5)
    x = np.tile(golden_case.images((1, 2), n=1, channels=3), (64, 1, 1, 1))
    variables = _fill(block.init, {'map': x})
    run = jax.jit(lambda mode: block.apply(variables, {'map': x}, mode, rngs={'dropout': jax.random.key(0)})['map'], static_argnums=0)
    branch, trained = run(Mode()) - x, run(Mode(train=True)) - x
    kept = np.abs(trained).max((1, 2, 3)) > 1e-6
    assert 16 < kept.sum() < 48
    np.testing.assert_allclose(trained, np.where(kept[:, None, None, None], 2 * branch, 0), atol=1e-5)


def test_layer_scale_starts_where_it_is_told_and_may_be_left_out():
    x = {'map': X[..., :2]}
    start = jax.jit(lambda key: Block(layer_scale=0.25).init(key, x)['params']['layer_scale'])(jax.random.key(0))
    np.testing.assert_array_equal(start, [0.25, 0.25])
    assert 'layer_scale' not in jax.eval_shape(Block(layer_scale=0.0).init, jax.random.key(0), x)['params']


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'depths': ()}, 'depths'),
        ({'depths': (3, 0)}, 'depths'),
        ({'width': 0}, 'width'),
        ({'layer_scale': -1.0}, 'layer_scale'),
        ({'stochastic_depth': 1.0}, 'stochastic_depth'),
        ({'short_side': 200}, 'short_side'),
        ({'image_channels': 0}, 'image_channels'),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'convnext_base'} | option)


def test_picture_smaller_than_the_strides():
    with pytest.raises(UserError, match='31 x 64, but this ConvNeXt needs at least 32 pixels a side'):
        build_model({'name': 'convnext_base'}).inputs((31, 64))
