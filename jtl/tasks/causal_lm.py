"""Causal language model: at every word the net is asked for the next one. For recurrent nets that read from left to right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jtl.errors import UserError
from jtl.models.base import EVAL, Features, Mode
from jtl.tasks.base import Batch, Task
from jtl.tasks.heads import float_type, fraction, shapes_text
from jtl.tasks.language_model import decoded, known_text, language_model, word_table

if TYPE_CHECKING:
    from jtl.models.text import TextPreprocessing


def causal_lm(
    *,
    labels: Sequence[str] = (),
    text: 'TextPreprocessing | None' = None,
    dropout: float = 0.0,
    param_dtype: str = 'float32',
) -> Task:
    """Cross-entropy of the next word at every word: the language models of ULMFiT (Howard and Ruder 2018).

    The backbone must read from left to right, such as a recurrent net in one direction. A task cannot see that: with one that looks ahead
    (in both directions, BERT) the perplexity comes near 1 and nothing is learnt. The data's own targets and labels are not read.

    Args:
      labels: not read.
      text: how the data's texts are read.
      dropout, param_dtype: see `CausalHead`.

    Raises:
      UserError: no text, or an option out of range.
    """
    text = known_text(text, 'causal_lm')
    return language_model(
        'causal_lm',
        CausalHead(text.vocab_size, fraction('dropout', dropout), float_type('param_dtype', param_dtype)),
        corrupt=ask_for_next,
    )


class CausalHead(nn.Module):
    """The word table on every token. Parameters: `bias` (V,), `embedding` (V, D), which is the backbone's, and `projection/kernel` where
    tokens are not as wide as words.

    Attributes:
      vocabulary: rows of the table where none is given.
      dropout: rate, on tokens; only in `mode.train`, rng collection 'dropout'.
      param_dtype: of the parameters; outputs are computed in float32.
    """

    vocabulary: int
    dropout: float = 0.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Float[Array, 'b t v']:
        """Logits (B, T, V) float32 of the word after each of `tokens` (B, T, D). UserError where there are none."""
        if 'tokens' not in features:
            raise UserError(
                f'The head of causal_lm reads `tokens`, but the features are {shapes_text(features)}. It needs a model of text.'
            )
        x = nn.Dropout(self.dropout, deterministic=not mode.train)(features['tokens'])
        table = word_table(self, self.vocabulary, x.shape[-1])
        if table.shape[1] != x.shape[-1]:
            x = nn.Dense(table.shape[1], use_bias=False, dtype=jnp.float32, param_dtype=self.param_dtype, name='projection')(x)
        return decoded(self, x, table, self.param_dtype)


def ask_for_next(inputs: Features, batch: Batch, keys: Key[Array, ' b']) -> tuple[Features, Batch]:
    """The inputs as they are, and the batch with `lm_targets` (B, T) int32: the next token's id where there is a real one, else -1.

    Args:
      inputs: `ids` (B, T) int32 and `mask` (B, T) bool.
      batch: passed on.
      keys: not used: nothing is drawn.

    Raises:
      UserError: the model reads no words.
    """
    if 'ids' not in inputs or 'mask' not in inputs:
        raise UserError(f'task.name: causal_lm asks for words of `ids`, the model reads {shapes_text(inputs)}.')
    ids, mask = inputs['ids'], inputs['mask']
    following = jnp.where(mask[:, :-1] & mask[:, 1:], ids[:, 1:], -1)
    return inputs, {**batch, 'lm_targets': jnp.pad(following, ((0, 0), (0, 1)), constant_values=-1)}
