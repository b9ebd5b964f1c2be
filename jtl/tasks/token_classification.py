"""Token classification: a tag for each word of a sentence, such as the named entities that it is part of."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jtl.errors import UserError
from jtl.models.base import EVAL, Features, Mode
from jtl.tasks.base import Batch, Task
from jtl.tasks.entities import ABSENT, Tags, decode, read_tags, tag_metrics
from jtl.tasks.heads import float_type, fraction, shapes_text
from jtl.tasks.metrics import ratio, softmax


def token_classification(
    *,
    labels: Sequence[str],
    target_shape: tuple[int, ...] | None = None,
    class_counts: Sequence[int] | None = None,
    examples: int | None = None,
    scheme: str = 'auto',
    dropout: float = 0.0,
    zero_init: bool = True,
    param_dtype: str = 'float32',
) -> Task:
    """Softmax cross-entropy over K tags for each word, read from the word's first token (Devlin et al. 2019); figures are of whole entities.

    Targets are (B, W) tag numbers, -1 where there is no word. Words that the maximum length cuts off count as predicted 'O' in all figures
    but the loss, which is over the words that the net sees: each sentence's is the mean over its words. In training every word counts alike,
    in a short sentence or a long one, as where the words of a batch are averaged together; batches here are of sentences of one length.

    Args:
      labels: tag names in the order of tag numbers, 'O' among them.
      target_shape: the shape of one example's target, which must be `(W,)`; None: unknown.
      class_counts, examples: training words of each tag, and training sentences; None: unknown, then nothing is trained.
      scheme: how entities are written in tags, 'iob1', 'iob2', 'bilou', 'io', or 'auto'; see `jtl.tasks.entities.read_tags`. Training
        is on the tags as they are.
      dropout, zero_init, param_dtype: see `TokenHead`.

    Raises:
      UserError: names that are no tags of the scheme, targets that are not tags of words, or an option out of range.
    """
    if target_shape is not None and (len(target_shape) != 1 or 0 in target_shape):
        raise UserError(
            f'task.name: token_classification reads a tag for each word of an example, the targets have shape {target_shape}. '
            'For one class an example use task.name=classification.'
        )
    if not isinstance(zero_init, bool):
        raise UserError(f'task.zero_init: expected True or False, found {zero_init!r}.')
    tags = read_tags(labels, scheme)
    return Task(
        kind='token_classification',
        head=TokenHead(
            outputs=len(tags.labels),
            outside=tags.outside,
            dropout=fraction('dropout', dropout),
            zero_init=zero_init,
            param_dtype=float_type('param_dtype', param_dtype),
        ),
        loss=word_cross_entropy,
        evaluate=partial(tag_metrics, tags=tags),
        baseline=partial(everything_outside, tags=tags),
        describe=partial(describe, tags=tags),
        primary='f1',
        maximize=True,
        labels=tags.labels,
        weight=partial(word_weight, mean=sum(class_counts) / examples) if class_counts and examples else None,
        inputs={'word_starts': jax.ShapeDtypeStruct(target_shape or (1,), jnp.int32)},
        notes=(f'tags: read as {tags.scheme.upper()}{" (task.scheme)" if scheme == "auto" else ""}.',),
    )


class TokenHead(nn.Module):
    """A linear layer on the first token of each word. Parameters: `output/{kernel,bias}`.

    Attributes:
      outputs: number of tags K.
      outside: which of them is 'O'.
      dropout: rate, on tokens; only in `mode.train`, rng collection 'dropout'.
      zero_init: start at zero, see `jtl.tasks.heads.Head`; else LeCun normal.
      param_dtype: of the parameters; outputs are computed in float32.
    """

    outputs: int
    outside: int
    dropout: float = 0.0
    zero_init: bool = True
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Float[Array, 'b w k']:
        """Outputs (B, W, K) float32 from `tokens` (B, T, D) at `word_starts` (B, W); where that is -1, 0 for 'O' and `ABSENT` for the others.

        Raises:
          UserError: the features have no tokens or no words.
        """
        if 'tokens' not in features or 'word_starts' not in features:
            raise UserError(
                f'The head of token_classification reads `tokens` and `word_starts`, but the features are {shapes_text(features)}. '
                'It needs a model of text, and data of sentences in words.'
            )
        starts = features['word_starts']
        x = jnp.take_along_axis(features['tokens'], jnp.maximum(starts, 0)[..., None], axis=1)
        x = nn.Dropout(self.dropout, deterministic=not mode.train)(x)
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        x = nn.Dense(self.outputs, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=init, name='output')(x)
        nothing = jnp.where(jnp.arange(self.outputs) == self.outside, 0, ABSENT)
        return jnp.where((starts >= 0)[..., None], x, nothing)


def word_cross_entropy(outputs: Float[Array, 'b w k'], batch: Batch) -> Float[Array, ' b']:
    """-log p of the tag in nats, averaged over the words of each example that have a label and that the net sees; 0 without any."""
    labels, seen = batch['label'].astype(jnp.int32), _seen(batch)
    log_p = jax.nn.log_softmax(outputs.astype(jnp.float32))
    of_target = jnp.take_along_axis(log_p, jnp.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    return -jnp.where(seen, of_target, 0).sum(axis=1) / jnp.maximum(seen.sum(axis=1), 1)


def word_weight(batch: Batch, *, mean: float) -> Float[Array, ' b']:
    """The words of each example that count in its loss, in multiples of those that a training sentence has on average."""
    return _seen(batch).sum(axis=1).astype(jnp.float32) / max(mean, 1.0)


def _seen(batch: Batch) -> Bool[Array, 'b w']:
    """Which words have a label and are seen by the net."""
    return (batch['label'] >= 0) & (batch['word_starts'] >= 0)


def everything_outside(train_targets: np.ndarray, targets: np.ndarray, *, tags: Tags) -> dict[str, float]:
    """What 'O' for every word, with the tag frequencies of the training words as probabilities, scores on `targets` (N, W).

    One is added to each count (Laplace), so that a tag without training words has a finite loss.
    """
    if len(targets) == 0:
        return {}
    counts = np.bincount(train_targets[train_targets >= 0], minlength=len(tags.labels)) + 1.0
    labelled = targets >= 0
    each = np.where(labelled, -np.log(counts / counts.sum())[targets], 0)
    return {
        'loss': float(ratio(each.sum(axis=1), labelled.sum(axis=1)).mean()),
        'f1': 0.0,
        'precision': 0.0,
        'recall': 0.0,
        'accuracy': float(ratio((targets == tags.outside).sum(), labelled.sum())),
    }


def describe(outputs: np.ndarray, *, tags: Tags) -> dict[str, Any]:
    """One example's logits (W, K) for a person.

    Returns:
      'tags', one for each word up to the last that the net saw, and 'entities', in order: 'type', 'start' and 'end' (the words from
      `start` to before `end`) and 'probability', the product of the probabilities of its words' tags.
    """
    others = np.arange(outputs.shape[-1]) != tags.outside
    seen = ~(outputs[:, others] == ABSENT).all(axis=1)
    outputs = outputs[: len(seen) - seen[::-1].argmax() if seen.any() else 0]
    numbers = outputs.argmax(axis=1)
    p = softmax(outputs).max(axis=1)
    entities = [{**entity._asdict(), 'probability': float(p[entity.start : entity.end].prod())} for entity in decode(numbers, tags)]
    return {'tags': [tags.labels[number] for number in numbers], 'entities': entities}
