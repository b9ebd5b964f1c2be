"""Heads (linear, MLP) and the pooling stages that a task appends to a backbone."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jtl.errors import UserError, did_you_mean
from jtl.models.base import EVAL, Features, Mode, Stage

HEADS = ('linear', 'mlp')
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {'relu': nn.relu, 'gelu': nn.gelu, 'silu': nn.silu, 'tanh': nn.tanh}
_DTYPES = ('float32', 'bfloat16', 'float16')


class Head(nn.Module):
    """Dense layers on `pooled`; without `hidden` a linear head. Parameters: `hidden_<i>/{kernel,bias}` and `output/{kernel,bias}`.

    Attributes:
      outputs: number of outputs K.
      hidden: widths of the hidden layers.
      dropout: rate, after every hidden layer, or on `pooled` where there is none; only in `mode.train`, rng collection 'dropout'.
      activation: after every hidden layer, one of `ACTIVATIONS`.
      zero_init: start the output layer at zero, so that every example starts with the same outputs and an untrained head sends
        no noise into a pretrained backbone (BiT, Kolesnikov et al. 2020); else LeCun normal.
      dtype: of the hidden layers' arithmetic; the output layer computes in float32.
      param_dtype: of the parameters.
    """

    outputs: int
    hidden: tuple[int, ...] = ()
    dropout: float = 0.0
    activation: str = 'relu'
    zero_init: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Float[Array, 'b k']:
        """Outputs (B, K) float32 from `features['pooled']` (B, D). UserError where there is no `pooled` of that shape."""
        if 'pooled' not in features or features['pooled'].ndim != 2:
            raise UserError(
                f'The head reads `pooled` (batch, width), but the features are {shapes_text(features)}. Choose a task.pool that makes it.'
            )
        x = features['pooled']
        drop = nn.Dropout(self.dropout, deterministic=not mode.train)
        if not self.hidden:
            x = drop(x)
        for i, width in enumerate(self.hidden):
            x = nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype, name=f'hidden_{i}')(x)
            x = drop(ACTIVATIONS[self.activation](x))
        init = nn.initializers.zeros if self.zero_init else nn.initializers.lecun_normal()
        return nn.Dense(self.outputs, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=init, name='output')(x)


class Pooling(nn.Module):
    """`map` (B,H,W,C), or `tokens` (B,T,D) and `mask` (B,T), to `pooled`, dropping everything else. See `pooling` for the kinds.

    Parameters: 'attention' has `hidden/{kernel,bias}` and `score/kernel`, the other kinds none.
    """

    kind: str

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`{'pooled': (B, C)}` in the dtype of the features; see `pooling` for the width of kinds that join several.

        Raises:
          UserError: there is nothing to pool.
        """
        if self.kind == 'auto' and 'pooled' in features:
            return {'pooled': features['pooled']}
        sequence = 'tokens' in features and 'mask' in features
        if self.kind in _OF_TOKENS or (sequence and self.kind in _OF_BOTH):
            if not sequence:
                raise UserError(self._lacking('features `tokens` and `mask`', features))
            return {'pooled': self._of_tokens(features)}
        if 'map' not in features:
            raise UserError(self._lacking('a feature `map`' + (', or `tokens` and `mask`' if self.kind in _OF_BOTH else ''), features))
        if self.kind == 'pooled_and_mean' and 'pooled' not in features:
            raise UserError(
                f"task.pool='pooled_and_mean' joins `pooled` and the mean of `map`, but the backbone ends with {shapes_text(features)}. "
                "Use task.pool='mean'."
            )
        x = features['map']
        space = tuple(range(1, x.ndim - 1))
        if self.kind == 'pooled_and_mean':
            return {'pooled': jnp.concatenate([features['pooled'], x.mean(axis=space)], axis=-1)}
        if self.kind == 'flatten':
            return {'pooled': x.reshape(x.shape[0], -1)}
        return {'pooled': x.max(axis=space) if self.kind == 'max' else x.mean(axis=space)}

    def _of_tokens(self, features: Features) -> Float[Array, 'b d']:
        mask = features['mask']
        x = jnp.where(mask[..., None], features['tokens'], 0)
        if self.kind == 'cls':
            return x[:, 0]
        if self.kind == 'max':
            return _masked_max(x, mask)
        if self.kind == 'concat':
            if 'pooled' not in features:
                raise UserError(
                    "task.pool='concat' joins `pooled` (the last state of a recurrent net), the maximum and the mean of `tokens`, but the "
                    f"backbone ends with {shapes_text(features)}. Use task.pool='mean' or 'max'."
                )
            last = jnp.where(mask.any(axis=1)[:, None], features['pooled'], 0)
            return jnp.concatenate([last, _masked_max(x, mask), _masked_mean(x, mask)], axis=-1)
        if self.kind == 'attention':
            wide = x.astype(jnp.float32)
            hidden = jnp.tanh(nn.Dense(x.shape[-1], name='hidden')(wide))
            scores = nn.Dense(1, use_bias=False, kernel_init=nn.initializers.zeros, name='score')(hidden)[..., 0]
            weights = nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=1)
            return jnp.einsum('bt,btd->bd', jnp.where(mask, weights, 0), wide).astype(x.dtype)
        return _masked_mean(x, mask)

    def _lacking(self, wanted: str, features: Features) -> str:
        hint = " Use task.pool='auto', which takes `pooled` as it is." if 'pooled' in features else ''
        return f'task.pool={self.kind!r} reads {wanted}, but the backbone ends with {shapes_text(features)}.{hint}'


