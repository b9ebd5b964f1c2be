"""BERT and its kin: RoBERTa, DistilBERT and MiniLM, encoders of any size whose layers norm after each branch was added.

Sources: Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers; Turc et al. 2019, Well-Read Students Learn Better (the
small sizes); Liu et al. 2019, RoBERTa; Sanh et al. 2019, DistilBERT; Wang et al. 2020, MiniLM.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jtl.errors import UserError
from jtl.models.base import ATTENTION_AND_MLP, EVAL, Backbone, Features, Mode, Model, Stage
from jtl.models.bert_names import known_weights
from jtl.models.vit import GELUS

_init = nn.initializers.normal(0.02)


class Embeddings(nn.Module):
    """Words, positions and token types, summed and normed: `ids` (B,T) int, `mask` (B,T) bool, `segments` (B,T) int to `tokens` (B,T,width).

    Parameters: `word`, `position` and, with segments, `segment`, each an `embedding` (rows, width); `norm`. With one segment all tokens
    are of it, and `segments` is not read.

    Attributes:
      positions: the longest sequence that can be read.
      first_position: row of the position table that the first token reads; from 1 up, rows are counted along real tokens alone, wherever
        these begin, and filling reads the row before (RoBERTa, whose padding is word 1 and position 1).
    """

    vocab_size: int
    width: int
    positions: int = 512
    first_position: int = 0
    segments: int = 2
    epsilon: float = 1e-12
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `tokens` in the place of `ids` and `segments`."""
        rest = {name: value for name, value in features.items() if name not in ('ids', 'segments')}
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        table = partial(nn.Embed, features=self.width, embedding_init=_init, **kinds)
        x = table(num_embeddings=self.vocab_size, name='word')(features['ids'])
        if self.segments:
            kind = features['segments'] if self.segments > 1 else jnp.zeros((1, 1), jnp.int32)
            x += table(num_embeddings=self.segments, name='segment')(kind)
        x += table(num_embeddings=self.positions + self.first_position, name='position')(self._rows(features['mask']))
        x = nn.LayerNorm(self.epsilon, name='norm', **kinds)(x)
        return rest | {'tokens': nn.Dropout(self.dropout, deterministic=not mode.train)(x)}

    def _rows(self, mask: Bool[Array, 'b t']) -> Int[Array, '_ t']:
        if not self.first_position:
            return jnp.arange(mask.shape[1])[None]
        return jnp.cumsum(mask, axis=1) * mask + self.first_position - 1


class Attention(nn.Module):
    """Multi-head self-attention to real tokens. (B,T,D) -> (B,T,D); `query`, `key`, `value` and `out` are dense (D, D), heads side by side.

    `jax.nn.dot_product_attention` gives the same numbers in the same time, but has no dropout of the weights, which BERT trains with.
    """

    heads: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t d'], mask: Bool[Array, 'b t'], mode: Mode = EVAL) -> Float[Array, 'b t d']:
        """What every token gathers from the real ones; softmax in float32. Where none is real, the mean of all: finite, read by nobody."""
        dense = partial(nn.Dense, x.shape[-1], kernel_init=_init, dtype=self.dtype, param_dtype=self.param_dtype)
        size = x.shape[-1] // self.heads
        q, k, v = (dense(name=name)(x).reshape(*x.shape[:2], self.heads, size) for name in ('query', 'key', 'value'))
        wide = jnp.promote_types(self.dtype, jnp.float32)
        scores = jnp.einsum('bqhd,bkhd->bhqk', q, k, preferred_element_type=wide) * size**-0.5
        weights = jax.nn.softmax(jnp.where(mask[:, None, None], scores, jnp.finfo(wide).min)).astype(v.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not mode.train)(weights)
        return dense(name='out')(jnp.einsum('bhqk,bkhd->bqhd', weights, v).reshape(x.shape))


class Mlp(nn.Module):
    """Dense `fc1`, GELU, dense `fc2`. (B,T,D) -> (B,T,D)."""

    hidden: int
    gelu: str = 'erf'
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        """Every token on its own."""
        dense = partial(nn.Dense, kernel_init=_init, dtype=self.dtype, param_dtype=self.param_dtype)
        return dense(x.shape[-1], name='fc2')(GELUS[self.gelu](dense(self.hidden, name='fc1')(x)))


class Layer(nn.Module):
    """Attention, added and normed (`norm1`); MLP, added and normed (`norm2`). Reads and gives `tokens` (B,T,D), reads `mask` (B,T)."""

    heads: int
    hidden: int
    gelu: str = 'erf'
    epsilon: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `tokens`."""
        x = features['tokens']
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        drop = nn.Dropout(self.dropout, deterministic=not mode.train)
        y = Attention(self.heads, self.attention_dropout, name='attention', **kinds)(x, features['mask'], mode)
        x = nn.LayerNorm(self.epsilon, name='norm1', **kinds)(x + drop(y))
        y = Mlp(self.hidden, self.gelu, name='mlp', **kinds)(x)
        return features | {'tokens': nn.LayerNorm(self.epsilon, name='norm2', **kinds)(x + drop(y))}


class Pooler(nn.Module):
    """The original's sentence vector: `dense` and tanh on the first token. Gives `pooled` (B,D) beside `tokens`."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `pooled`."""
        x = features['tokens'][:, 0]
        dense = nn.Dense(x.shape[-1], kernel_init=_init, dtype=self.dtype, param_dtype=self.param_dtype, name='dense')
        return features | {'pooled': jnp.tanh(dense(x))}


