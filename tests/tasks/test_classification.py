import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight

from jtl.errors import UserError
from jtl.tasks import build_task
from jtl.tasks.classification import cross_entropy, describe

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(6, 4)).astype(np.float32) * 3
Y = np.array([0, 1, 2, 3, 3, 1])
P = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)


def loss(logits, y, **options):
    return np.asarray(cross_entropy(jnp.asarray(logits), {'label': jnp.asarray(y)}, **options))


def test_cross_entropy_is_the_log_loss_of_each_example():
    got = loss(LOGITS, Y)
    assert got.shape == (6,) and got.dtype == np.float32
    assert got.mean() == pytest.approx(log_loss(Y, P, labels=range(4)), rel=1e-5)
    np.testing.assert_allclose(got, [-np.log(P[i, y]) for i, y in enumerate(Y)], rtol=1e-5)


def test_label_smoothing_by_hand():
    # K = 4, smoothing 0.2: the true class has 0.85, each other one 0.05.
    expected = [-sum((0.85 if k == y else 0.05) * np.log(P[i, k]) for k in range(4)) for i, y in enumerate(Y)]
    np.testing.assert_allclose(loss(LOGITS, Y, label_smoothing=0.2), expected, rtol=1e-5)
    task = build_task({'name': 'classification', 'label_smoothing': 0.2}, 'abcd', ())
    np.testing.assert_allclose(task.loss(jnp.asarray(LOGITS), {'label': jnp.asarray(Y)}), expected, rtol=1e-5)
    metrics = task.evaluate(LOGITS, Y)
    assert metrics['loss'] == pytest.approx(np.mean(expected), rel=1e-6)
    assert metrics['nll'] == pytest.approx(log_loss(Y, P, labels=range(4)), rel=1e-5)


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_gradient_is_probability_minus_target(smoothing):
    grad = jax.grad(lambda x: cross_entropy(x, {'label': jnp.asarray(Y)}, label_smoothing=smoothing).sum())(jnp.asarray(LOGITS))
    target = np.full((6, 4), smoothing / 4)
    target[np.arange(6), Y] += 1 - smoothing
    np.testing.assert_allclose(grad, P - target, atol=1e-6)


def test_large_logits_stay_finite_and_a_label_out_of_range_does_not_pass_silently():
    assert np.isfinite(loss([[1e4, -1e4]], [1])).all()
    assert np.isnan(loss([[1.0, 2.0]], [2])).all()


def test_baseline_is_the_majority_class_with_class_frequencies():
    task = build_task({'name': 'classification'}, 'abc', ())
    got = task.baseline(np.array([0, 1, 1, 1, 1]), np.array([1, 1, 0, 2]))
    p = np.array([2, 5, 1]) / 8  # counts 1, 4, 0 and one more each
    assert got['accuracy'] == 0.5 and got['balanced_accuracy'] == pytest.approx(1 / 3)
    assert got['nll'] == pytest.approx(-np.log(p[[1, 1, 0, 2]]).mean())
    assert got['macro_f1'] == pytest.approx((2 / 3) / 3)  # class 1: precision 1/2, recall 1


def test_balanced_weights_are_scikit_learns_and_count_in_training_alone():
    y = np.repeat(np.arange(4), (3, 10, 1, 6))
    wanted = compute_class_weight('balanced', classes=np.arange(4), y=y)
    task = build_task({'name': 'classification', 'class_weights': 'balanced', 'label_smoothing': 0.1}, 'abcd', (), np.bincount(y))
    plain = build_task({'name': 'classification', 'label_smoothing': 0.1}, 'abcd', (), np.bincount(y))
    batch = {'label': jnp.asarray(Y)}
    np.testing.assert_allclose(
        task.training_loss(jnp.asarray(LOGITS), batch), wanted[Y] * plain.loss(jnp.asarray(LOGITS), batch), rtol=1e-6
    )
    np.testing.assert_array_equal(task.loss(jnp.asarray(LOGITS), batch), plain.loss(jnp.asarray(LOGITS), batch))
    np.testing.assert_array_equal(plain.training_loss(jnp.asarray(LOGITS), batch), plain.loss(jnp.asarray(LOGITS), batch))
    assert task.evaluate(LOGITS, Y) == plain.evaluate(LOGITS, Y) and task.baseline(y, Y) == plain.baseline(y, Y)
    np.testing.assert_allclose(task.weight({'label': jnp.asarray(y)}).mean(), 1, rtol=1e-6)
    assert task.notes == ('class weights in the training loss: a 1.667, b 0.5, c 5, d 0.8333.',) and plain.notes == ()


def test_written_weights_and_a_bundle_which_has_no_counts():
    task = build_task({'name': 'classification', 'class_weights': (1, 0, 2.5)}, 'abc', ())
    assert task.weight({'label': jnp.array([2, 1, 0])}).tolist() == [2.5, 0, 1]
    assert build_task({'name': 'classification', 'class_weights': 'balanced'}, 'abc').weight is None


@pytest.mark.parametrize(
    ('weights', 'counts', 'message'),
    [
        ('balance', (1, 1, 1), r"task.class_weights: 'balanced', a tuple of 3 numbers or '' \(none\), found 'balance'"),
        ('balanced', (4, 0, 1), r"task.class_weights='balanced': training has no example of b, whose weight would be infinite"),
        ((1.0, 2.0), (1, 1, 1), r'2 weights for 3 classes \(a, b, c\)'),
        ((1.0, -2.0, 1.0), (1, 1, 1), 'finite numbers of at least 0'),
        ((0.0, 0.0, 0.0), (1, 1, 1), 'not all 0'),
        ((1.0, float('inf'), 1.0), (1, 1, 1), 'finite numbers'),
    ],
)
def test_weights_that_are_none(weights, counts, message):
    with pytest.raises(UserError, match=message):
        build_task({'name': 'classification', 'class_weights': weights}, 'abc', (), counts)


def test_describe_names_the_most_probable_classes():
    row = np.log(np.array([0.1, 0.6, 0.3], np.float32)) + 7
    got = describe(row, labels=('cat', 'dog', 'owl'), top=2)
    assert (got['label'], [t['label'] for t in got['top']]) == ('dog', ['dog', 'owl'])
    assert [got['probability'], got['top'][1]['probability']] == pytest.approx([0.6, 0.3], rel=1e-5)
    assert type(got['probability']) is float
