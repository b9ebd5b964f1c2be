"""Ridge regression against scikit-learn's, and leave-one-out against leaving each out."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jtl.tasks import ridge as module
from jtl.tasks.ridge import ridge

L2 = (1e-3, 1.0, 50.0, 1e4)


def problem(n, d):
    rng = np.random.default_rng(n)
    x = (rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + rng.uniform(-20, 20, d)).astype(np.float32)
    x[:, 3] = 0.7  # constant: a dead channel
    return x, rng.normal(size=(n, 3)) + 5


@pytest.mark.parametrize('standardize', [False, True])
@pytest.mark.parametrize(('n', 'd'), [(90, 20), (30, 70), (40, 40)])
def test_as_scikit_learn_from_either_gram_matrix(n, d, standardize, monkeypatch):
    x, y = problem(n, d)
    new = problem(n + 1, d)[0]
    monkeypatch.setattr(module, '_ROWS', 17)
    for l2, model in zip(L2, ridge(x, y, L2, standardize=standardize), strict=True):
        steps = [StandardScaler()] if standardize else []
        reference = make_pipeline(*steps, Ridge(l2)).fit(x.astype(np.float64), y)
        assert model.l2 == l2
        np.testing.assert_allclose(model(new), reference.predict(new.astype(np.float64)), rtol=1e-7, atol=1e-7)
        if not standardize:
            np.testing.assert_allclose(model.weights, reference[-1].coef_.T, rtol=1e-6, atol=1e-8)
            np.testing.assert_allclose(model.bias, reference[-1].intercept_, rtol=1e-7)
    assert ridge(x, y, L2)[0](new[:0]).shape == (0, 3)


@pytest.mark.parametrize(('rows', 'classes'), [(slice(0, 40), 10), (slice(0, 1000), 10), (slice(0, 400), 2)])
def test_the_largest_output_is_the_class_that_scikit_learn_predicts(rows, classes):
    x, y = load_digits(return_X_y=True)
    x, y = x[y < classes].astype(np.float32), y[y < classes]
    targets = np.where(y[:, None] == np.arange(classes), np.int8(1), np.int8(-1))
    fitted = zip(L2, ridge(x[rows], targets[rows], L2), strict=True)
    for l2, model in fitted:
        reference = RidgeClassifier(l2).fit(x[rows].astype(np.float64), y[rows])
        np.testing.assert_array_equal(model(x).argmax(1), reference.predict(x.astype(np.float64)))


@pytest.mark.parametrize(('n', 'd'), [(50, 12), (20, 60)])
def test_leaving_one_out(n, d, monkeypatch):
    x, y = problem(n, d)
    monkeypatch.setattr(module, '_ROWS', 9)
    found = [model.leave_one_out for model in ridge(x, y, L2, leave_one_out=True)]
    reference = RidgeCV(L2, store_cv_results=True).fit(x.astype(np.float64), y)
    np.testing.assert_allclose(found[1:], reference.cv_results_.mean(axis=(0, 1))[1:], rtol=1e-6)
    for l2, error in zip(L2, found, strict=True):
        each = [ridge(np.delete(x, i, 0), np.delete(y, i, 0), [l2])[0](x[i : i + 1])[0] - y[i] for i in range(n)]
        assert error == pytest.approx(np.square(each).mean(), rel=1e-5)
    assert np.isnan(ridge(x, y, L2)[0].leave_one_out)
