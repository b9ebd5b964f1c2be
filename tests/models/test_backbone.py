"""The chain of stages: cuts, needed parameters, modes, and the helpers over paths."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import Backbone, Mode, Stage, depths, flatten, init_shapes, stage_of, unflatten, with_stages
from jtl.models.convnet import ConvStage, DenseStage
from jtl.models.mbconv import ConvBN, InvertedBottleneck


class Pool(nn.Module):
    def __call__(self, features, mode):
        return {'pooled': features['map'].mean((1, 2))}


STAGES = (
    Stage('stem', partial(ConvBN, 4, nn.relu6, kernel=3, stride=2)),
    Stage('block_0', partial(InvertedBottleneck, 4, 8, nn.relu6, drop_rate=0.5)),
    Stage('block_1', partial(InvertedBottleneck, 6, 8, nn.relu6, kernel=5, stride=2)),
    Stage('norm', partial(ConvBN, 8, nn.relu6), tail=True),
)
MODEL = build_model({'name': 'convnet', 'channels': (3, 4), 'dense': (5,), 'batch_norm': True, 'dropout': 0.5})
BACKBONES = {'mobile': with_stages(Backbone(stages=STAGES), (Stage('pooling', Pool, tail=True),)), 'convnet': MODEL.backbone}
X = jax.random.normal(jax.random.key(0), (4, 12, 11, 1))
VARIABLES = {name: jax.jit(backbone.init)(jax.random.key(1), {'image': X}) for name, backbone in BACKBONES.items()}


def _run(name, features, variables, training, start=None, stop=None):
    modes = {s.name: Mode(True, True) for s in BACKBONES[name].stages} if training else None
    run = partial(BACKBONES[name].apply, start=start, stop=stop, mutable=['batch_stats'])
    return run(variables, features, modes, rngs={'dropout': jax.random.key(2)})


def _only(variables, stages):
    return {kind: {name: leaves for name, leaves in tree.items() if name in stages} for kind, tree in variables.items()}


@pytest.mark.parametrize('training', [False, True])
@pytest.mark.parametrize('name', BACKBONES)
def test_every_cut_equals_running_through_and_needs_only_its_stages(name, training):
    variables, stages = VARIABLES[name], [stage.name for stage in BACKBONES[name].stages]
    whole, new = _run(name, {'image': X}, variables, training)
    for k, cut in enumerate(stages):
        middle, new_a = _run(name, {'image': X}, _only(variables, stages[:k]), training, stop=cut)
        end, new_b = _run(name, middle, _only(variables, stages[k:]), training, start=cut)
        assert end.keys() == whole.keys() == {'pooled'}
        np.testing.assert_array_equal(end['pooled'], whole['pooled'], f'cut at {cut}')
        joined = new_a.get('batch_stats', {}) | new_b.get('batch_stats', {})
        jax.tree.map(np.testing.assert_array_equal, joined, new['batch_stats'])


def test_what_a_cut_leaves_behind_is_dropped_and_foreign_leaves_travel():
    mask = jnp.ones((4, 3))
    middle = BACKBONES['mobile'].apply(VARIABLES['mobile'], {'image': X, 'mask': mask}, stop='block_1')
    assert middle.keys() == {'map', 'mask'}


def test_a_missing_stage_is_noticed():
    with pytest.raises(Exception, match='block_1'):
        BACKBONES['mobile'].apply(_only(VARIABLES['mobile'], ['stem', 'block_0']), {'image': X})


def test_wrong_names_and_order():
    backbone = BACKBONES['mobile']
    with pytest.raises(UserError, match=r"no stage 'blok_1'.*'block_1'"):
        backbone.between('blok_1')
    with pytest.raises(UserError, match="'stem' comes first"):
        backbone.between('block_1', 'stem')
    with pytest.raises(UserError, match="no stage 'stm'"):
        backbone.apply(VARIABLES['mobile'], {'image': X}, {'stm': Mode()})
    with pytest.raises(UserError, match='unique'):
        with_stages(backbone, STAGES[:1])
    with pytest.raises(UserError, match='without "/"'):
        Backbone(stages=(Stage('a/b', Pool),))
    assert backbone.between('block_0', 'block_0') == ()


def test_a_stage_may_be_rematerialised_with_equal_gradients():
    features = {'map': jax.random.normal(jax.random.key(0), (2, 6, 6, 4))}
    plain, remat = ConvBN(4, nn.relu6), nn.remat(ConvBN, static_argnums=(2,))(4, nn.relu6)
    variables = jax.jit(plain.init)(jax.random.key(1), features)

    def grads(module):
        def loss(params):
            out, _ = module.apply({**variables, 'params': params}, features, Mode(True, True), mutable=['batch_stats'])
            return jnp.sum(out['map'] ** 2)

        return jax.jit(jax.grad(loss))(variables['params'])

    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), grads(plain), grads(remat))


@pytest.mark.parametrize('stage', [ConvStage(3, batch_norm=True), DenseStage(4), ConvBN(4, nn.relu6), InvertedBottleneck(1, 2, nn.relu6)])
def test_every_module_has_a_dtype_for_computing_and_one_for_parameters(stage):
    stage = stage.clone(dtype=jnp.bfloat16, param_dtype=jnp.float16)
    features, variables = jax.eval_shape(partial(stage.init_with_output, jax.random.key(0)), {'map': jnp.ones((1, 4, 4, 1))})
    assert {leaf.dtype for leaf in jax.tree.leaves(features)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables['params'])} == {jnp.dtype(jnp.float16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables.get('batch_stats', {}))} <= {jnp.dtype(jnp.float32)}


def test_depth_counts_all_but_tail_stages():
    assert depths(BACKBONES['mobile'].stages) == {'stem': 0, 'block_0': 1, 'block_1': 2, 'norm': 3, 'pooling': 3}


def test_stage_of():
    assert stage_of('backbone/block_0/expand/kernel', STAGES) == 'block_0'
    assert stage_of('backbone/block_01/expand/kernel', STAGES) is None
    assert stage_of('heads/stem/kernel', STAGES) is None


def test_init_shapes_are_those_of_init():
    params, stats = init_shapes(BACKBONES['mobile'], {'image': jax.ShapeDtypeStruct(X.shape[1:], X.dtype)})
    for found, real in ((params, 'params'), (stats, 'batch_stats')):
        real = flatten(VARIABLES['mobile'][real], 'backbone')
        assert {path: (leaf.shape, leaf.dtype) for path, leaf in found.items()} == {p: (x.shape, x.dtype) for p, x in real.items()}
    assert {path.rsplit('/', 1)[1] for path in stats} == {'mean', 'var'}
    assert all(stage_of(path, STAGES) for path in params | stats)


NAMES = st.text('ab_1', min_size=1, max_size=3)


@settings(derandomize=True, max_examples=50)
@given(st.dictionaries(NAMES, st.one_of(st.integers(), st.dictionaries(NAMES, st.integers(), min_size=1)), max_size=4))
def test_unflatten_inverts_flatten(tree):
    assert unflatten(flatten(tree)) == tree
    flat = flatten(tree, 'backbone')
    assert all(path.startswith('backbone/') for path in flat)
    assert unflatten(flat | {'backbones/x': 0, 'heads/main/bias': 0}, 'backbone') == tree
