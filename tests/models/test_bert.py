"""BERT and its kin against what transformers gave (golden/make_bert*.py), by hand, and against published sizes."""

from pathlib import Path

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import text_reference
from scipy.special import erf

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.sources import open_checkpoint
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import WORDS, Mode, depths, flatten, init_shapes
from jtl.models.bert import Attention, Embeddings, Layer, bert

GOLDEN = Path(__file__).parent / 'golden'
TRAIN = Mode(train=True)
TINY = {'width': 8, 'depth': 2, 'heads': 2, 'mlp': 12, 'vocab_size': 20, 'positions': 7}
NAMES = {'bert': 'bert_tiny', 'roberta': 'roberta_base', 'distilbert': 'distilbert_base'}
# Of the bare models, with a pooler where they have one: model cards, and the count that transformers gives for the published config.json.
SIZES = {
    ('bert_tiny', 30_522): 4_385_920,
    ('bert_base', 30_522): 109_482_240,
    ('bert_large', 30_522): 335_141_888,
    ('minilm_l6', 30_522): 22_713_216,
    ('roberta_base', 50_265): 124_645_632,
    ('distilbert_base', 30_522): 66_362_880,
}


def _tiny(family, **options):
    return build_model({'name': NAMES[family], **TINY, **options})


def _golden(family):
    """The checkpoint that a golden file describes, in torch's names, and its arrays."""
    with np.load(GOLDEN / f'bert_transformers_{family}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
        arrays = {name: file[name] for name in ('tokens', 'logits')}
    return _checkpoint({key: golden_case.weight(key, shape) for key, shape in shapes.items()}), arrays


def _checkpoint(state):
    specs = {key: jax.ShapeDtypeStruct(x.shape, x.dtype) for key, x in state.items()}
    return Checkpoint('memory', 'torch', specs, lambda key: state[key])


def _state(checkpoint):
    return {key: checkpoint.read(key) for key in checkpoint.specs}


def _check_tokens(features, wanted):
    """Real tokens alone: on filling the originals give numbers too, which nobody reads."""
    mask = np.asarray(features['mask'])
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(np.asarray(features['tokens'])[mask], wanted[mask], atol=1e-5, rtol=0)


@pytest.mark.parametrize('family', NAMES)
def test_transformers_gave_the_same_tokens_and_logits(family):
    checkpoint, wanted = _golden(family)
    model = _tiny(family, pooler=family == 'bert')
    sentence_head, shapes = text_reference.dense_head(8, 3, (8,), 'relu' if family == 'distilbert' else 'tanh')
    leaves = text_reference.load(model, checkpoint, text_reference.words_head(8, 20) if family == 'bert' else shapes)
    features = text_reference.run(model, leaves, golden_case.sentences(20, 6, int(family == 'roberta')))
    _check_tokens(features, wanted['tokens'])
    if family == 'bert':
        found = text_reference.words_outputs(leaves, features['tokens'], 1e-12)
        mask = np.asarray(features['mask'])
        np.testing.assert_allclose(found[mask], wanted['logits'][mask], atol=1e-5, rtol=0)
    else:
        found = text_reference.dense_outputs(sentence_head, leaves, features['tokens'][:, 0])
        np.testing.assert_allclose(found, wanted['logits'], atol=1e-5, rtol=0)


@pytest.mark.parametrize('case', ['bert', 'bare', 'roberta', 'distilbert'])
def test_flax_files_of_transformers_give_its_numbers(case):
    family = 'bert' if case == 'bare' else case
    model = _tiny(family, pooler=family == 'bert')
    head, shapes = text_reference.dense_head(8, 3)
    kept = {'bert': shapes, 'bare': None, 'roberta': text_reference.words_head(8, 20), 'distilbert': shapes}[case]
    leaves = text_reference.load(model, open_checkpoint(str(GOLDEN / f'bert_flax_{case}.msgpack')), kept)
    features = text_reference.run(model, leaves, golden_case.sentences(20, 6, int(family == 'roberta')))
    with np.load(GOLDEN / 'bert_flax.npz') as file:
        tokens, wanted = file[f'{case}/tokens'], file[f'{case}/outputs']
    _check_tokens(features, tokens)
    real = np.asarray(features['mask']) if wanted.ndim == 3 else slice(None)
    if case == 'bare':
        found = np.asarray(features['pooled'])
    elif case == 'roberta':
        found = text_reference.words_outputs(leaves, features['tokens'], 1e-5)
    else:
        found = text_reference.dense_outputs(head, leaves, features['pooled' if case == 'bert' else 'tokens'])
    np.testing.assert_allclose(found[real], wanted[real], atol=1e-5, rtol=0)


@pytest.mark.parametrize('family', NAMES)
def test_file_of_the_bare_model_holds_the_same(family):
    """Without the prefix and the head, with the buffers of older versions."""
    checkpoint, _ = _golden(family)
    state, prefix = _state(checkpoint), f'{family}.'
    bare = {key.removeprefix(prefix): x for key, x in state.items() if key.startswith(prefix)}
    bare['embeddings.position_ids'] = np.arange(7)[None]
    model = _tiny(family, pooler=family == 'bert')
    jax.tree.map(np.testing.assert_array_equal, text_reference.load(model, _checkpoint(bare)), text_reference.load(model, checkpoint))
    wrapped = {f'module.{key}': x for key, x in state.items()}  # torch's DataParallel
    jax.tree.map(np.testing.assert_array_equal, text_reference.load(model, _checkpoint(wrapped)), text_reference.load(model, checkpoint))


@pytest.mark.parametrize('bare', [False, True])
def test_old_files_with_gamma_and_beta(bare):
    checkpoint, _ = _golden('bert')
    model, head = _tiny('bert'), None if bare else text_reference.words_head(8, 20)
    state = {
        key.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): x
        for key, x in _state(checkpoint).items()
    }
    if bare:
        state = {key.removeprefix('bert.'): x for key, x in state.items() if key.startswith('bert.')}
    found = text_reference.load(model, _checkpoint(state), head)
    jax.tree.map(np.testing.assert_array_equal, found, text_reference.load(model, checkpoint, head))


