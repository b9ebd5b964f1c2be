from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from tiny_text import tiny_text

from jtl.errors import UserError
from jtl.models.base import WORDS
from jtl.tasks import build_task
from jtl.tasks.masked_lm import MaskedHead, corrupt

V, MASK, SPECIAL = 20, 7, (12, 0, 7, 3, 19)  # special ids need not come first
WORDS_ALONE = [k for k in range(V) if k not in SPECIAL]
TASK = build_task({'name': 'masked_lm'}, text=tiny_text(words=V, max_length=24))
hide = jax.jit(partial(corrupt, mask_id=MASK, special=SPECIAL, vocabulary=V, masked=0.15))


def texts(lengths, width=24, seed=0):
    """Special, word ... word, special, and filling, whose ids are those of words: only the mask says what is real."""
    ids = np.random.default_rng(seed).choice(WORDS_ALONE, (len(lengths), width))
    ids[:, 0] = 0
    ids[np.arange(len(lengths)), np.array(lengths) - 1] = 3
    return {'ids': jnp.asarray(ids, jnp.int32), 'mask': jnp.arange(width) < jnp.asarray(lengths)[:, None]}


def keys(count, seed=0):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(count))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 24), min_size=6, max_size=6), st.integers(0, 1000))
def test_what_is_asked_for(lengths, seed):
    before = texts(lengths, seed=seed)
    inputs, batch = hide(before, {'index': jnp.arange(6)}, keys(6, seed))
    old, new, positions, asked = (np.asarray(x) for x in (before['ids'], inputs['ids'], inputs['lm_positions'], batch['lm_targets']))
    assert positions.shape == asked.shape == (6, 4) and positions.dtype == asked.dtype == new.dtype == np.int32  # ceil(0.15 * 24)
    assert batch['index'].tolist() == list(range(6)) and np.array_equal(inputs['mask'], before['mask'])
    for k, length in enumerate(lengths):
        words = [t for t in range(length) if old[k, t] not in SPECIAL]
        chosen = positions[k][positions[k] >= 0].tolist()
        assert len(chosen) == (max(1, round(0.15 * len(words))) if words else 0)
        assert set(chosen) <= set(words) and len(set(chosen)) == len(chosen)  # neither special nor filling, none twice
        np.testing.assert_array_equal(asked[k], [old[k, t] if t >= 0 else -1 for t in positions[k]])
        changed = np.flatnonzero(old[k] != new[k])
        assert set(changed.tolist()) <= set(chosen)
        assert all(new[k, t] == MASK or new[k, t] not in SPECIAL for t in changed)


def test_eighty_ten_ten_and_every_word_alike():
    before = texts([22] * 6)
    found = [hide(before, {'index': jnp.arange(6)}, keys(6, seed)) for seed in range(500)]
    positions = np.stack([inputs['lm_positions'] for inputs, _ in found])[..., :3]  # round(0.15 * 20)
    shown = np.take_along_axis(np.stack([inputs['ids'] for inputs, _ in found]), positions, axis=-1).ravel()
    true, n = np.stack([batch['lm_targets'] for _, batch in found])[..., :3].ravel(), positions.size
    masked, kept = (shown == MASK).mean(), (shown == true).mean()
    sigma = (0.25 / n) ** 0.5
    assert abs(masked - 0.8) < 5 * sigma and abs(kept - (0.1 + 0.1 / 15)) < 5 * sigma  # a random word may be the true one
    others = np.bincount(shown[(shown != MASK) & (shown != true)], minlength=V)
    assert others[list(SPECIAL)].sum() == 0 and others[WORDS_ALONE].min() > 0.5 * others[WORDS_ALONE].mean()
    places = np.bincount(positions.ravel(), minlength=24)
    assert places[[0, 21, 22, 23]].sum() == 0 and np.abs(places[1:21] - n / 20).max() < 5 * (n / 20) ** 0.5


def test_an_example_is_hidden_alike_in_any_batch_and_however_far_it_is_filled_up():
    before = texts([9, 16, 12, 5, 2, 16])
    whole, _ = hide(before, {'index': jnp.arange(6)}, keys(6))
    order = jnp.array([2, 0, 0, 5, 2, 1])
    part, _ = hide({name: x[order] for name, x in before.items()}, {'index': order}, keys(6)[order])
    np.testing.assert_array_equal(part['ids'], whole['ids'][order])
    np.testing.assert_array_equal(part['lm_positions'], whole['lm_positions'][order])
    shorter, _ = hide({name: x[:, :16] for name, x in before.items()}, {'index': order}, keys(6))
    np.testing.assert_array_equal(shorter['ids'], whole['ids'][:, :16])
    np.testing.assert_array_equal(shorter['lm_positions'], whole['lm_positions'][:, :3])
    assert (whole['lm_positions'][:, 3:] == -1).all()
    again, _ = hide(before, {'index': order}, keys(6, seed=1))
    assert not np.array_equal(again['lm_positions'], whole['lm_positions'])


