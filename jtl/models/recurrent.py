"""Recurrent nets over a table of word vectors: LSTM and GRU, one or two directions, any depth.

Sources: Hochreiter & Schmidhuber 1997, Long Short-Term Memory; Cho et al. 2014, Learning Phrase Representations using RNN
Encoder-Decoder (GRU, with PyTorch's place of the reset gate, as cuDNN has it); Gal & Ghahramani 2016, A Theoretically Grounded
Application of Dropout in Recurrent Neural Networks; Merity et al. 2018, Regularizing and Optimizing LSTM Language Models.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage
from jtl.models.recurrent_names import known_weights

State = tuple[Float[Array, 'b h'], ...]
"""What goes from step to step: the hidden state, and behind it the cell of an LSTM."""


class Cell(NamedTuple):
    """A kind of recurrence: how many gates lie side by side in its kernels, how many arrays its state has, and `step`.

    `step(ahead, behind, state)` gives the new state: `ahead` (B, gates * H) is what the input says, `behind` what the hidden state says.
    """

    gates: int
    states: int
    step: Any


def _lstm_step(ahead: Float[Array, 'b g'], behind: Float[Array, 'b g'], state: State) -> State:
    i, f, g, o = jnp.split(ahead + behind, 4, axis=-1)
    c = nn.sigmoid(f) * state[1] + nn.sigmoid(i) * jnp.tanh(g)
    return nn.sigmoid(o) * jnp.tanh(c), c


def _gru_step(ahead: Float[Array, 'b g'], behind: Float[Array, 'b g'], state: State) -> State:
    (r, z, n), (r_h, z_h, n_h) = jnp.split(ahead, 3, axis=-1), jnp.split(behind, 3, axis=-1)
    z = nn.sigmoid(z + z_h)
    return ((1 - z) * jnp.tanh(n + nn.sigmoid(r + r_h) * n_h) + z * state[0],)


CELLS = {'lstm': Cell(4, 2, _lstm_step), 'gru': Cell(3, 1, _gru_step)}
"""Gates in PyTorch's order: input, forget, cell, output; reset, update, new."""


def _uniform(bound: float) -> Initializer:
    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Embeddings(nn.Module):
    """Words as vectors. Reads `ids` and `mask` (B,T); gives `tokens` (B, T, width), zero where masked, in the place of `ids` and `segments`.

    Parameters: `word/embedding` (vocab_size, width).

    Attributes:
      word_dropout: chance that training leaves a word of the vocabulary out, everywhere in the batch (Merity et al. 2018).
    """

    vocab_size: int
    width: int
    word_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `tokens`."""
        ids, mask = features['ids'], features['mask']
        rest = {name: value for name, value in features.items() if name not in ('ids', 'segments')}
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        # As AWD-LSTM starts it: small, so that a head tied to it starts with even odds.
        x = nn.Embed(self.vocab_size, self.width, embedding_init=_uniform(0.1), name='word', **kinds)(ids)
        if mode.train and self.word_dropout:
            kept = nn.Dropout(self.word_dropout, deterministic=False)(jnp.ones(self.vocab_size, self.dtype))
            x = x * kept[ids][..., None]
        return rest | {'tokens': jnp.where(mask[..., None], x, 0)}


class Hidden(nn.Module):
    """The parameters of the recurrence: `kernel` (H, gates * H) and `bias` (gates * H,)."""

    units: int
    gates: int
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[Float[Array, 'h g'], Float[Array, ' g']]:
        """Kernel and bias."""
        init, width = _uniform(self.units**-0.5), self.gates * self.units
        return self.param('kernel', init, (self.units, width), self.param_dtype), self.param('bias', init, (width,), self.param_dtype)


class Direction(nn.Module):
    """One layer in one direction. Parameters: `input` and `hidden`, each `kernel` and `bias`: both biases, as PyTorch and cuDNN have it.

    A step at a masked token is no step: the state goes on as it was. So a row ends, or in reverse begins, at its last real token.
    The state is kept in float32 or wider, since it adds up over the row.

    Attributes:
      kind: a key of `CELLS`.
      units: H.
      reverse: from the last token to the first.
      recurrent_dropout: chance that training hides a unit of the state from the gates, in all steps of a row alike (Gal & Ghahramani 2016);
        the state itself goes on whole.
    """

    kind: str
    units: int
    reverse: bool = False
    recurrent_dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, 'b t d'], mask: Bool[Array, 'b t'], mode: Mode = EVAL
    ) -> tuple[Float[Array, 'b t h'], Float[Array, 'b h']]:
        """The hidden states, zero where masked, and the last one."""
        cell, init = CELLS[self.kind], _uniform(self.units**-0.5)
        project = partial(nn.Dense, kernel_init=init, bias_init=init, dtype=self.dtype, param_dtype=self.param_dtype)
        ahead = project(cell.gates * self.units, name='input')(x.swapaxes(0, 1))
        hidden = Hidden(self.units, cell.gates, self.param_dtype, name='hidden')()
        kernel, bias = (leaf.astype(self.dtype) for leaf in hidden)
        start = jnp.zeros((len(x), self.units), jnp.promote_types(self.dtype, jnp.float32))
        drop = mode.train and self.recurrent_dropout > 0
        seen = nn.Dropout(self.recurrent_dropout, deterministic=False)(jnp.ones_like(start)) if drop else None

        def step(state: State, now: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
            ahead, real = now
            h = state[0] if seen is None else state[0] * seen
            new = cell.step(ahead, h.astype(self.dtype) @ kernel + bias, state)
            kept = tuple(jnp.where(real, after, before) for after, before in zip(new, state, strict=True))
            return kept, jnp.where(real, kept[0], 0).astype(self.dtype)

        last, states = jax.lax.scan(step, (start,) * cell.states, (ahead, mask.T[..., None]), reverse=self.reverse)
        return states.swapaxes(0, 1), last[0].astype(self.dtype)


class Layer(nn.Module):
    """`tokens` (B,T,D) to `tokens` (B,T,H), or (B,T,2H) in two directions, forward first; `mask` (B,T) tells the real tokens.

    Parameters: `forward` and, in two directions, `backward`.

    Attributes:
      dropout: on what the layer reads.
      pool: give `pooled` too, (B,H) or (B,2H): the last state of each direction, PyTorch's `h_n`.
    """

    kind: str
    units: int
    bidirectional: bool = False
    dropout: float = 0.0
    recurrent_dropout: float = 0.0
    pool: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `tokens`, and `pooled` where asked for."""
        x = nn.Dropout(self.dropout, deterministic=not mode.train)(features['tokens'])
        direction = partial(
            Direction, self.kind, self.units, recurrent_dropout=self.recurrent_dropout, dtype=self.dtype, param_dtype=self.param_dtype
        )
        ways = [direction(name='forward')]
        if self.bidirectional:
            ways.append(direction(reverse=True, name='backward'))
        tokens, last = zip(*(way(x, features['mask'], mode) for way in ways), strict=True)
        out = features | {'tokens': jnp.concatenate(tokens, axis=-1)}
        return out | {'pooled': jnp.concatenate(last, axis=-1)} if self.pool else out