def test_heads_that_are_not_kept_are_not_missed():
    """Whatever stands behind the encoder: a tied decoder, answers to questions, the next sentence; and a pooler that the model has not got."""
    state = _state(_golden('bert')[0])
    more = {
        'cls.predictions.decoder.weight': (20, 8),
        'cls.predictions.decoder.bias': (20,),
        'qa_outputs.weight': (2, 8),
        'qa_outputs.bias': (2,),
    }
    full = _checkpoint(state | {key: np.zeros(shape, np.float32) for key, shape in more.items()})
    leaves = text_reference.load(_tiny('bert', pooler=False), full)
    assert WORDS in leaves and not any('pooler' in path for path in leaves)
    with pytest.raises(CheckpointError, match=r'classifier\.weight'):
        text_reference.load(_tiny('bert'), full, {'output/kernel': (8, 3), 'output/bias': (3,)})
    with pytest.raises(CheckpointError, match=r'pooler\.dense\.weight'):
        text_reference.load(_tiny('bert'), _checkpoint({key: x for key, x in state.items() if 'pooler' not in key}))


def test_kept_head_cannot_do_without_its_hidden_layer():
    """RoBERTa's and DistilBERT's heads for sentences have one: a linear head would drop it."""
    for family, key in (('roberta', 'classifier.dense'), ('distilbert', 'pre_classifier')):
        with pytest.raises(CheckpointError, match=key):
            text_reference.load(_tiny(family, pooler=False), _golden(family)[0], {'output/kernel': (8, 3), 'output/bias': (3,)})


