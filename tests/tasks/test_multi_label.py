import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import log_loss

from jtl.tasks import build_task
from jtl.tasks.multi_label import describe, sigmoid_cross_entropy

LOGITS = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32) * 2
Y = np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1], [0, 1, 0], [0, 0, 1]], np.float32)
P = 1 / (1 + np.exp(-LOGITS))


def test_loss_is_the_mean_binary_cross_entropy_over_labels():
    got = np.asarray(sigmoid_cross_entropy(jnp.asarray(LOGITS), {'label': jnp.asarray(Y)}))
    np.testing.assert_allclose(got, -(Y * np.log(P) + (1 - Y) * np.log(1 - P)).mean(1), rtol=1e-5)
    assert got.mean() == pytest.approx(log_loss(Y.ravel(), P.ravel()), rel=1e-5)
    assert build_task({'name': 'multi_label'}, 'abc', (3,)).evaluate(LOGITS, Y)['loss'] == pytest.approx(got.mean(), rel=1e-5)


def test_gradient_pushes_towards_the_targets_and_large_logits_stay_finite():
    def total(x):
        return sigmoid_cross_entropy(x, {'label': jnp.asarray(Y)}).sum()

    np.testing.assert_allclose(jax.grad(total)(jnp.asarray(LOGITS)), (P - Y) / 3, atol=1e-6)
    assert np.isfinite(total(jnp.full((6, 3), 1e4)))


def test_baseline_answers_each_label_by_its_majority():
    task = build_task({'name': 'multi_label'}, 'abc', (3,))
    train = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0]], np.float32)  # majority: 1, 0, 0
    test = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1]], np.float32)
    got = task.baseline(train, test)
    p = np.array([4, 2, 1]) / 5
    assert got['exact_match'] == 0.25
    assert got['loss'] == pytest.approx(-(test * np.log(p) + (1 - test) * np.log(1 - p)).mean())
    assert got['mean_average_precision'] == pytest.approx((0.5 + 0.25 + 0.25) / 3)  # a constant score: the share of positives


def test_describe_lists_predicted_labels():
    got = describe(np.array([0.0, -1.0, 2.0], np.float32), labels=('a', 'b', 'c'))
    assert (got['label'], got['labels']) == ('c', ['c', 'a'])
    assert [t['probability'] for t in got['top']] == pytest.approx([1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(1))])
    assert describe(np.array([-3.0, -1.0]), labels='ab')['labels'] == []
