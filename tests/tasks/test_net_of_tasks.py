"""The net of several tasks: which head reads what."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_text import tiny_text

from jtl.errors import UserError
from jtl.models.base import WORDS
from jtl.models.recurrent import lstm
from jtl.tasks import build_task
from jtl.tasks.net import net_of

TEXT = tiny_text(12, 6)
LSTM = lstm(vocab_size=12, embedding=4, hidden=4)
TASKS = {
    'classes': build_task({'name': 'classification', 'pool': 'attention', 'zero_init': False}, ['a', 'b', 'c']),
    'values': build_task({'name': 'regression', 'pool': 'attention', 'zero_init': False}, target_shape=()),
    'mean': build_task({'name': 'classification', 'pool': 'mean'}, ['a', 'b']),
    'tags': build_task({'name': 'token_classification', 'zero_init': False}, ['O', 'B-x'], (6,)),
    'lm': build_task({'name': 'causal_lm'}, text=TEXT),
}


def net(**tasks):
    return net_of(LSTM, {name: TASKS[kind] for name, kind in tasks.items()}, (6,))


@pytest.mark.parametrize('main', ['classes', 'tags'])
def test_tasks_read_pooled_features_or_tokens_whichever_is_first(main):
    """The same stages whichever the run's own task is, and each head gives what it gives by itself."""
    other = 'tags' if main == 'classes' else 'classes'
    both = net(main=main, aux=other, lm='lm', second='values' if main == 'classes' else 'tags')
    assert [stage.name for stage in both.backbone.stages] == ['embeddings', 'layer_0', 'pooling']
    stops = {name: both.attachments[name].stop for name in both.heads}
    assert stops == {'main': None, 'aux': 'pooling', 'lm': 'pooling', 'second': None} if main == 'classes' else {
        'main': 'pooling', 'aux': None, 'lm': 'pooling', 'second': 'pooling'
    }  # fmt: skip
    assert dict(both.attachments['lm'].ties) == {'embedding': WORDS} and 'heads/lm/embedding' not in both.params
    leaves = {
        path: jax.random.normal(jax.random.fold_in(jax.random.key(0), k), spec.shape) for k, (path, spec) in enumerate(both.params.items())
    }
    batch = {'ids': jnp.arange(12).reshape(2, 6), 'mask': jnp.ones((2, 6), bool), 'word_starts': jnp.array([[0, 2, -1], [1, -1, -1]])}
    outputs, _ = both.apply(leaves, batch)
    alone = net(main=main)
    assert set(alone.params) <= set(both.only('main').params)  # so that a bundle of the run has all that its own net reads
    np.testing.assert_array_equal(alone.apply(leaves, batch)[0]['main'], outputs['main'])
    pooled = {path for path in both.params if path.startswith('backbone/pooling/')}
    assert pooled and {name for name in both.heads if pooled <= both.read_by(name)} == {name for name in stops if stops[name] is None}


def test_different_pooling_is_refused():
    with pytest.raises(UserError, match=r'config\.tasks\.aux: its pooling is not that of config\.task\. Give both the same pool\.'):
        net(main='classes', aux='mean')
    with pytest.raises(UserError, match=r'config\.tasks\.aux: its pooling is not that of config\.tasks\.first\.'):
        net(main='tags', first='classes', aux='mean')
