"""Regression: one or several values for each example."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.tasks.base import Batch, Task
from jtl.tasks.heads import build_head, pooling
from jtl.tasks.metrics import regression_metrics


def regression(
    *,
    labels: Sequence[str] = (),
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
    """Mean squared error on K values; targets are (B,) or (B, K) floats.

    Targets are taken as they are, in their own units: values far from 0 and 1 are better standardised in the data set, for the
    learning rates that suit a head assume outputs of order one.

    Args:
      labels: names of the values; by default 'value', or 'value_0', 'value_1', ...
      target_shape: the shape of one example's target, `()` or `(K,)`; None: as many values as there are labels.
      head, hidden, dropout, activation, zero_init, dtype, param_dtype: see `jtl.tasks.heads.build_head`.
      pool: see `jtl.tasks.heads.pooling`.

    Raises:
      UserError: targets of more than one axis or not as many as the labels, or an option out of range.
    """
    names = tuple(labels)
    if target_shape is not None and (len(target_shape) > 1 or 0 in target_shape):
        raise UserError(f'task.name: regression reads one or several values for each example, the targets have shape {target_shape}.')
    outputs = math.prod(target_shape) if target_shape is not None else max(len(names), 1)
    if names and len(names) != outputs:
        raise UserError(
            f'task.name: regression finds {outputs} value(s) for each example, but the data set names {len(names)} labels. '
            "For classes use task.name=classification; numbers of a CSV: data.targets='values'."
        )
    if not names:
        names = ('value',) if outputs == 1 else tuple(f'value_{i}' for i in range(outputs))
    return Task(
        kind='regression',
        head=build_head(
            outputs,
            head=head,
            hidden=hidden,
            dropout=dropout,
            activation=activation,
            zero_init=zero_init,
            dtype=dtype,
            param_dtype=param_dtype,
        ),
        loss=squared_error,
        evaluate=partial(regression_metrics, labels=names),
        baseline=partial(mean_value, labels=names),
        describe=partial(describe, labels=names),
        primary='rmse',
        maximize=False,
        stages=pooling(pool),
        labels=names,
    )


def squared_error(outputs: Float[Array, 'b k'], batch: Batch) -> Float[Array, ' b']:
    """Squared error, averaged over the values of each example."""
    error = outputs.astype(jnp.float32) - batch['label'].astype(jnp.float32).reshape(outputs.shape)
    return jnp.square(error).mean(axis=1)


def mean_value(train_targets: np.ndarray, targets: np.ndarray, *, labels: Sequence[str]) -> dict[str, float]:
    """What the mean of the training targets scores on `targets`; `{}` where either has no examples."""
    if len(train_targets) == 0:
        return {}
    mean = np.asarray(train_targets, np.float64).reshape(len(train_targets), -1).mean(axis=0)
    return regression_metrics(np.broadcast_to(mean, (len(targets), mean.size)), targets, labels)


def describe(outputs: np.ndarray, *, labels: Sequence[str]) -> dict[str, Any]:
    """One example's values (K,) for a person: 'value', a number, or a mapping from name to number where there are several."""
    values = {label: float(x) for label, x in zip(labels, outputs, strict=True)}
    return {'value': values if len(values) > 1 else values[labels[0]]}