def _masked_mean(x: Float[Array, 'b t d'], mask: Bool[Array, 'b t']) -> Float[Array, 'b d']:
    """The mean of what is not masked; `x` is 0 elsewhere. Zeros where everything is masked."""
    return (x.sum(axis=1, dtype=jnp.float32) / jnp.maximum(mask.sum(axis=1), 1)[:, None]).astype(x.dtype)


def _masked_max(x: Float[Array, 'b t d'], mask: Bool[Array, 'b t']) -> Float[Array, 'b d']:
    """The largest of what is not masked. Zeros where everything is masked."""
    largest = jnp.where(mask[..., None], x, jnp.finfo(x.dtype).min).max(axis=1)
    return jnp.where(mask.any(axis=1)[:, None], largest, 0)


_OF_TOKENS = ('cls', 'attention', 'concat')
_OF_BOTH = ('auto', 'mean', 'max')
_OF_MAP = ('flatten', 'pooled_and_mean')
# Built once, so that two tasks with the same pooling make equal backbones (partials compare by identity).
_POOLING = {kind: (Stage('pooling', partial(Pooling, kind), tail=True),) for kind in (*_OF_BOTH, *_OF_MAP, *_OF_TOKENS)}


def pooling(kind: str) -> tuple[Stage, ...]:
    """The stage that a task appends to a backbone so that the features end with `pooled`, and a cut may lie after it.

    Of text only real tokens count; a text without any gives zeros.

    Args:
      kind: 'auto' (the backbone's own `pooled` if it has one, else 'mean'), 'mean' (of `tokens`, or the global average of `map`), 'max'.
        Of `map` alone: 'flatten' (the whole map, row by row), or 'pooled_and_mean' (`pooled`, then the mean of `map`: DINOv2's linear
        evaluation). Of `tokens` alone: 'cls' (the first token); 'attention' (the mean weighted by softmax(v . tanh(W x + b)), Yang et al.
        2016; v starts at zero, which is the plain mean); 'concat' (`pooled`, then maximum and mean of `tokens`, three times as wide:
        ULMFiT, Howard and Ruder 2018).

    Raises:
      UserError: an unknown kind.
    """
    return _POOLING[choice('pool', kind, _POOLING)]


def build_head(
    outputs: int,
    *,
    head: str,
    hidden: Sequence[int],
    dropout: float,
    activation: str,
    zero_init: bool,
    dtype: str,
    param_dtype: str,
) -> Head:
    """A checked `Head`: the options of a task that are about its head.

    Args:
      outputs: number of outputs.
      head: 'linear' or 'mlp'.
      hidden: widths of an mlp's hidden layers; empty for a linear head.
      dropout, activation, zero_init: see `Head`.
      dtype, param_dtype: 'float32', 'bfloat16' or 'float16'.

    Raises:
      UserError: an unknown name or a value out of range, with the config field.
    """
    choice('head', head, HEADS)
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise UserError(f'task.hidden: expected a tuple of layer widths such as (128,), found {hidden!r}.')
    bad = [width for width in hidden if isinstance(width, bool) or not isinstance(width, int) or width < 1]
    if bad:
        raise UserError(f'task.hidden: a layer width is a whole number from 1 up, found {bad[0]!r}.')
    if head == 'mlp' and not hidden:
        raise UserError("task.hidden: the head 'mlp' needs at least one hidden layer, such as (128,); without any, use task.head='linear'.")
    if head == 'linear' and hidden:
        raise UserError(
            f"task.hidden: the head 'linear' has no hidden layers, found {tuple(hidden)}. Set task.head='mlp' or leave them out."
        )
    if not isinstance(zero_init, bool):
        raise UserError(f'task.zero_init: expected True or False, found {zero_init!r}.')
    return Head(
        outputs=outputs,
        hidden=tuple(hidden),
        dropout=fraction('dropout', dropout),
        activation=choice('activation', activation, ACTIVATIONS),
        zero_init=zero_init,
        dtype=float_type('dtype', dtype),
        param_dtype=float_type('param_dtype', param_dtype),
    )


def fraction(option: str, value: Any) -> float:
    """`value` as a float if it is a number in [0, 1), else UserError naming `task.<option>`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f'task.{option}: expected a number from 0 to below 1, found {value!r}.')
    return float(value)


def float_type(option: str, value: Any) -> Any:
    """The dtype that `value` names: 'float32', 'bfloat16' or 'float16', else UserError naming `task.<option>`."""
    return jnp.dtype(choice(option, value, _DTYPES))


def choice(option: str, value: Any, choices: Any) -> str:
    """`value` if it is one of `choices`, else UserError naming `task.<option>` and the nearest."""
    if not isinstance(value, str) or value not in choices:
        raise UserError(f'task.{option}: there is no {value!r}. {did_you_mean(str(value), choices)}'.rstrip())
    return value


def shapes_text(features: Features) -> str:
    """Names and shapes of features, for a message."""
    return ', '.join(f'`{name}` {tuple(x.shape)}' for name, x in features.items()) or 'empty'
