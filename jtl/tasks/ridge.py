"""Ridge regression in closed form, for a whole grid of strengths at the price of one: the linear probe that needs no training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

from jtl.tasks.neighbours import tiles

_ROWS = 4096  # turned into float64 at a time


@dataclass(frozen=True)
class Linear:
    """`model(x)` is x @ weights + bias.

    Attributes:
      l2: the strength it was fitted with.
      weights: (D, C) float64, for features as they come.
      bias: (C,) float64.
      leave_one_out: mean squared error of the predictions for each training row by the fit to all others; NaN where it was not asked for.
    """

    l2: float
    weights: Float[np.ndarray, 'd c']
    bias: Float[np.ndarray, ' c']
    leave_one_out: float = float('nan')

    def __call__(self, x: Float[np.ndarray, 'n d']) -> Float[np.ndarray, 'n c']:
        """Predictions, float64."""
        found = [x[rows].astype(np.float64) @ self.weights + self.bias for rows in tiles(len(x), _ROWS)]
        return np.concatenate(found) if found else np.zeros((0, len(self.bias)))


def ridge(
    x: Float[np.ndarray, 'n d'], y: Num[np.ndarray, 'n c'], l2: Sequence[float], *, standardize: bool = False, leave_one_out: bool = False
) -> tuple[Linear, ...]:
    """The W and b that minimise sum |y - x W - b|^2 + l2 |W|^2 for each l2; b is not penalised.

    One eigendecomposition, of the smaller of the two Gram matrices (D x D, or N x N of the dual problem), serves every strength. With y of
    -1 and 1 for each class the largest output is the prediction of scikit-learn's `RidgeClassifier`.

    Args:
      x: features.
      y: values.
      l2: strengths above 0.
      standardize: the penalty is on the weights of features that are brought to mean 0 and variance 1 over these rows (constant ones
        only to mean 0), as behind scikit-learn's `StandardScaler`. The weights given back are for x as it is.
      leave_one_out: compute `Linear.leave_one_out`, by its closed form (Allen's PRESS), the mean and scale of the features kept.

    Returns:
      A model for each strength, in order.
    """
    n, d = x.shape
    mean, scale = _moments(x, standardize)
    center = y.mean(axis=0, dtype=np.float64)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows in tiles(n, _ROWS):
            yield (x[rows].astype(np.float64) - mean) / scale, y[rows].astype(np.float64) - center

    if n >= d:
        gram, cross = np.zeros((d, d)), np.zeros((d, y.shape[1]))
        for z, t in blocks():
            gram += z.T @ z
            cross += z.T @ t
        values, basis = np.linalg.eigh(gram)
        coordinates = basis.T @ cross
    else:
        z, t = (np.concatenate(part) for part in zip(*blocks(), strict=True))
        values, vectors = np.linalg.eigh(z @ z.T)
        basis, coordinates = z.T @ vectors, vectors.T @ t
    shrink = [1 / (np.maximum(values, 0) + strength) for strength in l2]

    errors = np.full(len(shrink), 0.0 if leave_one_out else np.nan)
    if leave_one_out:
        for rows, (z, t) in zip(tiles(n, _ROWS), blocks(), strict=True):
            fitted = z @ basis
            leverage = fitted * (fitted if n >= d else vectors[rows])
            for k, factor in enumerate(shrink):
                residual = (t - fitted @ (factor[:, None] * coordinates)) / (1 - 1 / n - leverage @ factor)[:, None]
                errors[k] += np.square(residual).sum() / t.shape[1] / n
    models = []
    for strength, factor, error in zip(l2, shrink, errors, strict=True):
        weights = basis @ (factor[:, None] * coordinates) / scale[:, None]
        models.append(Linear(strength, weights, center - mean @ weights, float(error)))
    return tuple(models)


def _moments(x: np.ndarray, standardize: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each feature, and what it is divided by."""
    n = len(x)
    mean = sum((x[rows].sum(axis=0, dtype=np.float64) for rows in tiles(n, _ROWS)), np.zeros(x.shape[1])) / n
    if not standardize:
        return mean, np.ones(x.shape[1])
    variance = sum((np.square(x[rows] - mean).sum(axis=0) for rows in tiles(n, _ROWS)), np.zeros(x.shape[1])) / n
    eps = np.finfo(np.float64).eps
    constant = variance <= n * eps * variance + np.square(n * eps * mean)  # what rounding alone makes of a constant column
    return mean, np.where(constant, 1, np.sqrt(variance))
