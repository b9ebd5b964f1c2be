"""What masked and causal language models have in common: the table of words that is also their output layer, loss, figures."""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.models.base import WORDS
from jtl.tasks.base import Batch, Task

if TYPE_CHECKING:
    from jtl.models.text import TextPreprocessing

TABLE = 'embedding'
"""The name under which a head declares the word table that it shares with the backbone."""


def language_model(kind: str, head: nn.Module, **own: Any) -> Task:
    """A task that predicts words by the word table of the backbone; `own` are the fields of `Task` in which one differs from another."""
    return Task(
        kind=kind,
        head=head,
        loss=language_model_loss,
        evaluate=language_model_metrics,
        baseline=no_baseline,
        describe=describe,
        primary='perplexity',
        maximize=False,
        summary=summary,
        ties={TABLE: WORDS},
        **own,
    )


def known_text(text: 'TextPreprocessing | None', task: str) -> 'TextPreprocessing':
    """`text`, or UserError where the data are no text."""
    if text is None:
        raise UserError(f'task.name: {task} predicts words, but the data or the model are not of text.')
    return text


def word_table(head: nn.Module, vocabulary: int, width: int) -> Float[Array, 'v d']:
    """The word table (V, D), as a parameter of `head` that the backbone's takes the place of.

    Its shape is that of the table that is given; where none is, `vocabulary` rows of `width`.
    """
    given = head.has_variable('params', TABLE)
    shape = head.get_variable('params', TABLE).shape if given else (vocabulary, width)
    return head.param(TABLE, nn.initializers.normal(0.02), shape)


def decoded(head: nn.Module, x: Float[Array, 'b t d'], table: Float[Array, 'v d'], param_dtype: Any) -> Float[Array, 'b t v']:
    """Logits of all words in float32: x times the table, and the parameter `bias` (V,) of `head`."""
    bias = head.param('bias', nn.initializers.zeros, (table.shape[0],), param_dtype)
    return x.astype(jnp.float32) @ table.astype(jnp.float32).T + bias.astype(jnp.float32)


def word_losses(outputs: Float[Array, 'b t v'], batch: Batch) -> Float[Array, 'b t']:
    """-log p of each word of `batch['lm_targets']` (B, T) in nats; 0 where that is -1."""
    targets = batch['lm_targets']
    of_target = jnp.take_along_axis(outputs, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(targets >= 0, jax.nn.logsumexp(outputs, axis=-1) - of_target, 0)


def language_model_loss(outputs: Float[Array, 'b t v'], batch: Batch) -> Float[Array, ' b']:
    """The mean of `word_losses` over the words that are asked for in each example; 0 without any."""
    return word_losses(outputs, batch).sum(axis=1) / jnp.maximum((batch['lm_targets'] >= 0).sum(axis=1), 1)


def summary(outputs: Float[Array, 'b t v'], batch: Batch) -> Float[Array, 'b 3']:
    """Of each example the sum of `word_losses`, the number of words that are asked for, and how many of them are the likeliest."""
    asked = batch['lm_targets'] >= 0
    right = asked & (outputs.argmax(axis=-1) == batch['lm_targets'])
    return jnp.stack([word_losses(outputs, batch).sum(axis=1), asked.sum(axis=1), right.sum(axis=1)], axis=1)


def language_model_metrics(summaries: Float[np.ndarray, 'n 3'], targets: np.ndarray) -> dict[str, float]:
    """Figures over a split; `targets` are not read, for the text is its own target.

    Returns:
      'perplexity', exp of the mean loss of a word (over all words, unlike 'loss', the mean over examples), and 'accuracy', how often the
      likeliest word is right; both NaN where no word is asked for, `{}` without examples.
    """
    if len(summaries) == 0:
        return {}
    loss, asked, right = summaries.astype(np.float64).sum(axis=0)
    with np.errstate(over='ignore', invalid='ignore'):
        return {'perplexity': float(np.exp(loss / asked)), 'accuracy': float(right / asked)}


def no_baseline(train_targets: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """`{}`: what a constant guess scores cannot be told from targets."""
    return {}


def describe(row: np.ndarray) -> dict[str, Any]:
    """One example's `summary` (3,) for a person: 'value', its perplexity, 'accuracy', and 'words', how many were asked for."""
    metrics = language_model_metrics(row[None], row)
    return {'value': metrics['perplexity'], 'accuracy': metrics['accuracy'], 'words': int(row[1])}
