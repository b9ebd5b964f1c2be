from dataclasses import replace
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Mode, Stage, unflatten
from jtl.models.convnet import convnet
from jtl.models.net import Attachment, make_net
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


class Layer(nn.Module):
    """Dense, without touching the other features."""

    @nn.compact
    def __call__(self, features, mode=EVAL):
        return features | {'x': nn.Dense(3, use_bias=False, name='dense')(features['x'])}


class Reader(nn.Module):
    """Two outputs of `x`."""

    @nn.compact
    def __call__(self, features, mode=EVAL):
        return nn.Dense(2, name='output')(features['x'])


class Tied(nn.Module):
    """Reads `x` and `extra` by a table (2, 3), of which there may be one already, whose first size is then that of the bias."""

    @nn.compact
    def __call__(self, features, mode=EVAL):
        rows = self.get_variable('params', 'table').shape[0] if self.has_variable('params', 'table') else 2
        table = self.param('table', nn.initializers.ones, (rows, 3))
        bias = self.param('bias', nn.initializers.zeros, (rows,))
        return (features['x'] + features['extra']) @ table.T + bias


TABLE = 'backbone/first/dense/kernel'  # (4, 3)
EXTRA = {'extra': jax.ShapeDtypeStruct((3,), jnp.float32)}
FORKED = make_net(
    Backbone(stages=tuple(Stage(name, Layer) for name in ('first', 'second', 'last'))),
    {'main': Reader(), 'early': Tied()},
    {'x': jax.ShapeDtypeStruct((4,), jnp.float32)},
    {'early': Attachment('last', EXTRA, {'table': TABLE})},
)
WEIGHTS = {
    path: jax.random.normal(jax.random.fold_in(jax.random.key(0), k), spec.shape) for k, (path, spec) in enumerate(FORKED.params.items())
}
READ = {'x': jax.random.normal(jax.random.key(1), (5, 4)), 'extra': jax.random.normal(jax.random.key(2), (5, 3))}


def of_early(weights):
    """What the head between the stages gives, by hand."""
    x = READ['x'] @ weights[TABLE] @ weights['backbone/second/dense/kernel']
    return (x + READ['extra']) @ weights[TABLE].T + weights['heads/early/bias']


def test_a_head_reads_before_its_stop_and_shares_a_parameter():
    assert [path for path in FORKED.params if path.startswith('heads/')] == [
        'heads/main/output/bias',
        'heads/main/output/kernel',
        'heads/early/bias',
    ]
    assert FORKED.params['heads/early/bias'].shape == (4,)  # as the table that is shared has it, not as the head alone would
    outputs, _ = FORKED.apply(WEIGHTS, READ)
    np.testing.assert_allclose(outputs['early'], of_early(WEIGHTS), rtol=1e-5)
    x = READ['x'] @ WEIGHTS[TABLE] @ WEIGHTS['backbone/second/dense/kernel'] @ WEIGHTS['backbone/last/dense/kernel']
    np.testing.assert_allclose(outputs['main'], x @ WEIGHTS['heads/main/output/kernel'] + WEIGHTS['heads/main/output/bias'], rtol=1e-5)


def test_the_backbone_runs_no_further_than_the_heads_that_are_asked():
    before = {path: leaf for path, leaf in WEIGHTS.items() if '/last/' not in path and '/main/' not in path}
    alone, _ = FORKED.apply(before, READ, heads=['early'])
    both, _ = FORKED.apply(WEIGHTS, READ, heads=['main', 'early'])
    assert list(alone) == ['early'] and np.array_equal(alone['early'], both['early'])
    without, _ = FORKED.apply(WEIGHTS, {'x': READ['x']}, heads=['main'])
    assert np.array_equal(without['main'], both['main'])


def test_a_shared_parameter_has_the_gradient_of_both_uses():
    def loss(outputs):
        return jnp.square(outputs).sum()

    found = jax.grad(lambda weights: loss(FORKED.apply(weights, READ, heads=['early'])[0]['early']))(WEIGHTS)
    by_hand = jax.grad(lambda weights: loss(of_early(weights)))(WEIGHTS)
    np.testing.assert_allclose(found[TABLE], by_hand[TABLE], rtol=1e-4)
    assert not found['backbone/last/dense/kernel'].any() and not found['heads/main/output/kernel'].any()


def test_initial_values_of_a_head_between_the_stages():
    found = FORKED.init(jax.random.key(0), FORKED.params)
    assert {path: leaf.shape for path, leaf in found.items()} == {path: spec.shape for path, spec in FORKED.params.items()}
    (bias,) = FORKED.init(jax.random.key(0), ['heads/early/bias']).values()
    assert bias.shape == (4,) and not bias.any()


def test_what_a_head_reads():
    of_early = {TABLE, 'backbone/second/dense/kernel', 'heads/early/bias'}
    assert FORKED.read_by('early') == of_early
    assert FORKED.read_by('main') == (of_early | {path for path in FORKED.params if '/main/' in path or '/last/' in path}) - {
        'heads/early/bias'
    }
    shared = replace(FORKED, params={'backbone/shared/kernel': FORKED.params[TABLE], **FORKED.params})
    assert shared.read_by('early') - of_early == {'backbone/shared/kernel'}  # of no stage: every head may depend on it
    assert FORKED.batch_keys == {'x', 'extra', 'index'}


def test_the_net_of_one_head():
    main, early = FORKED.only('main'), FORKED.only('early')
    assert list(main.heads) == ['main'] and list(early.heads) == ['early']
    assert main.batch_keys == {'x', 'index'} and early.batch_keys == {'x', 'extra', 'index'}
    assert set(main.params) == {path for path in FORKED.params if '/early/' not in path}
    for name, net in (('main', main), ('early', early)):
        leaves = {path: WEIGHTS[path] for path in net.shapes}
        assert np.array_equal(net.apply(leaves, READ)[0][name], FORKED.apply(WEIGHTS, READ)[0][name])


def test_a_parameter_that_is_not_there_cannot_be_shared():
    with pytest.raises(UserError, match=r"The head 'early' shares backbone/words with the backbone, which has no such parameter\."):
        make_net(FORKED.backbone, {'early': Tied()}, FORKED.inputs, {'early': Attachment('last', EXTRA, {'table': 'backbone/words'})})
