"""Multi-label classification: any number of K labels for each example."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.tasks.base import Batch, Task
from jtl.tasks.heads import build_head, pooling
from jtl.tasks.metrics import multi_label_metrics


def multi_label(
    *,
    labels: Sequence[str],
    target_shape: tuple[int, ...] | None = None,
    head: str = 'linear',
    hidden: Sequence[int] = (),
    dropout: float = 0.0,
    activation: str = 'relu',
    zero_init: bool = True,
    pool: str = 'auto',
    dtype: str = 'float32',
    param_dtype: str = 'float32',
) -> Task:
    """Sigmoid cross-entropy over K independent labels; targets are (B, K) of 0 and 1. A label is predicted from a probability of 0.5 up.

    Args:
      labels: their names in the order of the targets' columns.
      target_shape: the shape of one example's target, which must be `(K,)`; None: unknown.
      head, hidden, dropout, activation, zero_init, dtype, param_dtype: see `jtl.tasks.heads.build_head`.
      pool: see `jtl.tasks.heads.pooling`.

    Raises:
      UserError: no labels, targets of another shape, or an option out of range.
    """
    labels = tuple(labels)
    if not labels:
        raise UserError('task.name: multi_label needs named labels, the data set names none. For values use task.name=regression.')
    if target_shape not in (None, (len(labels),)):
        raise UserError(
            f'task.name: multi_label reads one 0 or 1 for each of the {len(labels)} labels, shape ({len(labels)},); the targets have shape '
            f"{target_shape}. For one class an example use task.name=classification; several labels of a CSV: data.targets='labels'."
        )
    return Task(
        kind='multi_label',
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
        loss=sigmoid_cross_entropy,
        evaluate=multi_label_metrics,
        baseline=label_frequencies,
        describe=partial(describe, labels=labels),
        primary='mean_average_precision',
        maximize=True,
        stages=pooling(pool),
        labels=labels,
        average=mean_probabilities,
    )


def sigmoid_cross_entropy(outputs: Float[Array, 'b k'], batch: Batch) -> Float[Array, ' b']:
    """Binary cross-entropy in nats, averaged over the labels of each example."""
    x, y = outputs.astype(jnp.float32), batch['label'].astype(jnp.float32)
    return -(y * jax.nn.log_sigmoid(x) + (1 - y) * jax.nn.log_sigmoid(-x)).mean(axis=1)


def mean_probabilities(outputs: Float[Array, 'v b k']) -> Float[Array, 'b k']:
    """The logit of each label's mean probability over V views."""
    yes, no = (jax.nn.logsumexp(jax.nn.log_sigmoid(x), axis=0) for x in (outputs.astype(jnp.float32), -outputs.astype(jnp.float32)))
    return yes - no


def label_frequencies(train_targets: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """What the majority answer of each label, with its training frequency as probability, scores on `targets`.

    One is added to either count (Laplace), so that a label always or never seen in training has a finite loss.
    """
    p = (np.asarray(train_targets, np.float64).sum(axis=0) + 1) / (len(train_targets) + 2)
    return multi_label_metrics(np.broadcast_to(np.log(p) - np.log1p(-p), targets.shape), targets)


def describe(outputs: np.ndarray, *, labels: Sequence[str], top: int = 5) -> dict[str, Any]:
    """One example's logits (K,) for a person.

    Returns:
      'label' and 'probability' of the most probable label, 'labels' (the predicted ones, perhaps none, most probable first) and 'top'.
    """
    p = np.exp(-np.logaddexp(0, -outputs.astype(np.float64)))
    order = np.argsort(-p, kind='stable')
    best = [{'label': labels[i], 'probability': float(p[i])} for i in order[:top]]
    return {**best[0], 'labels': [labels[i] for i in order if outputs[i] >= 0], 'top': best}
