"""Classification: one of K classes for each example."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.tasks.base import Batch, Task
from jtl.tasks.heads import build_head, fraction, pooling
from jtl.tasks.metrics import classification_metrics, softmax


def classification(
    *,
    labels: Sequence[str],
    target_shape: tuple[int, ...] | None = None,
    class_counts: Sequence[int] | None = None,
    head: str = 'linear',
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    activation: str = 'relu',
    zero_init: bool = True,
    pool: str = 'auto',
    label_smoothing: float = 0.0,
    class_weights: str | Sequence[float] = '',
    dtype: str = 'float32',
    param_dtype: str = 'float32',
) -> Task:
    """Softmax cross-entropy over K classes; targets are class numbers, (B,) integers.

    Args:
      labels: class names in the order of class numbers.
      target_shape: the shape of one example's target, which must be `()`; None: unknown.
      class_counts: training examples of each class, which 'balanced' weights are made of; None: unknown.
      head, hidden, dropout, activation, zero_init, dtype, param_dtype: see `jtl.tasks.heads.build_head`.
      pool: see `jtl.tasks.heads.pooling`.
      label_smoothing: the part of the target probability that is spread evenly over all classes (Szegedy et al. 2016), in [0, 1).
      class_weights: what the loss of each class's examples counts in training: '' (1 for all), 'balanced', or a tuple of K numbers in
        the order of `labels`; see `weights_of_classes`. The evaluation's loss is not weighted: it is the constant guess's too.

    Raises:
      UserError: fewer than two classes, targets that are not class numbers, or an option out of range.
    """
    labels = tuple(labels)
    if len(labels) < 2:
        raise UserError(
            f'task.name: classification needs at least 2 classes, the data set names {len(labels)}. For values use task.name=regression.'
        )
    if target_shape not in (None, ()):
        raise UserError(
            f'task.name: classification reads one class number for each example, the targets have shape {target_shape}. '
            'For several labels at once use task.name=multi_label, for values task.name=regression, for tags of words '
            'task.name=token_classification.'
        )
    smoothing = fraction('label_smoothing', label_smoothing)
    weights = weights_of_classes(class_weights, labels, class_counts)
    return Task(
        kind='classification',
        head=build_head(
            len(labels),
            head=head,
            hidden=hidden,
            dropout=dropout,
            activation=activation,
            zero_init=zero_init,
            dtype=dtype,
            param_dtype=param_dtype,
        ),
        loss=partial(cross_entropy, label_smoothing=smoothing),
        evaluate=partial(classification_metrics, label_smoothing=smoothing),
        baseline=partial(class_frequencies, k=len(labels), label_smoothing=smoothing),
        describe=partial(describe, labels=labels),
        primary='accuracy',
        maximize=True,
        stages=pooling(pool),
        labels=labels,
        average=mean_probabilities,
        weight=partial(weight_of_class, weights=weights) if weights else None,
        notes=(f'class weights in the training loss: {", ".join(f"{k} {w:.4g}" for k, w in zip(labels, weights, strict=True))}.',)
        if weights
        else (),
    )


def cross_entropy(outputs: Float[Array, 'b k'], batch: Batch, *, label_smoothing: float = 0.0) -> Float[Array, ' b']:
    """-sum_k q_k log p_k in nats for each example; q is one-hot on `batch['label']`, mixed with 1/K by `label_smoothing`."""
    log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
    of_target = jnp.take_along_axis(log_p, batch['label'][:, None].astype(jnp.int32), axis=1)[:, 0]
    return -((1 - label_smoothing) * of_target + label_smoothing * log_p.mean(axis=1))


def mean_probabilities(outputs: Float[Array, 'v b k']) -> Float[Array, 'b k']:
    """Log of the mean over V views of the class probabilities: logits of that mean."""
    return jax.nn.logsumexp(jax.nn.log_softmax(outputs.astype(jnp.float32)), axis=0) - jnp.log(outputs.shape[0])


def weights_of_classes(
    class_weights: str | Sequence[float], labels: Sequence[str], class_counts: Sequence[int] | None
) -> tuple[float, ...] | None:
    """The weight of each class in the training loss; None where all count the same.

    'balanced' is N / (K n_k) for n_k of the N training examples, as scikit-learn's `compute_class_weight` has it: every class counts as
    much as any other, and the mean weight of a training example is 1. A step averages weighted losses over the examples of its batch, not
    over their weights, so that micro-batches and devices add up to the same gradient.

    Raises:
      UserError: another word, not K weights, negative or infinite ones, or 'balanced' with a class that has no training example.
    """
    if isinstance(class_weights, str):
        if class_weights not in ('', 'balanced'):
            raise UserError(f"task.class_weights: 'balanced', a tuple of {len(labels)} numbers or '' (none), found {class_weights!r}.")
        if not class_weights or class_counts is None:  # without data nothing is trained
            return None
        absent = [label for label, count in zip(labels, class_counts, strict=True) if not count]
        if absent:
            raise UserError(
                f"task.class_weights='balanced': training has no example of {', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}, "
                'whose weight would be infinite. Choose data.classes, or give a tuple of weights.'
            )
        return tuple(sum(class_counts) / (len(labels) * count) for count in class_counts)
    weights = tuple(class_weights)
    if len(weights) != len(labels):
        named = ', '.join(labels[:5]) + (', ...' if len(labels) > 5 else '')
        raise UserError(f'task.class_weights: {len(weights)} weights for {len(labels)} classes ({named}).')
    if any(isinstance(w, bool) or not isinstance(w, int | float) or not 0 <= w < math.inf for w in weights) or not any(weights):
        raise UserError(f'task.class_weights: finite numbers of at least 0, not all 0, found {weights}.')
    return tuple(float(w) for w in weights)


def weight_of_class(batch: Batch, *, weights: Sequence[float]) -> Float[Array, ' b']:
    """The weight of each example's class."""
    return jnp.asarray(weights, jnp.float32)[batch['label']]


def class_frequencies(train_targets: np.ndarray, targets: np.ndarray, *, k: int, label_smoothing: float = 0.0) -> dict[str, float]:
    """What the majority class of the training targets, with the class frequencies as its probabilities, scores on `targets`.

    One is added to each count (Laplace), so that a class without training examples has a finite loss.
    """
    counts = np.bincount(np.asarray(train_targets, np.int64), minlength=k) + 1.0
    outputs = np.broadcast_to(np.log(counts / counts.sum()), (len(targets), k))
    return classification_metrics(outputs, targets, label_smoothing)


def describe(outputs: np.ndarray, *, labels: Sequence[str], top: int = 5) -> dict[str, Any]:
    """One example's logits (K,) for a person: 'label', 'probability', and 'top', the most probable classes in order."""
    p = softmax(outputs[None])[0]
    best = [{'label': labels[i], 'probability': float(p[i])} for i in np.argsort(-p, kind='stable')[:top]]
    return {**best[0], 'top': best}