@pytest.mark.parametrize(
    ('file', 'name', 'options'),
    [('bert', 'roberta_base', {}), ('roberta', 'bert_tiny', {}), ('distilbert', 'bert_tiny', {}), ('bert', 'distilbert_base', {})],
)
def test_files_of_another_family_are_refused(file, name, options):
    with pytest.raises(CheckpointError):
        text_reference.load(build_model({'name': name, **TINY, 'pooler': False}), _golden(file)[0])


@pytest.mark.parametrize(('name', 'words'), SIZES)
def test_sizes_are_those_published(name, words):
    model = build_model({'name': name, 'vocab_size': words})
    params, stats = init_shapes(model.backbone, model.inputs((8,)))
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) == SIZES[name, words]
    assert not stats and params[WORDS].shape[0] == model.vocabulary == words
    assert model.positions == 512 and model.preprocessing is None
    assert params['backbone/embeddings/position/embedding'].shape[0] == (514 if name.startswith('roberta') else 512)


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), shapes)


MODEL = bert(**TINY)
BATCH = golden_case.sentences(20, 6)
VARIABLES = _fill(MODEL.backbone.init, BATCH)


def test_every_cut_equals_running_through():
    names = [stage.name for stage in MODEL.backbone.stages]
    assert names == ['embeddings', 'layer_0', 'layer_1', 'pooler']
    assert depths(MODEL.backbone.stages) == {'embeddings': 0, 'layer_0': 1, 'layer_1': 2, 'pooler': 3}
    batch = BATCH | {'word_starts': np.zeros((4, 2), np.int32)}
    whole = MODEL.backbone.apply(VARIABLES, batch)
    assert {name: x.shape for name, x in whole.items()} == {'tokens': (4, 6, 8), 'mask': (4, 6), 'word_starts': (4, 2), 'pooled': (4, 8)}
    for cut in names[1:]:
        middle = MODEL.backbone.apply(VARIABLES, batch, stop=cut)
        assert middle.keys() == {'tokens', 'mask', 'word_starts'}
        end = MODEL.backbone.apply(VARIABLES, middle, start=cut)
        jax.tree.map(np.testing.assert_array_equal, end, whole)


@pytest.mark.parametrize('family', NAMES)
def test_filling_changes_no_real_token(family):
    model = _tiny(family)
    variables = _fill(model.backbone.init, BATCH)
    random = np.random.default_rng(0)
    for _ in range(3):
        mask = random.random((4, 6)) < 0.6  # anywhere, in the first place too
        ids, kinds = random.integers(0, 20, (2, 4, 6)), random.integers(0, 2, (2, 4, 6))
        batches = [
            {'ids': np.where(mask, ids[0], x), 'segments': np.where(mask, kinds[0], y), 'mask': mask}
            for x, y in zip(ids, kinds, strict=True)
        ]
        one, other = (np.asarray(model.backbone.apply(variables, batch)['tokens']) for batch in batches)
        assert (batches[0]['ids'] != batches[1]['ids']).any() and np.isfinite(one).all()
        np.testing.assert_array_equal(one[mask], other[mask])


def test_longer_filling_changes_no_real_token():
    short = {name: x[1:, :5] for name, x in BATCH.items()}  # of six, the longest of these has five tokens
    long = MODEL.backbone.apply(VARIABLES, BATCH)['tokens'][1:, :5]
    found = jax.jit(MODEL.backbone.apply)(VARIABLES, short)['tokens']
    np.testing.assert_allclose(np.asarray(found)[short['mask']], np.asarray(long)[short['mask']], atol=2e-6)


