import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models.base import Mode
from jtl.tasks import build_task
from jtl.tasks.entities import ABSENT, read_tags
from jtl.tasks.token_classification import TokenHead, everything_outside, word_cross_entropy

LABELS = ('O', 'B-loc', 'I-loc')
RNG = np.random.default_rng(0)
TOKENS = jnp.asarray(RNG.normal(size=(2, 5, 4)), jnp.float32)
STARTS = jnp.array([[1, 3, 4], [2, -1, -1]])
FEATURES = {'tokens': TOKENS, 'mask': jnp.ones((2, 5), bool), 'word_starts': STARTS}
PARAMS = {'output': {'kernel': jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32), 'bias': jnp.asarray([0.5, -1.0, 2.0])}}
TASK = build_task({'name': 'token_classification'}, LABELS, (3,))


def outputs():
    return TASK.head.apply({'params': PARAMS}, FEATURES)


def test_the_head_reads_the_first_token_of_each_word():
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(TASK.head.init, jax.random.key(0), FEATURES))
    assert shapes == {'params': {'output': {'kernel': (4, 3), 'bias': (3,)}}}
    got = outputs()
    assert got.shape == (2, 3, 3) and got.dtype == jnp.float32
    for example, word, token in ((0, 0, 1), (0, 1, 3), (0, 2, 4), (1, 0, 2)):
        expected = np.asarray(TOKENS[example, token]) @ np.asarray(PARAMS['output']['kernel']) + np.asarray(PARAMS['output']['bias'])
        np.testing.assert_allclose(got[example, word], expected, rtol=1e-5, atol=1e-6)
    assert got[1, 1:].tolist() == [[0, ABSENT, ABSENT]] * 2
    assert TASK.inputs['word_starts'].shape == (3,) and TASK.inputs['word_starts'].dtype == jnp.int32


def test_dropout_only_in_training():
    head = TokenHead(3, 0, dropout=0.5)
    got = [head.apply({'params': PARAMS}, FEATURES, Mode(train=True), rngs={'dropout': jax.random.key(i)}) for i in (0, 0, 1)]
    assert np.array_equal(got[0], got[1]) and not np.allclose(got[0], got[2])
    np.testing.assert_array_equal(head.apply({'params': PARAMS}, FEATURES), outputs())


def test_loss_is_the_mean_over_words_that_have_a_label_and_are_seen():
    out = outputs()
    p = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
    batch = {'word_starts': STARTS, 'label': jnp.array([[1, -1, 2], [0, 1, -1]])}  # the second text's second word is cut off
    expected = [-(np.log(p[0, 0, 1]) + np.log(p[0, 2, 2])) / 2, -np.log(p[1, 0, 0])]
    np.testing.assert_allclose(TASK.loss(out, batch), expected, rtol=1e-5)
    assert TASK.loss(out, {'word_starts': STARTS, 'label': jnp.full((2, 3), -1)}).tolist() == [0, 0]
    # over a split the same, and the targets may have room for words that the batch had none for
    targets = np.array([[1, -1, 2, -1], [0, 1, -1, 2]])
    assert TASK.evaluate(np.asarray(out), targets)['loss'] == pytest.approx(np.mean(expected), rel=1e-5)


def test_gradients_reach_the_words_that_count_alone():
    batch = {'word_starts': STARTS, 'label': jnp.array([[1, -1, 2], [0, 1, -1]])}

    def loss(tokens):
        return word_cross_entropy(TASK.head.apply({'params': PARAMS}, {**FEATURES, 'tokens': tokens}), batch).sum()

    grad = np.asarray(jax.grad(loss)(TOKENS))
    assert np.isfinite(grad).all()
    assert {(i, t) for i, t in np.argwhere(np.abs(grad).sum(-1))} == {(0, 1), (0, 4), (1, 2)}


def test_words_that_are_cut_off_are_predicted_outside_whatever_its_number():
    task = build_task({'name': 'token_classification'}, ('B-loc', 'I-loc', 'O'))
    params = {'output': {'kernel': jnp.zeros((4, 3)), 'bias': jnp.array([5.0, 0.0, 0.0])}}
    out = np.asarray(task.head.apply({'params': params}, FEATURES))
    got = task.evaluate(out, np.array([[0, 0, 0], [0, 2, 0]]))
    assert got['recall'] == pytest.approx(4 / 5) and got['precision'] == 1 and got['accuracy'] == pytest.approx(5 / 6)


