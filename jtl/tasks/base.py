"""A task owns the head, the loss, the metrics, and what a prediction looks like to a person."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jtl.models.base import Features, Stage
from jtl.recipes import MAIN

Batch = Mapping[str, jax.Array]

HEAD = MAIN
"""The name of the head of `config.task`: its parameters lie at `heads/main/...`."""


def mean_outputs(outputs: Float[Array, 'v b k']) -> Float[Array, 'b k']:
    """The mean over V views of the same examples."""
    return outputs.mean(axis=0)


@dataclass(frozen=True)
class Task:
    """A value made of functions; any backbone whose features it can read will do.

    Attributes:
      kind: 'classification', 'multi_label' or 'regression'; what a report draws depends on it.
      head: the module, called as `head(features, mode) -> outputs`, a (B, K) float32 array; its parameters live at `heads/<name>/...`.
      loss: `(outputs, batch) -> (B,)` float32, the loss of each example, without averaging.
      evaluate: `(outputs (N, K), targets (N, ...)) -> {metric: number}` over a whole split, in numpy; a split without examples gives `{}`.
      baseline: `(train_targets, targets) -> {metric: number}`: what a constant guess learnt from the training targets scores.
      describe: `(outputs row (K,)) -> {...}` for a person: JSON data with 'label' and 'probability', or 'value'.
      primary: the metric that chooses the best checkpoint.
      maximize: whether more of `primary` is better.
      stages: what the task appends to the backbone (pooling), so that a cut may lie after it.
      labels: class (or output) names in output order.
      weight: `batch -> (B,)` float32, what each example's loss counts in training; None: 1. Evaluation never weighs.
      average: `(outputs of V views (V, B, K)) -> (B, K)`, one prediction out of several of the same example; by default the mean output.
      inputs: shape and dtype, without batch axis, of further inputs that the head needs: batch keys that travel through the backbone
        beside the model's own, or what `corrupt` adds.
      corrupt: `(inputs, batch, keys (B,)) -> (inputs, batch)`, what the task hides from the net (masked words) and what it then asks for;
        inside jit, after augmentation. Keys are each example's own: new in every training step, the same at every evaluation.
      summary: `(outputs, batch) -> (B, S)` float32, on the device: what `evaluate` reads in the place of outputs that are too large
        to collect (word probabilities); None: the outputs as they are.
      ties: name of a head's parameter -> path of the backbone's parameter that takes its place (`backbone/embeddings/word/embedding`).
      notes: what a person should know of how the task was made (weights of classes), a sentence each.
    """

    kind: str
    head: nn.Module
    loss: Callable[[Float[Array, 'b k'], Batch], Float[Array, ' b']]
    evaluate: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    baseline: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    describe: Callable[[np.ndarray], dict[str, Any]]
    primary: str
    maximize: bool
    stages: tuple[Stage, ...] = ()
    labels: Sequence[str] = field(default_factory=tuple)
    weight: Callable[[Batch], Float[Array, ' b']] | None = None
    average: Callable[[Float[Array, 'v b k']], Float[Array, 'b k']] = mean_outputs
    inputs: Mapping[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    corrupt: Callable[[Features, Batch, jax.Array], tuple[Features, Batch]] | None = None
    summary: Callable[[Any, Batch], Float[Array, 'b s']] | None = None
    ties: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def hide(self, inputs: Features, batch: Batch, key: Key[Array, ''] | None = None) -> tuple[Features, Batch]:
        """Inputs and batch with what the task hides from the net; as they are where it hides nothing.

        With the key of a training step, each example's own key goes by its place in the batch; without, by its position in the split
        (`batch['index']`), so that every evaluation asks for the same.
        """
        if self.corrupt is None:
            return inputs, batch
        places = batch['index'] if key is None else jnp.arange(len(batch['index']))
        base = jax.random.key(0) if key is None else key
        return self.corrupt(inputs, batch, jax.vmap(lambda place: jax.random.fold_in(base, place))(places))

    def training_loss(self, outputs: Float[Array, 'b k'], batch: Batch) -> Float[Array, ' b']:
        """(B,) float32, what a training step averages over the batch: `loss`, times `weight` where there is one."""
        each = self.loss(outputs, batch)
        return each if self.weight is None else each * self.weight(batch)