def test_positions_of_roberta_follow_the_real_tokens():
    """Filled in front or behind, the tokens are the same; the first one reads row 2, filling row 1."""
    model = _tiny('roberta')
    variables = _fill(model.backbone.init, BATCH)
    ids = np.array([[5, 7, 9, 4, 1, 1]] * 4, np.int32)
    behind, front = (model.backbone.apply(variables, {'ids': x, 'mask': x != 1})['tokens'] for x in (ids, np.roll(ids, 2, axis=1)))
    np.testing.assert_allclose(behind[:, :4], front[:, 2:], atol=1e-6)
    stage = Embeddings(20, 8, 7, first_position=2, segments=0)
    params = {
        'word': {'embedding': np.zeros((20, 8))},
        'position': {'embedding': np.eye(9)[:, :8]},
        'norm': {'scale': np.ones(8), 'bias': np.zeros(8)},
    }
    found = stage.apply({'params': params}, {'ids': ids, 'mask': ids != 1})['tokens']
    assert np.argmax(found[0], axis=-1).tolist() == [2, 3, 4, 5, 1, 1]


def test_without_any_real_token_numbers_and_gradients_are_finite():
    attention = Attention(2)
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    variables = _fill(attention.init, x, BATCH['mask'])
    run = jax.jit(jax.value_and_grad(lambda x: (attention.apply(variables, x, np.zeros((4, 6), bool)) ** 2).sum()))
    value, gradient = run(x)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_layer_by_hand():
    layer = Layer(2, 12)
    x = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    mask = BATCH['mask']
    variables = _fill(layer.init, {'tokens': x, 'mask': mask})
    found = layer.apply(variables, {'tokens': x, 'mask': mask})['tokens']
    p = variables['params']

    def norm(x, leaves):
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12) * leaves['scale'] + leaves['bias']

    def dense(x, leaves):
        return x @ leaves['kernel'] + leaves['bias']

    heads = []
    for part in (slice(0, 4), slice(4, 8)):
        q, k, v = (dense(x, p['attention'][name])[..., part] for name in ('query', 'key', 'value'))
        scores = np.exp(q @ k.swapaxes(1, 2) / 2) * mask[:, None]
        heads.append(scores / scores.sum(-1, keepdims=True) @ v)
    x = norm(x + dense(np.concatenate(heads, axis=-1), p['attention']['out']), p['norm1'])
    hidden = dense(x, p['mlp']['fc1'])
    x = norm(x + dense(hidden * 0.5 * (1 + erf(hidden / 2**0.5)), p['mlp']['fc2']), p['norm2'])
    np.testing.assert_allclose(found, x, atol=1e-5)


def _dropped(values, kept):
    """The share of zeros among `values`, which hold nothing else but `kept`."""
    values = np.asarray(values)
    np.testing.assert_allclose(values[values != 0], kept, rtol=1e-5)
    return float((values == 0).mean())


def test_dropout_is_where_bert_has_it_and_only_in_training():
    key = {'rngs': {'dropout': jax.random.key(0)}}
    mask = np.ones((4, 6), bool)
    zero, one = np.zeros(8, np.float32), np.ones(8, np.float32)
    stage = Embeddings(20, 8, 7, segments=0, dropout=0.25)
    tables = {name: {'embedding': np.zeros((rows, 8), np.float32)} for name, rows in (('word', 20), ('position', 7))}
    params = tables | {'norm': {'scale': one, 'bias': one}}
    batch = {'ids': BATCH['ids'], 'mask': mask}
    assert 0.15 < _dropped(stage.apply({'params': params}, batch, TRAIN, **key)['tokens'], 4 / 3) < 0.35
    np.testing.assert_array_equal(stage.apply({'params': params}, batch)['tokens'], 1)

    # Even weights of 1/6 on values that are six of the unit vectors: the outputs are the weights themselves.
    attention = Attention(2, dropout=0.25)
    nothing, unit = {'kernel': np.zeros((8, 8), np.float32), 'bias': zero}, {'kernel': np.eye(8, dtype=np.float32), 'bias': zero}
    params = {'query': nothing, 'key': nothing, 'value': unit, 'out': unit}
    x = np.broadcast_to(np.eye(6, 8, dtype=np.float32), (4, 6, 8))
    assert 0.15 < _dropped(attention.apply({'params': params}, x, mask, TRAIN, **key)[..., :6], 4 / 18) < 0.35
    np.testing.assert_allclose(attention.apply({'params': params}, x, mask)[..., :6], 1 / 6, rtol=1e-6)

    # One branch gives ones and the other nothing: what lies below the mean behind the norms was dropped.
    layer, ones = Layer(2, 12, dropout=0.25), {'bias': one}
    fc1, fc2 = (
        {'kernel': np.zeros((8, 12), np.float32), 'bias': np.zeros(12, np.float32)},
        nothing | {'kernel': np.zeros((12, 8), np.float32)},
    )
    features = {'tokens': np.zeros((4, 6, 8), np.float32), 'mask': mask}
    for out, last in ((nothing | ones, fc2), (nothing, fc2 | ones)):
        params = {
            'attention': {'query': nothing, 'key': nothing, 'value': nothing, 'out': out},
            'mlp': {'fc1': fc1, 'fc2': last},
            'norm1': {'scale': one, 'bias': zero},
            'norm2': {'scale': one, 'bias': zero},
        }
        trained = np.asarray(layer.apply({'params': params}, features, TRAIN, **key)['tokens'])
        assert 0.15 < float((trained < 0).mean()) < 0.35
        assert not np.asarray(layer.apply({'params': params}, features)['tokens']).any()