def test_baseline_is_outside_everywhere_with_the_frequencies_of_training():
    train, targets = np.array([[0, 0, 1, 2], [0, -1, -1, -1]]), np.array([[0, 0, 0], [1, 2, -1], [-1, -1, -1]])
    p = np.array([4, 2, 2]) / 8  # counts 3, 1, 1 and one more each
    got = TASK.baseline(train, targets)
    expected = np.mean([-np.log(p[0]), -np.log(p[[1, 2]]).mean(), 0])
    assert got == pytest.approx({'loss': expected, 'f1': 0, 'precision': 0, 'recall': 0, 'accuracy': 3 / 5})
    constant = np.broadcast_to(np.log(p), (3, 3, 3))  # the same as that constant output evaluated
    assert TASK.evaluate(constant, targets) == pytest.approx(got)
    assert TASK.baseline(train, targets[:0]) == {} == TASK.evaluate(constant[:0], targets[:0])
    assert everything_outside(train[:0], targets, tags=read_tags(LABELS))['loss'] == pytest.approx(np.log(3) * 2 / 3)


def test_describe_tells_the_tags_of_the_words_and_the_entities():
    row = np.log(np.array([[0.1, 0.7, 0.2], [0.2, 0.2, 0.6], [0.8, 0.1, 0.1], [0.1, 0.1, 0.8]], np.float32))
    row = np.concatenate([row, np.array([[0, ABSENT, ABSENT]], np.float32)])  # no fifth word
    got = TASK.describe(row)
    assert got['tags'] == ['B-loc', 'I-loc', 'O', 'I-loc']
    assert [(e['type'], e['start'], e['end']) for e in got['entities']] == [('loc', 0, 2), ('loc', 3, 4)]
    assert [e['probability'] for e in got['entities']] == pytest.approx([0.42, 0.8], rel=1e-5)
    assert TASK.describe(row[4:]) == {'tags': [], 'entities': []}


def test_the_scheme_is_said_and_checked():
    assert TASK.notes == ('tags: read as IOB2 (task.scheme).',)
    assert build_task({'name': 'token_classification', 'scheme': 'io'}, ('O', 'x')).notes == ('tags: read as IO.',)
    with pytest.raises(UserError, match=r"task\.scheme='bilou'"):
        build_task({'name': 'token_classification', 'scheme': 'bilou'}, ('O', 'x'))


@pytest.mark.parametrize(
    ('section', 'shape', 'message'),
    [
        ({}, (), r'reads a tag for each word of an example, the targets have shape \(\)\. .*task\.name=classification'),
        ({'zero_init': 1}, (3,), r'task\.zero_init: expected True or False, found 1'),
        ({'dropout': 1.0}, (3,), r'task\.dropout: '),
    ],
)
def test_what_is_refused(section, shape, message):
    with pytest.raises(UserError, match=message):
        build_task({'name': 'token_classification', **section}, LABELS, shape)


def test_features_that_cannot_be_read_are_named():
    with pytest.raises(UserError, match=r'reads `tokens` and `word_starts`, but the features are `pooled` \(2, 4\)'):
        TASK.head.apply({'params': PARAMS}, {'pooled': TOKENS[:, 0]})


def test_in_training_every_word_counts_alike():
    """A batch's mean is the sum over its words, against the eight words of four training sentences."""
    task = build_task({'name': 'token_classification'}, LABELS, (3,), (5, 2, 1), examples=4)
    batch = {'word_starts': STARTS, 'label': jnp.array([[1, -1, 2], [0, 1, -1]])}
    out = outputs()
    p = np.exp(out) / np.exp(out).sum(-1, keepdims=True)
    words = [-np.log(p[0, 0, 1]), -np.log(p[0, 2, 2]), -np.log(p[1, 0, 0])]
    np.testing.assert_allclose(task.training_loss(out, batch).mean(), sum(words) / (2 * 8 / 4), rtol=1e-5)
    np.testing.assert_allclose(task.loss(out, batch), TASK.loss(out, batch))  # evaluation does not weigh
    assert TASK.weight is None
