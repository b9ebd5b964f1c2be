import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text import tiny_text

from jtl.errors import UserError
from jtl.models.base import WORDS, Mode
from jtl.tasks import build_task
from jtl.tasks.causal_lm import CausalHead

V = 12
TASK = build_task({'name': 'causal_lm'}, text=tiny_text(words=V, mask=False))
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(size=(2, 3, 4)), jnp.float32)
TABLE = jnp.asarray(RNG.normal(size=(V, 4)), jnp.float32)
BIAS = jnp.asarray(RNG.normal(size=V), jnp.float32)


def test_the_next_real_word_is_asked_for():
    inputs = {
        'ids': jnp.array([[2, 7, 8, 3], [2, 9, 3, 5], [2, 6, 6, 6], [6, 6, 6, 6]]),
        'mask': jnp.arange(4) < jnp.array([[4], [3], [1], [0]]),
    }
    same, batch = TASK.corrupt(inputs, {'index': 1}, jax.random.split(jax.random.key(0), 4))
    assert same is inputs and batch['index'] == 1
    assert batch['lm_targets'].tolist() == [[7, 8, 3, -1], [9, 3, -1, -1], [-1] * 4, [-1] * 4]


def test_the_head_is_the_word_table():
    head = CausalHead(V)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(head.init, jax.random.key(0), {'tokens': TOKENS}))
    assert shapes == {'params': {'embedding': (V, 4), 'bias': (V,)}} and TASK.ties == {'embedding': WORDS} and not TASK.inputs
    got = head.apply({'params': {'embedding': TABLE, 'bias': BIAS}}, {'tokens': TOKENS, 'mask': jnp.ones((2, 3), bool)})
    np.testing.assert_allclose(got, np.einsum('btd,vd->btv', TOKENS, TABLE) + np.asarray(BIAS), rtol=1e-5, atol=1e-5)


def test_tokens_wider_than_words_are_projected():
    table, kernel = TABLE[:, :3], jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)
    init = {'params': {'embedding': table}}
    _, variables = CausalHead(V).apply(init, {'tokens': TOKENS}, rngs={'params': jax.random.key(0)}, mutable=['params'])
    assert jax.tree.map(jnp.shape, variables['params']) == {'embedding': (V, 3), 'projection': {'kernel': (4, 3)}, 'bias': (V,)}
    params = {'embedding': table, 'bias': BIAS, 'projection': {'kernel': kernel}}
    got = CausalHead(V).apply({'params': params}, {'tokens': TOKENS})
    np.testing.assert_allclose(got, np.asarray(TOKENS) @ np.asarray(kernel) @ np.asarray(table).T + np.asarray(BIAS), rtol=1e-4, atol=1e-5)


def test_dropout_only_in_training():
    head, params = CausalHead(V, dropout=0.5), {'params': {'embedding': TABLE, 'bias': BIAS}}
    got = [head.apply(params, {'tokens': TOKENS}, Mode(train=True), rngs={'dropout': jax.random.key(i)}) for i in (0, 0, 1)]
    assert np.array_equal(got[0], got[1]) and not np.allclose(got[0], got[2])
    np.testing.assert_array_equal(head.apply(params, {'tokens': TOKENS}), CausalHead(V).apply(params, {'tokens': TOKENS}))


def test_a_model_that_knows_bigrams_has_their_perplexity():
    """Words follow one another by a table of probabilities; logits that are their logarithms score its entropy."""
    p = RNG.dirichlet(np.ones(V), size=V)
    ids = np.zeros((400, 9), np.int32)
    for t in range(1, 9):
        ids[:, t] = [RNG.choice(V, p=p[word]) for word in ids[:, t - 1]]
    mask = np.ones_like(ids, bool)
    _, batch = TASK.corrupt({'ids': jnp.asarray(ids), 'mask': jnp.asarray(mask)}, {}, jax.random.split(jax.random.key(0), 400))
    logits = jnp.asarray(np.log(p[ids]), jnp.float32)
    expected = -np.log(p[ids[:, :-1], ids[:, 1:]])
    np.testing.assert_allclose(TASK.loss(logits, batch), expected.mean(axis=1), rtol=1e-4)
    metrics = TASK.evaluate(np.asarray(TASK.summary(logits, batch)), np.zeros(400))
    assert metrics['perplexity'] == pytest.approx(np.exp(expected.mean()), rel=1e-4)
    assert metrics['accuracy'] == pytest.approx((p[ids[:, :-1]].argmax(-1) == ids[:, 1:]).mean())


def test_what_is_refused():
    with pytest.raises(UserError, match='causal_lm predicts words, but the data or the model are not of text'):
        build_task({'name': 'causal_lm'})
    with pytest.raises(UserError, match=r'task\.dropout: '):
        build_task({'name': 'causal_lm', 'dropout': -1}, text=tiny_text())
    with pytest.raises(UserError, match=r'asks for words of `ids`, the model reads `image` \(1, 2\)'):
        TASK.corrupt({'image': jnp.zeros((1, 2))}, {}, None)
    with pytest.raises(UserError, match=r'reads `tokens`, but the features are `pooled` \(2, 4\)'):
        TASK.head.init(jax.random.key(0), {'pooled': TOKENS[:, 0]})