def test_initial_values_are_berts():
    model = bert(width=16, depth=1, heads=1, mlp=16, vocab_size=16, positions=16, segments=16)
    ids = np.zeros((1, 2), np.int32)
    batch = {'ids': ids, 'segments': ids, 'mask': ids == 0}
    found = flatten(jax.jit(lambda key: model.backbone.init(key, batch)['params'])(jax.random.key(0)))
    drawn = np.stack([leaf for path, leaf in found.items() if path.endswith(('kernel', 'embedding'))])
    assert drawn.shape == (10, 16, 16) and len(np.unique(drawn)) == drawn.size
    assert abs(drawn.mean()) < 0.001 and abs(drawn.std() - 0.02) < 0.001
    for path, leaf in found.items():
        if path.endswith(('scale', 'bias')):
            np.testing.assert_array_equal(leaf, path.endswith('scale'))


def test_bfloat16_computes_near_float32():
    half = bert(**TINY, dtype=jnp.bfloat16)
    found = jax.jit(half.backbone.apply)(VARIABLES, BATCH)
    wanted = MODEL.backbone.apply(VARIABLES, BATCH)  # compiled already, op by op
    for name in ('tokens', 'pooled'):
        assert found[name].dtype == jnp.bfloat16
        np.testing.assert_allclose(found[name].astype(np.float32), wanted[name], atol=0.05 * float(jnp.abs(wanted[name]).max()))


def test_what_a_model_reads():
    for name, segments in (('bert_tiny', True), ('roberta_base', False), ('distilbert_base', False)):
        inputs = build_model({'name': name, **TINY}).inputs((5,))
        assert {key: (spec.shape, spec.dtype) for key, spec in inputs.items()} == {
            'ids': ((5,), jnp.int32),
            'mask': ((5,), jnp.bool_),
        } | ({'segments': ((5,), jnp.int32)} if segments else {})


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'width': 0}, 'width'),
        ({'heads': 3}, 'multiple of heads'),
        ({'vocab_size': 0}, r'model\.vocab_size'),
        ({'positions': 0}, 'positions'),
        ({'segments': -1}, 'segments'),
        ({'dropout': 1.0}, 'dropout'),
        ({'attention_dropout': -0.1}, 'attention_dropout'),
        ({'epsilon': 0.0}, 'epsilon'),
        ({'gelu': 'fast'}, 'gelu'),
        ({'source': 'robert'}, "no 'robert'.*roberta"),
    ],
)
def test_bad_options(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'bert_tiny', **TINY, **option})
