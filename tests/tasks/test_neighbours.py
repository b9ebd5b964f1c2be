"""Nearest neighbours against scikit-learn's, and where scikit-learn says nothing: equal distances, tiles, memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

from jtl.tasks import neighbours
from jtl.tasks.neighbours import knn, nearest

RNG = np.random.default_rng(0)
TRAIN, QUERIES = (RNG.normal(size=(n, 12)).astype(np.float32) for n in (150, 200))
CLASSES = RNG.integers(0, 5, 150)
LABELS = RNG.integers(0, 2, (150, 3))
VALUES = RNG.normal(size=(150, 2))


def sklearn_weights(weights):
    return (lambda d: np.exp((1 - d) / 0.07)) if weights == 'softmax' else weights


def wide(x):
    return x.astype(np.float64)  # scikit-learn computes cosines in the dtype it is given


@pytest.mark.parametrize('k', [1, 6])
@pytest.mark.parametrize(
    ('metric', 'weights'),
    [('cosine', 'softmax'), ('cosine', 'uniform'), ('cosine', 'distance'), ('euclidean', 'uniform'), ('euclidean', 'distance')],
)
def test_classes_labels_and_values_as_scikit_learn(metric, weights, k):
    options = {'metric': metric, 'weights': sklearn_weights(weights), 'algorithm': 'brute'}

    def ours(targets, **more):
        return knn(TRAIN, targets, QUERIES, k=k, metric=metric, weights=weights, **more)

    reference = KNeighborsClassifier(k, **options).fit(wide(TRAIN), CLASSES)
    shares = ours(CLASSES, classes=5)
    np.testing.assert_allclose(shares, reference.predict_proba(wide(QUERIES)), atol=1e-12)
    np.testing.assert_array_equal(shares.argmax(1), reference.predict(wide(QUERIES)))
    top = np.sort(shares, axis=1)
    assert k != 6 or weights != 'uniform' or (top[:, -1] == top[:, -2]).sum() > 10, 'votes must tie for this to say something'

    reference = KNeighborsClassifier(k, **options).fit(wide(TRAIN), LABELS)
    shares = ours(LABELS)
    np.testing.assert_array_equal(shares > 0.5, reference.predict(wide(QUERIES)))
    assert k == 1 or weights != 'uniform' or (shares == 0.5).sum() > 10

    reference = KNeighborsRegressor(k, **options).fit(wide(TRAIN), VALUES)
    np.testing.assert_allclose(ours(VALUES), reference.predict(wide(QUERIES)), atol=1e-12)
    np.testing.assert_allclose(ours(VALUES[:, 0]), reference.predict(wide(QUERIES))[:, :1], atol=1e-12)


@pytest.mark.parametrize('metric', neighbours.METRICS)
def test_distances_and_positions_in_tiles_of_any_size(metric, monkeypatch):
    distances, indices = nearest(TRAIN, QUERIES, 9, metric)
    want = NearestNeighbors(n_neighbors=9, metric=metric, algorithm='brute').fit(wide(TRAIN)).kneighbors(wide(QUERIES))
    np.testing.assert_allclose(distances, want[0], rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(indices, want[1])
    for size in (1, 7, 64, 150):  # smaller than k, not a divisor, as long as the training rows
        monkeypatch.setattr(neighbours, '_TILE', size)
        again = nearest(TRAIN, QUERIES[:20], 9, metric)
        np.testing.assert_allclose(again[0], distances[:20], rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(again[1], indices[:20])


@pytest.mark.parametrize('size', [2, 5, 2048])
def test_of_equal_distances_the_lower_position(size, monkeypatch):
    monkeypatch.setattr(neighbours, '_TILE', size)
    train = np.array([[2.0], [-1.0], [1.0], [-1.0], [1.0], [3.0], [1.0]])
    distances, indices = nearest(train, np.array([[0.0], [1.0]]), 4, 'euclidean')
    assert indices.tolist() == [[1, 2, 3, 4], [2, 4, 6, 0]]
    assert distances.tolist() == [[1, 1, 1, 1], [0, 0, 0, 1]]
    assert nearest(train, np.array([[5.0]]), 7, 'cosine')[1].tolist() == [[0, 2, 4, 5, 6, 1, 3]]


def test_copies_are_at_distance_zero_and_silence_the_others():
    train = np.concatenate([TRAIN, QUERIES[:5], QUERIES[:5]])
    targets = np.concatenate([np.full(150, 2), np.full(5, 1), np.full(5, 0)])
    for metric in neighbours.METRICS:
        distances, indices = nearest(train, QUERIES[:5], 3, metric)
        assert (distances[:, :2] == 0).all() and (distances[:, 2] > 0).all()
        np.testing.assert_array_equal(indices[:, :2], np.arange(5)[:, None] + [150, 155])
        shares = knn(train, targets, QUERIES[:5], k=3, metric=metric, weights='distance', classes=3)
        np.testing.assert_array_equal(shares, np.tile([0.5, 0.5, 0], (5, 1)))


def test_a_row_of_zeros_and_a_temperature_at_which_exponents_overflow():
    train = np.concatenate([np.zeros((1, 12)), TRAIN[:3]])
    assert nearest(train, QUERIES[:1], 4, 'cosine')[0].max() > 1 > nearest(train, QUERIES[:1], 4, 'cosine')[0].min()
    assert 1.0 in nearest(train, QUERIES[:1], 4, 'cosine')[0]
    shares = knn(TRAIN, CLASSES, QUERIES, k=5, temperature=1e-5, classes=5)
    first = CLASSES[nearest(TRAIN, QUERIES, 1, 'cosine')[1][:, 0]]
    assert np.isfinite(shares).all() and (shares.argmax(1) == first).all()


def test_memory_does_not_grow_with_the_data(monkeypatch):
    monkeypatch.setattr(neighbours, '_TILE', 128)
    train, queries = (RNG.normal(size=(2000, 2)).astype(np.float32) for _ in range(2))
    tracemalloc.start()
    knn(train, np.zeros(2000, np.int64), queries, k=5, classes=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6 < 2000 * 2000  # bytes: not even a byte for each pair


def test_no_queries():
    assert knn(TRAIN, CLASSES, QUERIES[:0], k=3, classes=5).shape == (0, 5)