def bert(
    *,
    width: int,
    depth: int,
    heads: int,
    mlp: int = 0,
    vocab_size: int = 0,
    positions: int = 512,
    first_position: int = 0,
    segments: int = 2,
    pooler: bool = True,
    epsilon: float = 1e-12,
    gelu: str = 'erf',
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    source: str = 'bert',
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """A BERT-like encoder; the features are `tokens` (B,T,width), `mask` (B,T) and, with a pooler, `pooled` (B,width).

    Stages: `embeddings`, `layer_0` ... `layer_<n>`, `pooler` (tail). Behind every stage there are `tokens`, so that a task can pool them
    there too. What stands where `mask` is false changes no real token.

    Names: `bert_*` are BERT, cased or not, of Google's sizes; `minilm_*` are MiniLM, which sentence-transformers trained further;
    `roberta_*` and `distilbert_base` are theirs. Checkpoints that transformers saved for classification of tokens or for masked words
    mostly have no pooler: load them with `pooler=False`.

    Args:
      width, depth, heads: of the transformer.
      mlp: width of its hidden layers; 0: four times `width`.
      vocab_size: rows of the word table; 0: those of the tokenizer, which the run fills in.
      positions: the longest sequence it can read, in tokens.
      first_position: row of the position table that the first token reads; from 1 up, real tokens alone are counted. RoBERTa has 2, and a
        table of 514 rows for 512 positions.
      segments: token types; 1: one that all tokens are of (RoBERTa), 0: without (DistilBERT).
      pooler: whether there is one.
      epsilon: of LayerNorm.
      gelu: 'erf', or 'tanh', its approximation.
      dropout: rate after the embeddings and after both branches of a layer, in training.
      attention_dropout: rate on the attention's weights, in training.
      source: which checkpoints are meant: 'bert', 'roberta' or 'distilbert'.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range, or a vocabulary of unknown size.
    """
    if min(width, depth, heads, positions) < 1 or min(mlp, first_position, segments) < 0:
        raise UserError(
            'model: a BERT needs width, depth, heads and positions from 1, and mlp, first_position and segments from 0, '
            f'found {width}, {depth}, {heads}, {positions} and {mlp}, {first_position}, {segments}.'
        )
    if width % heads:
        raise UserError(f'model: width must be a multiple of heads, found {width} and {heads}.')
    if vocab_size < 1:
        raise UserError(f'model.vocab_size: a BERT needs to know how many words there are, found {vocab_size}. Give it, or a tokenizer.')
    if not (0 <= dropout < 1 and 0 <= attention_dropout < 1) or epsilon <= 0:
        raise UserError(
            'model: a BERT needs dropout and attention_dropout in [0, 1) and epsilon above 0, '
            f'found {dropout}, {attention_dropout} and {epsilon}.'
        )
    if gelu not in GELUS:
        raise UserError(f'model: gelu is one of {tuple(GELUS)}, found {gelu!r}.')
    weights = known_weights(source, pooler=pooler)
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    embeddings = partial(Embeddings, vocab_size, width, positions, first_position, segments, epsilon, dropout, **kinds)
    layer = partial(Layer, heads, mlp or 4 * width, gelu, epsilon, dropout, attention_dropout, **kinds)
    stages = [Stage('embeddings', embeddings), *(Stage(f'layer_{i}', layer) for i in range(depth))]
    if pooler:
        stages.append(Stage('pooler', partial(Pooler, **kinds), tail=True))

    def inputs(size: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
        found = {'ids': jax.ShapeDtypeStruct(size, jnp.int32), 'mask': jax.ShapeDtypeStruct(size, jnp.bool_)}
        return found | ({'segments': jax.ShapeDtypeStruct(size, jnp.int32)} if segments > 1 else {})

    return Model(
        Backbone(stages=tuple(stages)), inputs, None, weights, vocabulary=vocab_size, positions=positions, sharding=ATTENTION_AND_MLP
    )


BASE: dict[str, Any] = {'width': 768, 'depth': 12, 'heads': 12}
LARGE: dict[str, Any] = {'width': 1024, 'depth': 24, 'heads': 16}

bert_tiny = partial(bert, width=128, depth=2, heads=2)
bert_mini = partial(bert, width=256, depth=4, heads=4)
bert_small = partial(bert, width=512, depth=4, heads=8)
bert_medium = partial(bert, width=512, depth=8, heads=8)
bert_base = partial(bert, **BASE)
bert_large = partial(bert, **LARGE)

minilm_l6 = partial(bert, width=384, depth=6, heads=12)
minilm_l12 = partial(bert, width=384, depth=12, heads=12)

_roberta = partial(bert, source='roberta', first_position=2, segments=1, epsilon=1e-5)
roberta_base = partial(_roberta, **BASE)
roberta_large = partial(_roberta, **LARGE)

distilbert_base = partial(bert, width=768, depth=6, heads=12, source='distilbert', segments=0, pooler=False)
