from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.base import EVAL, Backbone, Mode, Stage, unflatten
from jtl.models.convnet import convnet
from jtl.models.net import make_net
from jtl.tasks.heads import Head, pooling

TRAIN = Mode(train=True, batch_statistics=True)


def tiny(channels=(4, 8), heads=('main',), **options):
    model = convnet(channels=channels, dense=(), **options)
    backbone = Backbone(stages=(*model.backbone.stages, *pooling('mean')))
    return make_net(backbone, {name: Head(3, zero_init=False, dropout=0.5) for name in heads}, model.inputs((8, 8)))


NET = tiny(heads=('main', 'aux'), batch_norm=True)
LEAVES = NET.init(jax.random.key(0), NET.shapes)
IMAGES = {'image': jax.random.normal(jax.random.key(1), (6, 8, 8, 1))}


def test_paths_are_in_stage_order_then_heads():
    deep = tiny(channels=(4, 4, 4), batch_norm=True)
    assert list(dict.fromkeys(path.split('/')[1] for path in deep.params)) == ['conv_0', 'conv_1', 'conv_2', 'main']
    assert list(dict.fromkeys(path.split('/')[1] for path in deep.stats)) == ['conv_0', 'conv_1', 'conv_2']
    assert NET.params['backbone/conv_1/conv/kernel'].shape == (3, 3, 4, 8)
    assert NET.params['heads/aux/output/kernel'].shape == (8, 3)
    assert set(NET.shapes) == set(NET.params) | set(NET.stats) and not set(NET.params) & set(NET.stats)


def test_stage_order_and_not_the_alphabet():
    stages = tuple(Stage(name, partial(Widen, 2)) for name in ('zeta', 'block_10', 'block_9', 'alpha'))
    net = make_net(Backbone(stages=stages), {}, {'x': jax.ShapeDtypeStruct((2,), jnp.float32)})
    assert [path.split('/')[1] for path in net.params] == ['zeta', 'block_10', 'block_9', 'alpha']


class Widen(nn.Module):
    width: int

    @nn.compact
    def __call__(self, features, mode=EVAL):
        return {'x': nn.Dense(self.width, use_bias=False, name='dense')(features['x'])}


def test_shapes_are_those_of_the_values():
    for path, spec in NET.shapes.items():
        assert (LEAVES[path].shape, LEAVES[path].dtype) == (spec.shape, spec.dtype), path


def test_apply_is_backbone_then_heads():
    outputs, stats = NET.apply(LEAVES, IMAGES)
    variables = {
        'params': unflatten({p: v for p, v in LEAVES.items() if p in NET.params}, 'backbone'),
        'batch_stats': unflatten({p: v for p, v in LEAVES.items() if p in NET.stats}, 'backbone'),
    }
    features = NET.backbone.apply(variables, IMAGES)
    for name in ('main', 'aux'):
        by_hand = features['pooled'] @ LEAVES[f'heads/{name}/output/kernel'] + LEAVES[f'heads/{name}/output/bias']
        np.testing.assert_allclose(outputs[name], by_hand, rtol=1e-6)
    assert all(np.array_equal(stats[path], LEAVES[path]) for path in NET.stats)


def test_only_the_heads_named_run_and_only_their_leaves_are_needed():
    without = {path: leaf for path, leaf in LEAVES.items() if not path.startswith('heads/aux')}
    outputs, _ = NET.apply({**without, 'heads/other/kernel': 1.0}, IMAGES, heads=['main'])
    assert list(outputs) == ['main']
    assert np.array_equal(outputs['main'], NET.apply(LEAVES, IMAGES)[0]['main'])


def test_modes_are_those_of_each_stage():
    eval_out, _ = NET.apply(LEAVES, IMAGES, heads=['main'])
    out, stats = NET.apply(LEAVES, IMAGES, modes={'conv_1': TRAIN}, key=jax.random.key(3), heads=['main'])
    assert not np.allclose(out['main'], eval_out['main'])
    changed = {path.split('/')[1] for path in NET.stats if not np.array_equal(stats[path], LEAVES[path])}
    assert changed == {'conv_1'}
    same, _ = NET.apply(LEAVES, IMAGES, heads=['main'], key=jax.random.key(3))
    assert np.array_equal(same['main'], eval_out['main'])


def test_every_head_draws_its_own_dropout():
    leaves = {**LEAVES, **{p.replace('/main/', '/aux/'): v for p, v in LEAVES.items() if '/main/' in p}}  # equal heads
    outputs, _ = NET.apply(leaves, IMAGES, head_mode=TRAIN, key=jax.random.key(3))
    assert not np.array_equal(outputs['main'], outputs['aux'])
    alone, _ = NET.apply(leaves, IMAGES, head_mode=TRAIN, key=jax.random.key(3), heads=['aux'])
    assert np.array_equal(alone['aux'], outputs['aux'])


def test_another_stage_or_head_leaves_initial_values_unchanged():
    small, big = tiny((4, 8)), tiny((4, 8, 8), heads=('aux', 'main'))
    a, b = (net.init(jax.random.key(5), net.params) for net in (small, big))
    assert set(a) < set(b)
    for path in a:
        assert np.array_equal(a[path], b[path]), path


def test_values_differ_by_path_and_key():
    assert not np.array_equal(LEAVES['heads/main/output/kernel'], LEAVES['heads/aux/output/kernel'])
    net = tiny((4, 4, 4))  # conv_1 and conv_2 have one shape
    init = jax.jit(lambda key: net.init(key, net.params))
    one, two = init(jax.random.key(5)), init(jax.random.key(6))
    assert not np.array_equal(one['backbone/conv_1/conv/kernel'], one['backbone/conv_2/conv/kernel'])
    assert not np.array_equal(one['backbone/conv_1/conv/kernel'], two['backbone/conv_1/conv/kernel'])
    assert not np.array_equal(one['heads/main/output/kernel'], two['heads/main/output/kernel'])


@pytest.mark.parametrize('which', ['heads/main/', 'backbone/conv_1/', 'conv/kernel', '/mean'])
def test_a_subset_is_that_of_the_whole(which):
    paths = [path for path in NET.shapes if which in path]
    found = NET.init(jax.random.key(0), paths)
    assert list(found) == paths
    assert all(np.array_equal(found[path], LEAVES[path]) for path in paths)


def test_under_jit_nothing_else_is_computed():
    def compiled(function):
        return jax.jit(function).lower(jax.random.key(0)).compile(compiler_options={'xla_backend_optimization_level': 0})

    path = 'backbone/conv_1/conv/kernel'
    found = compiled(lambda key: NET.init(key, [path]))
    alone = compiled(lambda key: nn.initializers.lecun_normal()(key, NET.params[path].shape))
    extra = found.cost_analysis()['flops'] - alone.cost_analysis()['flops']
    assert 0 <= extra < 300  # folding the path into the key; conv_0's kernel would add some 3,000
    assert 'convolution' not in found.as_text() and ' dot(' not in found.as_text()
