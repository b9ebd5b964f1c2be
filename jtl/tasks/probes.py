"""What features are worth without training on them: k nearest neighbours and a linear probe in closed form, as evaluators of a run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jtl.data.base import Data
from jtl.errors import UserError, did_you_mean
from jtl.tasks.base import Task
from jtl.tasks.neighbours import METRICS, WEIGHTS, knn
from jtl.tasks.ridge import ridge

ByName = Mapping[str, np.ndarray]
"""An array for each split."""

FIGURES = {
    'classification': ('accuracy', 'top5_accuracy', 'balanced_accuracy', 'macro_f1'),
    'multi_label': ('mean_average_precision', 'micro_f1', 'macro_f1', 'exact_match'),
    'regression': ('rmse', 'mae', 'r2'),
}
"""The metrics that an evaluator's outputs are fit for, by the kind of task: they are shares of votes or values, no log probabilities."""


def defaults() -> dict[str, Any]:
    """The config's `probe` section."""
    return {
        'k': 20,  # nearest training examples
        'metric': 'cosine',  # or 'euclidean'
        'weights': 'softmax',  # of neighbours: exp(cosine / temperature), 'uniform', or 'distance' (its inverse)
        'temperature': 0.07,
        'standardize': True,  # linear: features to mean 0 and variance 1 first
        'l2': (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6),  # linear: the best on validation; by leave-one-out where there is none
    }


def check(evaluators: Sequence[str], section: Mapping[str, Any]) -> None:
    """UserError for an unknown evaluator, or a field of `config.probe` out of range."""
    for name in evaluators:
        if name not in EVALUATORS:
            raise UserError(f'config.evaluators: there is no {name!r}. {did_you_mean(str(name), EVALUATORS)}'.rstrip())
    for key, choices in (('metric', METRICS), ('weights', WEIGHTS)):
        if section[key] not in choices:
            raise UserError(f'config.probe.{key}: {" or ".join(map(repr, choices))}, found {section[key]!r}.')
    if section['weights'] == 'softmax' and section['metric'] != 'cosine':
        raise UserError("config.probe.weights: 'softmax' is of cosines; with config.probe.metric='euclidean' use 'uniform' or 'distance'.")
    if section['k'] < 1:
        raise UserError(f'config.probe.k: a whole number of at least 1, found {section["k"]}.')
    if not 0 < section['temperature'] < math.inf:
        raise UserError(f'config.probe.temperature: a number above 0, found {section["temperature"]}.')
    wrong = [value for value in section['l2'] if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf]
    if wrong or not section['l2']:
        raise UserError(f'config.probe.l2: one or several numbers above 0, found {wrong[0] if wrong else "none"!r}.')


def check_kind(evaluators: Sequence[str], kind: str) -> None:
    """UserError for evaluators of a kind of task that has no use for features of whole examples."""
    if evaluators and kind not in FIGURES:
        raise UserError(f'config.evaluators: they score {", ".join(FIGURES)}, the task is {kind}. Set config.evaluators=().')


def check_data(evaluators: Sequence[str], section: Mapping[str, Any], data: Data) -> None:
    """UserError for data that an evaluator cannot work with."""
    train = len(data.splits['train'])
    if evaluators and not any(len(split) for name, split in data.splits.items() if name != 'train'):
        raise UserError('config.evaluators: there is neither a validation nor a test split to score on. Set config.data.test above 0.')
    if 'knn' in evaluators and section['k'] > train:
        raise UserError(f'config.probe.k: {section["k"]} neighbours, but train has {train} examples.')


@dataclass(frozen=True)
class Probe:
    """What an evaluator found.

    Attributes:
      outputs: (N, K) float64 for each split that it scores, as `Task.evaluate` reads them.
      chosen: what it chose itself, plain data.
      said: the same in a sentence.
    """

    outputs: ByName
    said: str
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def metrics(self, task: Task, targets: ByName) -> dict[str, dict[str, float]]:
        """`{split: {metric: number}}`, those of FIGURES."""
        every = {split: task.evaluate(outputs, targets[split]) for split, outputs in self.outputs.items()}
        return {split: {name: found[name] for name in FIGURES[task.kind] if name in found} for split, found in every.items()}


def knn_probe(features: ByName, targets: ByName, task: Task, section: Mapping[str, Any]) -> Probe:
    """The k nearest training examples; for every split but train, whose examples would find themselves.

    Args:
      features: (N, D) of each split.
      targets: as in `jtl.data.base.Split`.
      task: of the targets.
      section: `config.probe`.
    """
    options = {key: section[key] for key in ('k', 'metric', 'weights', 'temperature')}
    classes = len(task.labels) if task.kind == 'classification' else 0
    outputs = {
        split: knn(features['train'], targets['train'], x, classes=classes, **options) for split, x in features.items() if split != 'train'
    }
    if task.kind == 'multi_label':  # a label is predicted from 0 up; half of the votes are not enough, as in scikit-learn
        outputs = {split: shares - np.nextafter(0.5, 1) for split, shares in outputs.items()}
    at = f', temperature {section["temperature"]:g}' if section['weights'] == 'softmax' else ''
    return Probe(outputs, f'knn: {section["k"]} nearest of {len(targets["train"])}, {section["metric"]}, weights {section["weights"]}{at}.')


def linear_probe(features: ByName, targets: ByName, task: Task, section: Mapping[str, Any]) -> Probe:
    """Ridge regression on -1 and 1 for each class or label, or on the values.

    Its strength is the best on validation by the task's primary metric, the stronger of equal ones; where there is no validation,
    the one with the least squared error when each training example is left out. It is fitted on train alone, and not fitted
    again with validation.

    Args:
      features, targets, task, section: as in `knn_probe`.
    """
    held_out = 'validation' in features
    grid = sorted(float(value) for value in section['l2'])
    models = ridge(
        features['train'], _encoded(targets['train'], task), grid, standardize=section['standardize'], leave_one_out=not held_out
    )
    if held_out:
        scores = [task.evaluate(model(features['validation']), targets['validation'])[task.primary] for model in models]
        rank = [score if task.maximize else -score for score in scores]
        how = f'the best {task.primary} on validation'
    else:
        rank = [-model.leave_one_out for model in models]
        how = 'the least squared error by leaving out each training example (there is no validation split)'
    best = max(range(len(models)), key=lambda k: (rank[k], grid[k]))
    said = f'linear: ridge with l2 = {grid[best]:g}, {how}'
    if len(grid) > 1:
        edge = best in (0, len(grid) - 1)
        said += f' of {len(grid)} from {grid[0]:g} to {grid[-1]:g}{", at the edge of config.probe.l2: widen it" if edge else ""}'
    outputs = {split: models[best](x) for split, x in features.items()}
    chosen = {'l2': grid[best], 'chosen_on': 'validation' if held_out else 'leave-one-out'}
    return Probe(outputs, f'{said}. Fitted on train alone, not again with validation.', chosen)


def _encoded(targets: np.ndarray, task: Task) -> np.ndarray:
    """(N, K) int8 of -1 and 1 for each class or label, or the values."""
    if task.kind == 'regression':
        return targets.reshape(len(targets), -1)
    of_class = targets[:, None] == np.arange(len(task.labels)) if task.kind == 'classification' else targets > 0.5
    return np.where(of_class, np.int8(1), np.int8(-1))


EVALUATORS: dict[str, Callable[[ByName, ByName, Task, Mapping[str, Any]], Probe]] = {'knn': knn_probe, 'linear': linear_probe}
"""By the names that `config.evaluators` takes."""
