"""Masked language model: some words are hidden, and the net is asked for them (Devlin et al. 2019)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jtl.errors import UserError
from jtl.keys import derive
from jtl.models.base import EVAL, Features, Mode
from jtl.tasks.base import Batch, Task
from jtl.tasks.heads import float_type, shapes_text
from jtl.tasks.language_model import decoded, known_text, language_model, word_table

if TYPE_CHECKING:
    from jtl.models.text import TextPreprocessing


def masked_lm(
    *,
    labels: Sequence[str] = (),
    text: 'TextPreprocessing | None' = None,
    masked: float = 0.15,
    epsilon: float = 1e-12,
    dtype: str = 'float32',
    param_dtype: str = 'float32',
) -> Task:
    """Cross-entropy of hidden words: what a model of text is adapted to a domain with, before it is fine-tuned.

    The data's own targets and labels are not read. An evaluation hides the same words every time; its figures are of these words alone.

    Args:
      labels: not read.
      text: how the data's texts are read.
      masked: the share of a text's tokens that is asked for, in (0, 1).
      epsilon, dtype, param_dtype: see `MaskedHead`.

    Raises:
      UserError: no text, a tokenizer without a token to hide words with, or an option out of range.
    """
    text = known_text(text, 'masked_lm')
    if text.mask_id is None:
        raise UserError('task.name: masked_lm hides words behind a mask token, but the tokenizer has none. Use task.name=causal_lm.')
    if isinstance(masked, bool) or not isinstance(masked, int | float) or not 0 < masked < 1:
        raise UserError(f'task.masked: expected a number between 0 and 1, found {masked!r}.')
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 < epsilon < 1:
        raise UserError(f'task.epsilon: expected a small number above 0, found {epsilon!r}.')
    return language_model(
        'masked_lm',
        MaskedHead(text.vocab_size, float(epsilon), float_type('dtype', dtype), float_type('param_dtype', param_dtype)),
        inputs={'lm_positions': jax.ShapeDtypeStruct((places(text.size[0], masked),), jnp.int32)},
        corrupt=partial(corrupt, mask_id=text.mask_id, special=text.special_ids, vocabulary=text.vocab_size, masked=float(masked)),
    )


class MaskedHead(nn.Module):
    """Dense, GELU and LayerNorm on the tokens that are asked for, then the word table.

    Parameters: `transform/{kernel,bias}`, `norm/{scale,bias}`, `bias` (V,) and `embedding` (V, D), which is the backbone's.

    Attributes:
      vocabulary: rows of the table where none is given.
      epsilon: of the LayerNorm: 1e-12 in BERT and DistilBERT, 1e-5 in RoBERTa.
      dtype: of the arithmetic before the table; the product with it is in float32.
      param_dtype: of the parameters.
    """

    vocabulary: int
    epsilon: float = 1e-12
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Float[Array, 'b p v']:
        """Logits (B, P, V) float32 from `tokens` (B, T, D) at `lm_positions` (B, P); where that is -1 they mean nothing.

        Raises:
          UserError: the features have no tokens.
        """
        if 'tokens' not in features or 'lm_positions' not in features:
            raise UserError(
                f'The head of masked_lm reads `tokens` and `lm_positions`, but the features are {shapes_text(features)}. '
                'It needs a model of text.'
            )
        x = jnp.take_along_axis(features['tokens'], jnp.maximum(features['lm_positions'], 0)[..., None], axis=1)
        table = word_table(self, self.vocabulary, x.shape[-1])
        x = nn.Dense(table.shape[1], dtype=self.dtype, param_dtype=self.param_dtype, name='transform')(x)
        x = nn.gelu(x, approximate=False)
        x = nn.LayerNorm(self.epsilon, dtype=self.dtype, param_dtype=self.param_dtype, name='norm')(x)
        return decoded(self, x, table, self.param_dtype)


def corrupt(
    inputs: Features, batch: Batch, keys: Key[Array, ' b'], *, mask_id: int, special: Sequence[int], vocabulary: int, masked: float
) -> tuple[Features, Batch]:
    """Inputs with hidden words, `ids` (B, T) changed and `lm_positions` (B, P) int32 added, and the batch with `lm_targets` (B, P) int32.

    See `hide_words`, which does it to one example. P is the same for all texts of a length: what is left over is -1 in both.

    Args:
      inputs: `ids` (B, T) int32 and `mask` (B, T) bool.
      batch: passed on.
      keys: of each example.
      mask_id, special, vocabulary, masked: see `hide_words`.

    Raises:
      UserError: the model reads no words.
    """
    if 'ids' not in inputs or 'mask' not in inputs:
        raise UserError(f'task.name: masked_lm hides words of `ids`, the model reads {shapes_text(inputs)}.')
    hide = partial(hide_words, mask_id=mask_id, special=special, vocabulary=vocabulary, masked=masked)
    ids, positions, targets = jax.vmap(hide)(inputs['ids'], inputs['mask'], keys)
    return {**inputs, 'ids': ids, 'lm_positions': positions}, {**batch, 'lm_targets': targets}


def hide_words(
    ids: Int[Array, ' t'],
    mask: Bool[Array, ' t'],
    key: Key[Array, ''],
    *,
    mask_id: int,
    special: Sequence[int],
    vocabulary: int,
    masked: float,
) -> tuple[Int[Array, ' t'], Int[Array, ' p'], Int[Array, ' p']]:
    """Hide some words of one text. Which ones follows from the text and the key alone, not from how far it is filled up.

    Args:
      ids: tokens.
      mask: which of them are real.
      key: of this example.
      mask_id: what hides a word.
      special: ids that are no words: they are neither asked for nor put in a word's place.
      vocabulary: number of ids.
      masked: the share of the words that is asked for, rounded, but at least one if there is a word.

    Returns:
      The ids, with 80 % of the words that are asked for in the place of `mask_id`, 10 % of a random word and 10 % as they were; the positions
      that are asked for, and the ids that were there, both -1 where there are no more.
    """
    length = ids.shape[0]
    some = places(length, masked)
    special = sorted(special)
    words = mask & ~jnp.isin(ids, jnp.asarray(special, ids.dtype))
    # A table, for float32 would round some products otherwise than Python does.
    counts = np.array([max(1, round(masked * n)) if n else 0 for n in range(length + 1)], np.int32)
    scores = jnp.where(words, jax.random.uniform(derive(key, 'positions'), (length,)), -1.0)
    positions = jax.lax.top_k(scores, some)[1]
    asked = jnp.arange(some) < jnp.asarray(counts)[words.sum()]
    true = ids[positions]

    other = jax.random.randint(derive(key, 'words'), (some,), 0, vocabulary - len(special))
    for number in special:  # the ids that are no special ones, counted through
        other = other + (other >= number)
    draw = jax.random.uniform(derive(key, 'kinds'), (some,))
    shown = jnp.where(draw < 0.8, mask_id, jnp.where(draw < 0.9, other, true)).astype(ids.dtype)
    hidden = ids.at[jnp.where(asked, positions, length)].set(shown, mode='drop')
    return hidden, jnp.where(asked, positions, -1), jnp.where(asked, true, -1)


def places(length: int, masked: float) -> int:
    """P, how many words of a text of `length` tokens can be asked for."""
    return math.ceil(masked * length)
