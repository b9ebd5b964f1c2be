"""Metrics over a whole split, in numpy and float64.

Conventions: a ratio whose denominator is zero is 0, as in scikit-learn; an average over classes is over the classes that occur among
the targets or the predictions; a split without examples has no metrics, `{}`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

BINS = 15  # of the calibration error, as in Guo et al.


def log_softmax(outputs: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
    """Log probabilities of logits, float64."""
    x = outputs.astype(np.float64)
    with np.errstate(invalid='ignore'):  # infinite outputs become NaN; the loss then says so
        x = x - x.max(axis=1, keepdims=True)
        return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def softmax(outputs: Float[np.ndarray, 'n k']) -> Float[np.ndarray, 'n k']:
    """Probabilities of logits, float64."""
    return np.exp(log_softmax(outputs))


def classification_metrics(
    outputs: Float[np.ndarray, 'n k'], targets: Int[np.ndarray, ' n'], label_smoothing: float = 0.0
) -> dict[str, float]:
    """Figures of a classifier over a split.

    Args:
      outputs: (N, K) logits.
      targets: (N,) class numbers.
      label_smoothing: as in training, for 'loss' alone.

    Returns:
      'loss' (as trained), 'nll' (negative log likelihood, nats an example), 'accuracy', 'top5_accuracy' where K > 5, 'balanced_accuracy'
      (mean recall of the classes that occur among the targets), 'macro_f1' and 'ece'; `{}` without examples.
    """
    n, k = outputs.shape
    if n == 0:
        return {}
    log_p = log_softmax(outputs)
    of_target = log_p[np.arange(n), targets]
    predicted = outputs.argmax(axis=1)
    result = {
        'loss': float(-((1 - label_smoothing) * of_target + label_smoothing * log_p.mean(axis=1)).mean()),
        'nll': float(-of_target.mean()),
        'accuracy': float((predicted == targets).mean()),
    }
    if k > 5:
        # Ties go to the lower class number, as in argmax: a constant output must not count as right for every class.
        own = outputs[np.arange(n), targets][:, None]
        tied_before = (outputs == own) & (np.arange(k) < np.asarray(targets)[:, None])
        rank = (outputs > own).sum(axis=1) + tied_before.sum(axis=1)
        result['top5_accuracy'] = float((rank < 5).mean())
    counts = confusion(targets, predicted, k)
    result['balanced_accuracy'] = macro_recall(np.diag(counts), counts.sum(axis=1))
    result['macro_f1'] = macro_f1(np.diag(counts), counts.sum(axis=0), counts.sum(axis=1))
    result['ece'] = expected_calibration_error(np.exp(log_p), targets)
    return result


def multi_label_metrics(outputs: Float[np.ndarray, 'n k'], targets: Float[np.ndarray, 'n k']) -> dict[str, float]:
    """Figures of a multi-label classifier over a split; a label is predicted from a probability of 0.5 (a logit of 0) up.

    Args:
      outputs: (N, K) logits.
      targets: (N, K) of 0 and 1.

    Returns:
      'loss' (binary cross-entropy in nats, averaged over labels), 'mean_average_precision' (over the labels that occur among the
      targets), 'micro_f1', 'macro_f1' and 'exact_match' (all K labels right); `{}` without examples.
    """
    if len(outputs) == 0:
        return {}
    x, y = outputs.astype(np.float64), targets.astype(np.float64)
    true, predicted = y > 0.5, x >= 0
    right, guessed, support = (true & predicted).sum(axis=0), predicted.sum(axis=0), true.sum(axis=0)
    with np.errstate(invalid='ignore'):  # infinite outputs become NaN; the loss then says so
        loss = (np.logaddexp(0, x) - x * y).mean()
    return {
        'loss': float(loss),
        'mean_average_precision': mean_average_precision(x, true),
        'micro_f1': float(ratio(2 * right.sum(), guessed.sum() + support.sum())),
        'macro_f1': macro_f1(right, guessed, support),
        'exact_match': float((true == predicted).all(axis=1).mean()),
    }


def mean_average_precision(scores: Float[np.ndarray, 'n k'], targets: Bool[np.ndarray, 'n k']) -> float:
    """Mean over the labels that occur of the area under precision against recall, without interpolation; 0 where none occurs."""
    from sklearn.metrics import average_precision_score

    if not np.isfinite(scores).all():  # scikit-learn refuses them
        return float('nan')
    each = [average_precision_score(y, x) for x, y in zip(scores.T, targets.T, strict=True) if y.any()]
    return float(np.mean(each)) if each else 0.0


def regression_metrics(outputs: Float[np.ndarray, 'n k'], targets: Float[np.ndarray, 'n ...'], labels: Sequence[str]) -> dict[str, float]:
    """Figures of a regression over a split.

    Args:
      outputs: (N, K) values.
      targets: (N,) or (N, K) values in the same units.
      labels: the K names.

    Returns:
      'loss' (mean squared error over examples and outputs), 'rmse' (its root), 'mae', 'r2' (mean over outputs; 1 for a perfect
      prediction of a constant, else 0, as in scikit-learn), and where K > 1 each also as 'rmse/<label>', 'mae/<label>',
      'r2/<label>'; `{}` without examples.
    """
    n, k = outputs.shape
    if n == 0:
        return {}
    y = np.asarray(targets, np.float64).reshape(n, k)
    error = outputs.astype(np.float64) - y
    squared, absolute = (error**2).mean(axis=0), np.abs(error).mean(axis=0)
    constant = np.ptp(y, axis=0) == 0  # not `variance == 0`: the variance of equal floats may round to 1e-34
    r2 = np.where(constant, squared == 0, 1 - ratio(squared, y.var(axis=0)))
    result = {'loss': squared.mean(), 'rmse': np.sqrt(squared.mean()), 'mae': absolute.mean(), 'r2': r2.mean()}
    if k > 1:
        for name, values in (('rmse', np.sqrt(squared)), ('mae', absolute), ('r2', r2)):
            result |= {f'{name}/{label}': value for label, value in zip(labels, values, strict=True)}
    return {name: float(value) for name, value in result.items()}


def confusion(targets: Int[np.ndarray, ' n'], predicted: Int[np.ndarray, ' n'], k: int) -> Int[np.ndarray, 'k k']:
    """Counts, one row a true class and one column a predicted class."""
    flat = np.asarray(targets, np.int64) * k + np.asarray(predicted, np.int64)
    return np.bincount(flat, minlength=k * k).reshape(k, k)


def per_class(targets: Int[np.ndarray, ' n'], predicted: Int[np.ndarray, ' n'], labels: Sequence[str]) -> list[dict[str, Any]]:
    """One row a class, in the order of `labels`: 'label', 'precision', 'recall', 'f1', 'support' (examples of the class), 'predicted'."""
    counts = confusion(targets, predicted, len(labels))
    right, guessed, support = np.diag(counts), counts.sum(axis=0), counts.sum(axis=1)
    rows = zip(labels, ratio(right, guessed), ratio(right, support), ratio(2 * right, guessed + support), support, guessed, strict=True)
    return [
        {'label': label, 'precision': float(p), 'recall': float(r), 'f1': float(f), 'support': int(s), 'predicted': int(g)}
        for label, p, r, f, s, g in rows
    ]


def reliability(probabilities: Float[np.ndarray, 'n k'], targets: Int[np.ndarray, ' n'], bins: int = BINS) -> list[dict[str, Any]]:
    """The bars of a reliability diagram: examples binned by the probability of their predicted class.

    Bins are equally wide and open below, ((m-1)/bins, m/bins]; empty ones are left out.

    Returns:
      One row a bin, ascending: 'lower', 'upper', 'count', 'confidence' (mean probability) and 'accuracy'.
    """
    if len(probabilities) == 0:
        return []
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    edges = np.linspace(0, 1, bins + 1)
    place = np.searchsorted(edges[1:-1], confidence, side='left')
    return [
        {
            'lower': float(edges[m]),
            'upper': float(edges[m + 1]),
            'count': int((place == m).sum()),
            'confidence': float(confidence[place == m].mean()),
            'accuracy': float(right[place == m].mean()),
        }
        for m in np.unique(place)
    ]


def expected_calibration_error(probabilities: Float[np.ndarray, 'n k'], targets: Int[np.ndarray, ' n'], bins: int = BINS) -> float:
    """Mean distance of confidence from accuracy over the bins of `reliability`, weighted by their counts (Guo et al. 2017); 0 without examples."""
    rows = reliability(probabilities, targets, bins)
    return float(sum(row['count'] * abs(row['confidence'] - row['accuracy']) for row in rows) / max(len(probabilities), 1))


def macro_f1(right: Int[np.ndarray, ' k'], guessed: Int[np.ndarray, ' k'], support: Int[np.ndarray, ' k']) -> float:
    """Mean F1 over the classes that occur, from the counts of each class: hits, predictions, examples."""
    f1 = ratio(2 * right, guessed + support)[guessed + support > 0]
    return float(f1.mean()) if f1.size else 0.0


def macro_recall(right: Int[np.ndarray, ' k'], support: Int[np.ndarray, ' k']) -> float:
    """Mean recall over the classes that have examples, from the counts of each class: hits, examples."""
    return float(ratio(right, support)[support > 0].mean()) if support.any() else 0.0


def ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Elementwise top / bottom, 0 where bottom is 0."""
    return np.divide(top, bottom, out=np.zeros(np.shape(top), np.float64), where=np.asarray(bottom) != 0)
