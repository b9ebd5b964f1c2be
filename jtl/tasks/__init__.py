"""Tasks: the head, the loss, the metrics, and what a prediction looks like to a person. One file a task."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jtl.errors import UserError, did_you_mean
from jtl.names import lookup

if TYPE_CHECKING:  # so that the table can be read without importing jax
    from jtl.models.text import TextPreprocessing
    from jtl.tasks.base import Task

TASKS = {
    'classification': 'jtl.tasks.classification:classification',
    'multi_label': 'jtl.tasks.multi_label:multi_label',
    'regression': 'jtl.tasks.regression:regression',
    'token_classification': 'jtl.tasks.token_classification:token_classification',
    'masked_lm': 'jtl.tasks.masked_lm:masked_lm',
    'causal_lm': 'jtl.tasks.causal_lm:causal_lm',
}

_FROM_DATA = ('labels', 'target_shape', 'class_counts', 'text', 'examples')  # what the data say, never the config


def build_task(
    section: Mapping[str, Any],
    labels: Sequence[str] = (),
    target_shape: tuple[int, ...] | None = None,
    class_counts: Sequence[int] | None = None,
    text: TextPreprocessing | None = None,
    examples: int | None = None,
) -> Task:
    """The task that a config's `task` section describes.

    >>> build_task({'name': 'classification', 'label_smoothing': 0.1}, ['cat', 'dog'], ()).labels
    ('cat', 'dog')

    A task function is called as `function(labels=..., target_shape=..., class_counts=..., text=..., examples=..., **options)`, without those
    but the first that it does not declare.

    Args:
      section: `name` (one of `TASKS`, `package.module:function` or `path/to/file.py:function`) and options of that function.
      labels: class (or output) names in output order; empty for values without names.
      target_shape: the shape of one example's target, `data.splits['train'].targets.shape[1:]`; None where there are no data (a
        bundle), and `labels` are those of the task that was trained.
      class_counts: training examples (words, where these have tags) of each class, in the order of `labels`; None where there are no data or no
        classes.
      text: how the data's texts are read (its ids are what a language model predicts); None for pictures.
      examples: how many there are to train on; None where there are no data.

    Raises:
      UserError: no or an unknown name, an option the function does not declare (with the nearest that it does), a bad value, or
        targets that do not fit the task.
    """
    name = section.get('name')
    if not isinstance(name, str) or not name:
        raise UserError(f'task.name: expected the name of a task, found {name!r}. Known: {", ".join(TASKS)}.')
    function = lookup(name, TASKS, 'task')
    declared = inspect.signature(function).parameters
    options = {key: value for key, value in section.items() if key != 'name'}
    for key in _FROM_DATA:
        if key in options:
            raise UserError(f'task.{key}: this comes from the data set and is no option of a task. Leave it out.')
    if not any(p.kind is p.VAR_KEYWORD for p in declared.values()):
        known = [key for key in declared if key not in _FROM_DATA]
        for key in options:
            if key not in known:
                raise UserError(f'task.{key}: the task {name!r} has no option {key!r}. {did_you_mean(key, known)}'.rstrip())
    for key, value in (('target_shape', target_shape), ('class_counts', class_counts), ('text', text), ('examples', examples)):
        if key in declared:
            options[key] = value
    task = function(labels=tuple(labels), **options)
    from jtl.tasks.base import Task

    if not isinstance(task, Task):
        raise UserError(f'task.name: {name} must return a jtl.tasks.base.Task, but returned {type(task).__name__}.')
    return task