def recurrent(
    kind: str,
    *,
    vocab_size: int = 0,
    embedding: int = 300,
    hidden: int = 300,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
    embedding_dropout: float = 0.0,
    recurrent_dropout: float = 0.0,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """A recurrent net; the features are `tokens` (B,T,H), `mask` (B,T) and `pooled` (B,H), the state behind the last real token. In two
    directions 2H: forward, then backward, whose last state is the one behind the first token.

    Stages: `embeddings`, `layer_0` ... `layer_<n>`. In one direction a token's features depend on it and on those before it alone, as a
    language model needs it. Rows may have any length; padding does not change what real tokens give.

    Everything starts as PyTorch starts it, uniform within 1 / sqrt(hidden), but for the word vectors: uniform within 0.1.

    Args:
      kind: 'lstm' or 'gru'.
      vocab_size: rows of the word table; 0: that of the tokenizer.
      embedding: width of the word table; that of the word vectors, where they are loaded.
      hidden: width H of the state. Where it equals `embedding`, the head of a language model can share the word table.
      layers: how many, each reading the tokens of the one before.
      bidirectional: a second direction in every layer, from the last token to the first.
      dropout: rate on the word vectors and between layers.
      embedding_dropout: rate at which whole words of the vocabulary are left out.
      recurrent_dropout: rate on the state as the gates see it, one mask for a row.
      dtype: of the computation; the state is float32 at least.
      param_dtype: of the parameters.
    """
    if vocab_size < 1:
        raise UserError(
            f'model.vocab_size: {kind} needs the size of its vocabulary, found {vocab_size}. It comes from the tokenizer of a text data set.'
        )
    if min(embedding, hidden, layers) < 1:
        raise UserError(f'model: {kind} needs embedding, hidden and layers from 1, found {embedding}, {hidden} and {layers}.')
    rates = {'dropout': dropout, 'embedding_dropout': embedding_dropout, 'recurrent_dropout': recurrent_dropout}
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise UserError(f'model.{name}: a rate in [0, 1), found {rate}.')
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    layer = partial(Layer, kind, hidden, bidirectional, dropout, recurrent_dropout, **kinds)
    stages = (
        Stage('embeddings', partial(Embeddings, vocab_size, embedding, embedding_dropout, **kinds)),
        *(Stage(f'layer_{i}', partial(layer, pool=i == layers - 1)) for i in range(layers)),
    )

    def inputs(size: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
        return {'ids': jax.ShapeDtypeStruct(size, jnp.int32), 'mask': jax.ShapeDtypeStruct(size, jnp.bool_)}

    return Model(Backbone(stages=stages), inputs, None, known_weights(kind, layers, bidirectional), vocabulary=vocab_size)


lstm = partial(recurrent, 'lstm')
gru = partial(recurrent, 'gru')
