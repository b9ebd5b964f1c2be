"""k nearest neighbours on features, in numpy and float64: exact, and tile by tile, so that memory does not grow with the data."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int, Num

METRICS = ('cosine', 'euclidean')
WEIGHTS = ('softmax', 'uniform', 'distance')

_TILE = 2048  # rows of either side at a time: 32 MB of distances


def knn(
    train: Float[np.ndarray, 'n d'],
    targets: Num[np.ndarray, 'n ...'],
    queries: Float[np.ndarray, 'm d'],
    *,
    k: int,
    metric: str = 'cosine',
    weights: str = 'softmax',
    temperature: float = 0.07,
    classes: int = 0,
) -> Float[np.ndarray, 'm c']:
    """The weighted mean of the targets of each query's k nearest training rows; of class numbers, each class's share of the votes.

    `argmax` of the shares takes the lower class number of a tie, and the mean of values is a regression: the predictions are those of
    scikit-learn's `KNeighborsClassifier` and `KNeighborsRegressor`. The defaults are those of DINO (Caron et al. 2021), for k = 20.

    Args:
      train: features.
      targets: (N,) class numbers where `classes` is given; else (N,) or (N, C) values, or 0 and 1 for several labels.
      queries: features.
      k: at most N.
      metric: one of METRICS, see `nearest`.
      weights: 'uniform'; 'distance', the inverse distance, where a neighbour at distance 0 silences those farther away; or 'softmax',
        exp(similarity / temperature), where similarity is 1 - distance: for the cosine.
      temperature: of 'softmax'.
      classes: the number of classes.
    """
    distances, indices = nearest(train, queries, k, metric)
    votes = _weights(distances, weights, temperature)
    if classes:
        places = np.arange(len(queries))[:, None] * classes + targets[indices]
        found: np.ndarray = np.bincount(places.ravel(), votes.ravel(), len(queries) * classes).reshape(len(queries), classes)
    else:
        values = targets.reshape(len(targets), -1).astype(np.float64)
        found = np.zeros((len(queries), values.shape[1]))
        for j in range(k):  # not all at once: (M, k, C) may be large
            found += votes[:, j, None] * values[indices[:, j]]
    return found / votes.sum(axis=1, keepdims=True)  # divided last: counts are whole numbers, and their ties are ties


def nearest(
    train: Float[np.ndarray, 'n d'], queries: Float[np.ndarray, 'm d'], k: int, metric: str
) -> tuple[Float[np.ndarray, 'm k'], Int[np.ndarray, 'm k']]:
    """Distances and positions of the k training rows nearest to each query, the nearest first; of equal distances the lower position.

    Args:
      train, queries: features.
      k: at most N.
      metric: 'euclidean', or 'cosine', which is 1 - cos of the angle, and 1 from a row of zeros.
    """
    distances, indices = np.zeros((len(queries), k)), np.zeros((len(queries), k), np.int64)
    for rows in tiles(len(queries), _TILE):
        distances[rows], indices[rows] = _nearest(train, _prepared(queries[rows], metric), k, metric)
    return distances, indices


def _nearest(train: np.ndarray, queries: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    distances, indices = np.zeros((len(queries), 0)), np.zeros((len(queries), 0), np.int64)
    for rows in tiles(len(train), _TILE):
        near, where = _smallest(_distances(queries, _prepared(train[rows], metric), metric), k)
        distances, indices = np.concatenate([distances, near], axis=1), np.concatenate([indices, where + rows.start], axis=1)
        order = np.argsort(distances, axis=1, kind='stable')[:, :k]  # earlier tiles stand first
        distances, indices = np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1)
    return (np.sqrt(distances) if metric == 'euclidean' else distances), indices


def _distances(a: np.ndarray, b: np.ndarray, metric: str) -> np.ndarray:
    """Squared euclidean or cosine distances; what lies below their rounding errors is 0, so that copies of a row are equally near."""
    resolution = a.shape[1] * np.finfo(np.float64).eps
    if metric == 'cosine':
        found = 1 - a @ b.T
        found[found <= resolution] = 0
        return found
    norms = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1)
    found = norms - 2 * (a @ b.T)
    found[found <= resolution * norms] = 0
    return found


def _smallest(distances: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k smallest of each row (all, where there are fewer), the first of equal ones, in the order of their columns."""
    k = min(k, distances.shape[1])
    bound = np.partition(distances, k - 1, axis=1)[:, k - 1, None]
    below, level = distances < bound, distances == bound
    chosen = below | (level & (np.cumsum(level, axis=1) <= k - below.sum(axis=1, keepdims=True)))
    columns = np.nonzero(chosen)[1].reshape(-1, k)
    return np.take_along_axis(distances, columns, axis=1), columns


def _prepared(x: np.ndarray, metric: str) -> np.ndarray:
    x = x.astype(np.float64)
    if metric == 'euclidean':
        return x
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norms == 0, 1, norms)


def _weights(distances: np.ndarray, weights: str, temperature: float) -> np.ndarray:
    if weights == 'uniform':
        return np.ones_like(distances)
    if weights == 'softmax':
        return np.exp((distances[:, :1] - distances) / temperature)  # against the nearest: a low temperature does not overflow
    here = distances == 0
    inverse = 1 / np.where(here, 1, distances)
    return np.where(here.any(axis=1, keepdims=True), here, inverse)


def tiles(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most `size` rows that cover n."""
    for first in range(0, n, size):
        yield slice(first, min(first + size, n))
