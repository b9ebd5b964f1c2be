"""The two evaluators: what they choose, what they report, and what they refuse."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge, RidgeClassifier, RidgeCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jtl.data.arrays import from_arrays
from jtl.errors import UserError
from jtl.tasks import build_task, probes

PIXELS, DIGITS = load_digits(return_X_y=True)
PARTS = {'train': slice(0, 60), 'validation': slice(60, 300), 'test': slice(300, 700)}
X = {name: PIXELS[rows].astype(np.float32) for name, rows in PARTS.items()}
Y = {name: DIGITS[rows].astype(np.int32) for name, rows in PARTS.items()}
TASK = build_task({'name': 'classification'}, tuple('0123456789'), ())


def without(name, arrays):
    return {key: value for key, value in arrays.items() if key != name}


def section(**fields):
    return {**probes.defaults(), **fields}


def ridge_scores(grid, split):
    def score(l2):
        return make_pipeline(StandardScaler(), RidgeClassifier(l2)).fit(X['train'].astype(float), Y['train']).score(X[split], Y[split])

    return [score(l2) for l2 in grid]


def test_the_strength_is_the_best_on_validation_and_the_stronger_of_equal_ones():
    grid = probes.defaults()['l2']
    scores = ridge_scores(grid, 'validation')
    best = max(range(len(grid)), key=lambda k: (scores[k], grid[k]))
    found = probes.linear_probe(X, Y, TASK, section(l2=grid[::-1]))  # the order of the grid does not matter
    assert found.chosen == {'l2': grid[best], 'chosen_on': 'validation'}
    assert found.metrics(TASK, Y)['test']['accuracy'] == pytest.approx(ridge_scores(grid, 'test')[best])
    assert 'Fitted on train alone, not again with validation' in found.said and 'edge' not in found.said
    fine = (100.0, 100.01, 100.02)
    assert len(set(ridge_scores(fine, 'validation'))) == 1
    assert probes.linear_probe(X, Y, TASK, section(l2=fine)).chosen['l2'] == 100.02


def test_without_validation_leave_one_out_chooses_as_scikit_learn():
    grid = probes.defaults()['l2']
    x, y = without('validation', X), without('validation', Y)
    found = probes.linear_probe(x, y, TASK, section(standardize=False))
    one_hot = np.where(Y['train'][:, None] == np.arange(10), 1.0, -1.0)
    assert found.chosen == {'l2': RidgeCV(grid).fit(X['train'].astype(float), one_hot).alpha_, 'chosen_on': 'leave-one-out'}
    assert 'there is no validation split' in found.said


def test_the_edge_of_the_grid_is_said():
    found = probes.linear_probe(X, Y, TASK, section(l2=(1e7, 1e8)))
    assert 'at the edge of config.probe.l2: widen it' in found.said


def test_neighbours_score_every_split_but_train():
    found = probes.knn_probe(X, Y, TASK, section(k=3, weights='uniform', metric='euclidean'))
    metrics = found.metrics(TASK, Y)
    assert set(metrics) == {'validation', 'test'}
    reference = KNeighborsClassifier(3).fit(X['train'], Y['train'])
    assert metrics['test']['accuracy'] == pytest.approx(reference.score(X['test'], Y['test']))
    assert set(metrics['test']) == {'accuracy', 'top5_accuracy', 'balanced_accuracy', 'macro_f1'}
    assert '3 nearest of 60, euclidean, weights uniform' in found.said


def test_labels_and_values():
    labels = {name: np.stack([y % 2, y > 4], axis=1).astype(np.float32) for name, y in Y.items()}
    task = build_task({'name': 'multi_label'}, ('odd', 'large'), (2,))
    nearest = probes.knn_probe(X, labels, task, section(k=4, weights='uniform', metric='euclidean'))
    reference = KNeighborsClassifier(4).fit(X['train'], labels['train']).predict(X['test'])
    np.testing.assert_array_equal(nearest.outputs['test'] >= 0, reference)
    linear = probes.linear_probe(X, labels, task, section(l2=(10.0,), standardize=False))
    reference = RidgeClassifier(10.0).fit(X['train'].astype(float), labels['train'].astype(int)).predict(X['test'].astype(float))
    np.testing.assert_array_equal(linear.outputs['test'] >= 0, reference)
    assert linear.metrics(task, labels)['test']['exact_match'] == pytest.approx((reference == labels['test']).all(1).mean())

    values = {name: x[:, 20] * 2 + 1 for name, x in X.items()}
    task = build_task({'name': 'regression'}, (), ())
    linear = probes.linear_probe(X, values, task, section())
    reference = make_pipeline(StandardScaler(), Ridge(linear.chosen['l2'])).fit(X['train'].astype(float), values['train'])
    error = reference.predict(X['test'].astype(float)) - values['test']
    assert linear.metrics(task, values)['test']['rmse'] == pytest.approx(np.sqrt(np.square(error).mean()), rel=1e-6)
    assert linear.chosen['l2'] == 1e-2  # the values are linear in the features: the least shrinking of the grid
    assert set(probes.knn_probe(X, values, task, section()).metrics(task, values)['test']) == {'rmse', 'mae', 'r2'}


@pytest.mark.parametrize(
    ('evaluators', 'fields', 'message'),
    [
        (('kn',), {}, "config.evaluators: there is no 'kn'. Did you mean 'knn'"),
        ((), {'metric': 'manhattan'}, "config.probe.metric: 'cosine' or 'euclidean', found 'manhattan'"),
        ((), {'weights': 'gauss'}, "config.probe.weights: 'softmax' or 'uniform' or 'distance', found 'gauss'"),
        ((), {'metric': 'euclidean'}, "'softmax' is of cosines"),
        ((), {'k': 0}, 'config.probe.k: a whole number of at least 1, found 0'),
        ((), {'temperature': 0.0}, 'config.probe.temperature: a number above 0, found 0.0'),
        ((), {'l2': ()}, "config.probe.l2: one or several numbers above 0, found 'none'"),
        ((), {'l2': (1.0, 0.0)}, 'config.probe.l2: one or several numbers above 0, found 0.0'),
        ((), {'l2': ('1',)}, "found '1'"),
    ],
)
def test_what_is_refused(evaluators, fields, message):
    with pytest.raises(UserError, match=r'config\.') as error:
        probes.check(evaluators, section(**fields))
    assert message in str(error.value)


def test_data_that_cannot_be_probed():
    pictures = {name: np.zeros((n, 2, 2), np.uint8) for name, n in (('train', 12), ('test', 3))}
    data = from_arrays(pictures, {name: np.arange(len(x)) % 3 for name, x in pictures.items()})
    alone = from_arrays({'train': pictures['train']}, {'train': np.arange(12) % 3})
    probes.check_data(('knn', 'linear'), section(k=12), data)
    probes.check_data((), section(), alone)
    with pytest.raises(UserError, match='neither a validation nor a test split'):
        probes.check_data(('linear',), section(), alone)
    with pytest.raises(UserError, match='20 neighbours, but train has 12 examples'):
        probes.check_data(('knn',), section(), data)
