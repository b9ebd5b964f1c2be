import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models.base import EVAL, Mode
from jtl.tasks.heads import Head, Pooling, build_head, pooling

MAP = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4, 5)), jnp.float32)
POOLED = {'pooled': MAP.reshape(2, -1)}


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def test_linear_head_is_one_affine_map():
    head = Head(3, zero_init=False)
    variables = head.init(jax.random.key(0), POOLED)
    assert shapes(variables) == {'params': {'output': {'kernel': (60, 3), 'bias': (3,)}}}
    kernel = np.asarray(variables['params']['output']['kernel'])
    assert np.abs(kernel).max() > 0
    np.testing.assert_allclose(head.apply(variables, POOLED), np.asarray(POOLED['pooled']) @ kernel, atol=1e-5)


def test_mlp_head_by_hand():
    head = Head(3, hidden=(7, 6), activation='tanh', zero_init=False)
    variables = head.init(jax.random.key(0), POOLED)
    p = variables['params']
    assert shapes(p) == {
        'hidden_0': {'kernel': (60, 7), 'bias': (7,)},
        'hidden_1': {'kernel': (7, 6), 'bias': (6,)},
        'output': {'kernel': (6, 3), 'bias': (3,)},
    }
    x = np.asarray(POOLED['pooled'])
    for name in ('hidden_0', 'hidden_1'):
        x = np.tanh(x @ np.asarray(p[name]['kernel']))
    np.testing.assert_allclose(head.apply(variables, POOLED), x @ np.asarray(p['output']['kernel']), atol=1e-5)


@pytest.mark.parametrize('hidden', [(), (7,)])
def test_zero_init_starts_every_example_at_zero_and_leaves_hidden_layers_random(hidden):
    variables = Head(3, hidden=hidden).init(jax.random.key(0), POOLED)
    assert not np.any(Head(3, hidden=hidden).apply(variables, POOLED))
    assert all(np.any(variables['params'][f'hidden_{i}']['kernel']) for i in range(len(hidden)))


@pytest.mark.parametrize('hidden', [(), (64,)])
def test_dropout_only_in_train_mode(hidden):
    head = Head(3, hidden=hidden, dropout=0.5, zero_init=False)
    variables = head.init(jax.random.key(0), POOLED)
    train = [head.apply(variables, POOLED, Mode(train=True), rngs={'dropout': jax.random.key(i)}) for i in (1, 1, 2)]
    assert np.array_equal(train[0], train[1]) and not np.allclose(train[0], train[2])
    without = Head(3, hidden=hidden, zero_init=False).apply(variables, POOLED)
    for mode in (EVAL, Mode(batch_statistics=True)):
        assert np.array_equal(head.apply(variables, POOLED, mode), without)
    many = jax.vmap(lambda key: head.apply(variables, POOLED, Mode(train=True), rngs={'dropout': key}))(
        jax.random.split(jax.random.key(3), 4000)
    )
    np.testing.assert_allclose(many.mean(0), without, atol=5 * float(many.std()) / 4000**0.5)  # unbiased


def test_outputs_are_float32_whatever_the_arithmetic():
    head = build_head(3, head='mlp', hidden=(4,), dropout=0.0, activation='relu', zero_init=True, dtype='bfloat16', param_dtype='bfloat16')
    features = {'pooled': jnp.ones((2, 5), jnp.bfloat16)}
    variables = head.init(jax.random.key(0), features)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('bfloat16')}
    assert head.apply(variables, features).dtype == jnp.float32


@pytest.mark.parametrize(
    ('kind', 'expected'),
    [('auto', MAP.mean((1, 2))), ('mean', MAP.mean((1, 2))), ('max', MAP.max((1, 2))), ('flatten', MAP.reshape(2, 60))],
)
def test_pooling_makes_pooled_and_drops_the_rest(kind, expected):
    (stage,) = pooling(kind)
    assert stage.tail
    module = stage.make(name=stage.name)
    out, variables = module.init_with_output(jax.random.key(0), {'map': MAP, 'taps': MAP}, EVAL)
    assert not jax.tree.leaves(variables) and out.keys() == {'pooled'}
    np.testing.assert_allclose(out['pooled'], expected, rtol=1e-6)


def test_auto_keeps_the_pooled_of_the_backbone_and_mean_pools_anew():
    features = {'pooled': jnp.zeros((2, 9)), 'map': MAP}
    assert Pooling('auto').apply({}, features)['pooled'] is features['pooled']
    assert Pooling('mean').apply({}, features)['pooled'].shape == (2, 5)


def test_pooled_and_mean_joins_both():
    features = {'pooled': jnp.full((2, 5), 3.0), 'map': MAP}
    joined = Pooling('pooled_and_mean').apply({}, features)['pooled']
    np.testing.assert_allclose(joined, np.concatenate([np.full((2, 5), 3.0), np.asarray(MAP).mean((1, 2))], axis=1), rtol=1e-6)
    with pytest.raises(UserError, match=r"'pooled_and_mean' joins `pooled` .*`map` \(2, 3, 4, 5\)\. Use task\.pool='mean'"):
        Pooling('pooled_and_mean').apply({}, {'map': MAP})


def test_features_that_cannot_be_read_are_named():
    with pytest.raises(UserError, match=r"task\.pool='flatten' reads a feature `map`.*`pooled` \(2, 60\)\. Use task\.pool='auto'"):
        Pooling('flatten').apply({}, POOLED)
    with pytest.raises(UserError, match=r"task\.pool='auto' .*`tokens` \(2, 3, 4\)"):
        Pooling('auto').apply({}, {'tokens': jnp.zeros((2, 3, 4))})
    with pytest.raises(UserError, match=r'reads `pooled`.*`map` \(2, 3, 4, 5\)'):
        Head(3).init(jax.random.key(0), {'map': MAP})
