"""Tasks on text against transformers: the loss of hidden words, and of the tags of words, with the heads that it wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_reference
from tiny_text import tiny_text

from jtl.checkpoint.sources import open_checkpoint
from jtl.models import build_model
from jtl.models.base import WORDS, unflatten
from jtl.tasks import build_task

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before transformers, which imports torchvision
transformers = pytest.importorskip('transformers')

VOCABULARY, WIDTH, LENGTH = 50, 32, 20
TINY = {'width': WIDTH, 'depth': 2, 'heads': 4, 'mlp': 48, 'vocab_size': VOCABULARY, 'positions': 32, 'pooler': False}
BERT = {'hidden_size': WIDTH, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
FAMILIES = {  # jtl's name, the original's config, the head's epsilon
    'Bert': ('bert_base', {**BERT, 'max_position_embeddings': 32}, 1e-12),
    'Roberta': (
        'roberta_base',
        {**BERT, 'max_position_embeddings': 34, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5, 'pad_token_id': 1},
        1e-5,
    ),
    'DistilBert': ('distilbert_base', {'dim': WIDTH, 'n_layers': 2, 'n_heads': 4, 'hidden_dim': 48, 'max_position_embeddings': 32}, 1e-12),
}


def _original(family, kind, path, **options):
    config = getattr(transformers, f'{family}Config')(vocab_size=VOCABULARY, **FAMILIES[family][1], **options)
    original = reference.randomise(getattr(transformers, f'{family}{kind}')(config))
    original.save_pretrained(path)
    return original, open_checkpoint(str(path / 'model.safetensors'))


def _texts(padding, n=5):
    draw = np.random.default_rng(0)
    mask = np.arange(LENGTH) < np.array([LENGTH, 4, *draw.integers(5, LENGTH, n - 2)])[:, None]
    ids = np.where(mask, draw.integers(5, VOCABULARY, (n, LENGTH)), padding).astype(np.int32)
    return {'ids': jnp.asarray(ids), 'mask': jnp.asarray(mask), 'segments': jnp.zeros((n, LENGTH), jnp.int32)}


def _theirs(original, inputs, labels):
    """Loss of each text, with its labels (T,), -100 where there is none."""
    with torch.no_grad():
        texts = zip(inputs['ids'], inputs['mask'], labels, strict=True)
        each = [[torch.tensor(np.asarray(x)[None]).long() for x in text] for text in texts]
        return [float(original(input_ids=ids, attention_mask=mask, labels=label).loss) for ids, mask, label in each]


def _params(leaves, **more):
    return {'params': unflatten(leaves, text_reference.HEAD) | more}


@pytest.mark.parametrize('family', FAMILIES)
def test_loss_of_hidden_words(tmp_path, family):
    name, _, epsilon = FAMILIES[family]
    original, checkpoint = _original(family, 'ForMaskedLM', tmp_path)
    task = build_task({'name': 'masked_lm', 'epsilon': epsilon}, text=tiny_text(VOCABULARY, LENGTH))
    model = build_model({'name': name, **TINY})
    leaves = text_reference.load(model, checkpoint, text_reference.words_head(WIDTH, VOCABULARY))
    keys = jax.random.split(jax.random.key(0), 5)
    inputs, batch = task.corrupt(_texts(original.config.pad_token_id), {}, keys)
    features = text_reference.run(model, leaves, {**inputs, 'ids': np.asarray(inputs['ids'])})
    outputs = task.head.apply(_params(leaves, embedding=leaves[WORDS]), {**features, 'lm_positions': inputs['lm_positions']})

    labels = np.full((5, LENGTH), -100)
    for row, positions, targets in zip(labels, np.asarray(inputs['lm_positions']), np.asarray(batch['lm_targets']), strict=True):
        row[positions[positions >= 0]] = targets[targets >= 0]
    found, wanted = task.loss(outputs, batch), _theirs(original, inputs, labels)
    print(f'largest difference {np.abs(found - np.array(wanted)).max():.2e} of losses up to {max(wanted):.2f}')
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    counts = (labels >= 0).sum(axis=1)
    perplexity = task.evaluate(np.asarray(task.summary(outputs, batch)), np.zeros(5))['perplexity']
    assert perplexity == pytest.approx(np.exp((wanted * counts).sum() / counts.sum()), rel=1e-5)


@pytest.mark.parametrize('family', FAMILIES)
def test_loss_of_tags(tmp_path, family):
    tags = ('O', 'B-x', 'I-x')
    original, checkpoint = _original(family, 'ForTokenClassification', tmp_path, num_labels=3)
    task = build_task({'name': 'token_classification'}, tags)
    model = build_model({'name': FAMILIES[family][0], **TINY})
    leaves = text_reference.load(model, checkpoint, {'output/kernel': (WIDTH, 3), 'output/bias': (3,)})
    inputs = _texts(original.config.pad_token_id)
    draw = np.random.default_rng(1)
    first = np.asarray(inputs['mask']) & (draw.random((5, LENGTH)) < 0.6)  # of a word; the other tokens go on with one
    labels = np.where(first, draw.integers(0, 3, first.shape), -100)
    starts, targets = np.full((2, 5, LENGTH), -1)
    for k in range(5):
        starts[k, : first[k].sum()] = np.flatnonzero(first[k])
        targets[k, : first[k].sum()] = labels[k][first[k]]
    features = text_reference.run(model, leaves, {**inputs, 'ids': np.asarray(inputs['ids'])})
    outputs = task.head.apply(_params(leaves), {**features, 'word_starts': jnp.asarray(starts)})
    found = task.loss(outputs, {'label': jnp.asarray(targets), 'word_starts': jnp.asarray(starts)})
    np.testing.assert_allclose(found, _theirs(original, inputs, labels), rtol=1e-5)
