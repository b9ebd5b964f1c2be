import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.tasks import metrics

pytestmark = pytest.mark.filterwarnings('error')


def test_classification_metrics_against_scikit_learn():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 7, 200)
    logits = rng.normal(size=(200, 8)).astype(np.float32) + 1.5 * np.eye(8)[y]  # class 7 has no example, but is predicted
    got = metrics.classification_metrics(logits, y)
    predicted, p = logits.argmax(1), metrics.softmax(logits)
    assert 7 in predicted
    assert got['accuracy'] == pytest.approx(sk.accuracy_score(y, predicted))
    assert got['macro_f1'] == pytest.approx(sk.f1_score(y, predicted, average='macro'))
    assert got['balanced_accuracy'] == pytest.approx(sk.recall_score(y, predicted, average='macro', labels=range(7)))
    assert got['nll'] == got['loss'] == pytest.approx(sk.log_loss(y, p, labels=range(8)))
    assert got['top5_accuracy'] == pytest.approx(sk.top_k_accuracy_score(y, logits, k=5, labels=range(8)))


def test_top5_only_where_it_says_something_and_constant_outputs_are_not_right_for_all():
    assert 'top5_accuracy' not in metrics.classification_metrics(np.zeros((3, 5)), np.array([0, 1, 2]))
    assert metrics.classification_metrics(np.zeros((10, 10)), np.arange(10))['top5_accuracy'] == 0.5


def test_per_class_against_scikit_learn_with_a_class_without_examples():
    y, predicted = np.array([0, 0, 1, 1, 1, 3]), np.array([0, 1, 1, 1, 2, 1])
    rows = metrics.per_class(y, predicted, ['a', 'b', 'c', 'd', 'e'])
    expected = sk.precision_recall_fscore_support(y, predicted, labels=range(5), zero_division=0)
    for name, values in zip(('precision', 'recall', 'f1', 'support'), expected, strict=True):
        np.testing.assert_allclose([row[name] for row in rows], values)
    assert [row['label'] for row in rows] == ['a', 'b', 'c', 'd', 'e']
    assert [row['predicted'] for row in rows] == [1, 4, 1, 0, 0]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(1, 6).flatmap(lambda k: st.tuples(st.just(k), st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))))))
def test_confusion_counts_every_example_once(case):
    k, pairs = case
    y, predicted = np.array(pairs, np.int32).reshape(-1, 2).T
    counts = metrics.confusion(y, predicted, k)
    assert counts.shape == (k, k) and counts.dtype.kind == 'i'
    assert counts.sum(axis=1).tolist() == [int((y == c).sum()) for c in range(k)]
    assert counts.sum(axis=0).tolist() == [int((predicted == c).sum()) for c in range(k)]
    assert np.trace(counts) == (y == predicted).sum()
    if pairs and k > 1:  # scikit-learn warns of a single class
        assert (counts == sk.confusion_matrix(y, predicted, labels=range(k))).all()


def test_calibration_error_by_hand():
    # Four bins: (0.5, 0.75] holds 0.6 (right) and 0.75 (wrong), (0.75, 1] holds 0.9, 1.0 (both right); 0.75 belongs to the lower bin.
    p = np.array([[0.6, 0.4], [0.25, 0.75], [0.9, 0.1], [0.0, 1.0]])
    y = np.array([0, 0, 0, 1])
    rows = metrics.reliability(p, y, bins=4)
    assert [(r['lower'], r['upper'], r['count'], r['accuracy']) for r in rows] == [(0.5, 0.75, 2, 0.5), (0.75, 1.0, 2, 1.0)]
    assert [r['confidence'] for r in rows] == pytest.approx([0.675, 0.95])
    assert metrics.expected_calibration_error(p, y, bins=4) == pytest.approx(0.5 * 0.175 + 0.5 * 0.05)


