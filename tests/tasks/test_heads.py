import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models.base import EVAL, Mode
from jtl.tasks import build_task
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


TOKENS = jnp.asarray(np.random.default_rng(1).normal(size=(4, 6, 3)), jnp.float32)
MASK = jnp.arange(6) < jnp.array([6, 2, 1, 0])[:, None]
TEXT = {'tokens': TOKENS, 'mask': MASK, 'word_starts': jnp.zeros((4, 6), jnp.int32)}


def reference(kind, x, pooled):
    """The pooling of one text's real tokens (T, D), written for a single example."""
    if not len(x):
        return np.zeros(9 if kind == 'concat' else 3)
    found = {'cls': x[0], 'mean': x.mean(0), 'max': x.max(0)}
    return np.concatenate([pooled, found['max'], found['mean']]) if kind == 'concat' else found[kind]


@pytest.mark.parametrize('kind', ['cls', 'mean', 'max', 'concat'])
def test_only_real_tokens_are_pooled_and_none_give_zeros(kind):
    pooled = jnp.ones((4, 3))
    garbage = jnp.where(MASK[..., None], TOKENS, jnp.nan)  # what a backbone computes where nothing is must not matter
    out = Pooling(kind).apply({}, {**TEXT, 'tokens': garbage, 'pooled': pooled})
    assert out.keys() == {'pooled'}
    expected = [reference(kind, np.asarray(x)[np.asarray(m)], np.ones(3)) for x, m in zip(TOKENS, MASK, strict=True)]
    np.testing.assert_allclose(out['pooled'], expected, rtol=1e-6)


def test_auto_takes_pooled_or_the_masked_mean():
    np.testing.assert_array_equal(Pooling('auto').apply({}, TEXT)['pooled'], Pooling('mean').apply({}, TEXT)['pooled'])
    assert Pooling('auto').apply({}, {**TEXT, **POOLED})['pooled'] is POOLED['pooled']


def test_attention_is_a_softmax_over_real_tokens_and_starts_as_their_mean():
    module = Pooling('attention')
    variables = module.init(jax.random.key(0), TEXT)
    assert shapes(variables) == {'params': {'hidden': {'kernel': (3, 3), 'bias': (3,)}, 'score': {'kernel': (3, 1)}}}
    np.testing.assert_allclose(module.apply(variables, TEXT)['pooled'], Pooling('mean').apply({}, TEXT)['pooled'], atol=1e-6)

    rng = np.random.default_rng(2)
    w, b, v = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=(3, 1))
    params = {
        'hidden': {'kernel': jnp.asarray(w, jnp.float32), 'bias': jnp.asarray(b, jnp.float32)},
        'score': {'kernel': jnp.asarray(v, jnp.float32)},
    }

    def expected(x):
        score = np.exp(np.tanh(x @ w + b) @ v)
        return (score * x).sum(0) / score.sum() if len(x) else np.zeros(3)

    got = module.apply({'params': params}, TEXT)['pooled']
    np.testing.assert_allclose(got, [expected(np.asarray(x)[np.asarray(m)]) for x, m in zip(TOKENS, MASK, strict=True)], atol=1e-6)


@pytest.mark.parametrize('kind', ['max', 'attention'])
def test_gradients_are_finite_and_reach_real_tokens_alone(kind):
    variables = Pooling(kind).init(jax.random.key(0), TEXT)
    grad = jax.grad(lambda x: (Pooling(kind).apply(variables, {**TEXT, 'tokens': x})['pooled'] ** 2).sum())(TOKENS)
    assert np.isfinite(grad).all() and not np.any(grad[~MASK]) and np.any(grad[:3])


@pytest.mark.parametrize('kind', ['mean', 'attention'])
def test_pooled_keeps_the_dtype_of_the_tokens(kind):
    features = {'tokens': jnp.ones((1, 5, 2), jnp.bfloat16), 'mask': jnp.ones((1, 5), bool)}
    pooled = Pooling(kind).init_with_output(jax.random.key(0), features)[0]['pooled']
    assert pooled.dtype == jnp.bfloat16 and pooled.tolist() == [[1, 1]]


def test_kinds_of_text_and_kinds_of_pictures_are_not_mixed_up():
    with pytest.raises(UserError, match=r"task\.pool='cls' reads features `tokens` and `mask`, but the backbone ends with `map`"):
        Pooling('cls').apply({}, {'map': MAP})
    with pytest.raises(UserError, match=r"task\.pool='flatten' reads a feature `map`, but .*`tokens` \(4, 6, 3\), `mask`"):
        Pooling('flatten').apply({}, TEXT)
    with pytest.raises(UserError, match=r"task\.pool='concat' joins `pooled`.*Use task\.pool='mean' or 'max'"):
        Pooling('concat').apply({}, TEXT)


@pytest.mark.parametrize(
    ('name', 'label'), [('classification', [1, 0]), ('multi_label', [[1, 0], [1, 1]]), ('regression', [[0.5, 2.0], [1.0, 0.0]])]
)
def test_tasks_of_pictures_work_on_text(name, label):
    task = build_task({'name': name, 'pool': 'attention', 'zero_init': False}, ('a', 'b'))
    stage = task.stages[0].make(name='pooling')
    features = stage.init_with_output(jax.random.key(0), TEXT)[0]
    outputs, head = task.head.init_with_output(jax.random.key(1), features)
    assert outputs.shape == (4, 2) and head['params']['output']['kernel'].shape == (3, 2)
    each = task.loss(outputs[:2], {'label': jnp.asarray(label)})
    assert each.shape == (2,) and np.isfinite(each).all()