RNG = np.random.default_rng(0)
FEATURES = {
    'tokens': jnp.asarray(RNG.normal(size=(2, 6, 4)), jnp.float32),
    'mask': jnp.ones((2, 6), bool),
    'lm_positions': jnp.array([[3, 1], [5, -1]]),
}


def test_the_head_by_hand():
    head = MaskedHead(V, epsilon=0.01)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(head.init, jax.random.key(0), FEATURES))['params']
    assert shapes == {
        'embedding': (V, 4),
        'transform': {'kernel': (4, 4), 'bias': (4,)},
        'norm': {'scale': (4,), 'bias': (4,)},
        'bias': (V,),
    }
    hidden = dict(TASK.corrupt.keywords)  # what the tokenizer says
    assert hidden == {'mask_id': 4, 'special': (0, 1, 2, 3, 4), 'vocabulary': V, 'masked': 0.15}
    assert TASK.ties == {'embedding': WORDS} and TASK.inputs['lm_positions'].shape == (4,)
    p = jax.tree.map(lambda shape: RNG.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda x: isinstance(x, tuple))
    got = head.apply({'params': p}, FEATURES)
    assert got.shape == (2, 2, V) and got.dtype == jnp.float32
    for example, place, token in ((0, 0, 3), (0, 1, 1), (1, 0, 5)):
        x = np.asarray(FEATURES['tokens'][example, token]) @ p['transform']['kernel'] + p['transform']['bias']
        x = x * (1 + erf(x / 2**0.5)) / 2
        x = (x - x.mean()) / np.sqrt(x.var() + 0.01) * p['norm']['scale'] + p['norm']['bias']
        np.testing.assert_allclose(got[example, place], p['embedding'] @ x + p['bias'], rtol=1e-4, atol=1e-5)


def test_the_head_takes_the_shape_of_the_table_that_it_is_given():
    table = jnp.asarray(RNG.normal(size=(30, 3)), jnp.float32)  # more rows than the tokenizer has words, and narrower than tokens
    out, variables = MaskedHead(V).apply({'params': {'embedding': table}}, FEATURES, rngs={'params': jax.random.key(0)}, mutable=['params'])
    assert out.shape == (2, 2, 30) and variables['params']['transform']['kernel'].shape == (4, 3)
    assert variables['params']['embedding'] is table


def test_loss_and_figures():
    logits = jnp.asarray(RNG.normal(size=(3, 2, V)), jnp.float32)
    best = np.asarray(logits.argmax(-1))
    batch = {'lm_targets': jnp.array([[7, 9], [best[1, 0], -1], [-1, -1]])}
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nll = -np.log([p[0, 0, 7], p[0, 1, 9], p[1, 0, best[1, 0]]])
    np.testing.assert_allclose(TASK.loss(logits, batch), [nll[:2].mean(), nll[2], 0], rtol=1e-5)
    rows = np.asarray(TASK.summary(logits, batch))
    np.testing.assert_allclose(rows, [[nll[:2].sum(), 2, 0], [nll[2], 1, 1], [0, 0, 0]], rtol=1e-5)
    assert TASK.evaluate(rows, np.zeros(3)) == pytest.approx({'perplexity': np.exp(nll.mean()), 'accuracy': 1 / 3}, rel=1e-5)
    assert (TASK.primary, TASK.maximize) == ('perplexity', False)
    assert TASK.describe(rows[1]) == pytest.approx({'value': np.exp(nll[2]), 'accuracy': 1.0, 'words': 1}, rel=1e-5)
    assert np.isnan(list(TASK.evaluate(rows[2:], np.zeros(1)).values())).all() and TASK.baseline(np.zeros(3), np.zeros(3)) == {}


@pytest.mark.parametrize(
    ('section', 'text', 'message'),
    [
        ({}, None, 'masked_lm predicts words, but the data or the model are not of text'),
        ({}, tiny_text(mask=False), r'the tokenizer has none\. Use task\.name=causal_lm'),
        ({'masked': 0.0}, tiny_text(), r'task\.masked: expected a number between 0 and 1, found 0\.0'),
        ({'epsilon': 1}, tiny_text(), r'task\.epsilon: expected a small number above 0, found 1'),
        ({'dtype': 'float8'}, tiny_text(), r'task\.dtype: '),
    ],
)
def test_what_is_refused(section, text, message):
    with pytest.raises(UserError, match=message):
        build_task({'name': 'masked_lm', **section}, text=text)


def test_models_that_read_no_text_are_named():
    with pytest.raises(UserError, match=r'hides words of `ids`, the model reads `image` \(1, 2, 2, 3\)'):
        TASK.corrupt({'image': jnp.zeros((1, 2, 2, 3))}, {}, keys(1))
    with pytest.raises(UserError, match=r'reads `tokens` and `lm_positions`, but the features are `map` \(1, 2, 2, 3\)'):
        TASK.head.init(jax.random.key(0), {'map': jnp.zeros((1, 2, 2, 3))})