def test_calibration_error_of_sure_and_right_is_zero_and_of_sure_and_wrong_is_one():
    y = np.array([0, 1, 2])
    assert metrics.expected_calibration_error(np.eye(3), y) == 0
    assert metrics.expected_calibration_error(np.eye(3), (y + 1) % 3) == 1
    assert metrics.expected_calibration_error(np.zeros((0, 3)), y[:0]) == 0
    assert metrics.reliability(np.zeros((0, 3)), y[:0]) == []


def test_multi_label_metrics_against_scikit_learn():
    rng = np.random.default_rng(1)
    y = (rng.random((80, 4)) < 0.3).astype(np.float32)
    logits = (rng.normal(size=(80, 4)) + 2 * y - 1).astype(np.float32)
    got, predicted = metrics.multi_label_metrics(logits, y), logits >= 0
    assert got['mean_average_precision'] == pytest.approx(sk.average_precision_score(y, logits, average='macro'))
    assert got['micro_f1'] == pytest.approx(sk.f1_score(y, predicted, average='micro'))
    assert got['macro_f1'] == pytest.approx(sk.f1_score(y, predicted, average='macro'))
    assert got['exact_match'] == pytest.approx(sk.accuracy_score(y, predicted))


def test_multi_label_averages_leave_out_labels_that_do_not_occur():
    y = np.array([[1, 0], [0, 0], [1, 0]], np.float32)
    logits = np.array([[1, -1], [-1, -1], [2, -1]], np.float32)
    got = metrics.multi_label_metrics(logits, y)
    assert (got['mean_average_precision'], got['macro_f1'], got['exact_match']) == (1, 1, 1)
    nothing = metrics.multi_label_metrics(-np.ones((2, 2)), np.zeros((2, 2)))
    assert (nothing['mean_average_precision'], nothing['micro_f1'], nothing['macro_f1'], nothing['exact_match']) == (0, 0, 0, 1)


@pytest.mark.parametrize('k', [1, 3])
def test_regression_metrics_against_scikit_learn(k):
    rng = np.random.default_rng(2)
    y = rng.normal(size=(50, k)) * [5.0, 1.0, 0.1][:k]
    outputs = (y + rng.normal(size=(50, k))).astype(np.float32)
    got = metrics.regression_metrics(outputs, y[:, 0] if k == 1 else y, 'xyz'[:k])
    assert got['rmse'] ** 2 == pytest.approx(got['loss']) and got['loss'] == pytest.approx(sk.mean_squared_error(y, outputs))
    assert got['mae'] == pytest.approx(sk.mean_absolute_error(y, outputs))
    assert got['r2'] == pytest.approx(sk.r2_score(y, outputs))
    assert len(got) == (4 if k == 1 else 13)
    if k > 1:
        for i, name in enumerate('xyz'):
            assert got[f'rmse/{name}'] == pytest.approx(sk.root_mean_squared_error(y[:, i], outputs[:, i]))
            assert got[f'r2/{name}'] == pytest.approx(sk.r2_score(y[:, i], outputs[:, i]))


def test_r2_of_a_constant_target_is_one_if_perfect_else_zero():
    y = np.full(3, 0.1)
    assert metrics.regression_metrics(y[:, None], y, 'x')['r2'] == 1
    assert metrics.regression_metrics(y[:, None] + 1, y, 'x')['r2'] == 0
    assert metrics.regression_metrics(np.ones((1, 1)), np.zeros(1), 'x')['r2'] == 0


def test_outputs_that_are_not_finite_give_nan_without_a_warning():
    y = np.array([0, 1])
    for bad in (np.nan, np.inf):
        with warnings.catch_warnings(record=True) as caught:
            assert np.isnan(metrics.classification_metrics(np.array([[bad, 0.0], [0.0, 1.0]]), y)['loss'])
            assert np.isnan(metrics.multi_label_metrics(np.array([[bad, 0.0], [0.0, 1.0]]), np.eye(2))['mean_average_precision'])
        assert not caught
