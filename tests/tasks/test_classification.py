import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

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
    assert got['accuracy'] == 0.5
    assert got['nll'] == pytest.approx(-np.log(p[[1, 1, 0, 2]]).mean())
    assert got['macro_f1'] == pytest.approx((2 / 3) / 3)  # class 1: precision 1/2, recall 1


def test_describe_names_the_most_probable_classes():
    row = np.log(np.array([0.1, 0.6, 0.3], np.float32)) + 7
    got = describe(row, labels=('cat', 'dog', 'owl'), top=2)
    assert (got['label'], [t['label'] for t in got['top']]) == ('dog', ['dog', 'owl'])
    assert [got['probability'], got['top'][1]['probability']] == pytest.approx([0.6, 0.3], rel=1e-5)
    assert type(got['probability']) is float
