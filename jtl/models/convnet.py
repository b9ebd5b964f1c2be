"""A small convolutional net for small pictures: (convolution, ReLU, max-pool) stages, then dense stages."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, take_map
from jtl.models.preprocessing import Preprocessing, for_channels


class ConvStage(nn.Module):
    """k x k convolution with SAME padding, BatchNorm where asked for, ReLU, 2 x 2 max-pool.

    Reads `image` or `map` (B,H,W,C); gives `map` (B, H // 2, W // 2, features) of `dtype`.
    """

    features: int
    kernel: int = 3
    batch_norm: bool = False
    bn_momentum: float = 0.99
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of what was read."""
        x, rest = take_map(features)
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        # BatchNorm subtracts whatever bias came before it.
        x = nn.Conv(self.features, (self.kernel, self.kernel), use_bias=not self.batch_norm, name='conv', **kinds)(x)
        if self.batch_norm:
            x = nn.BatchNorm(use_running_average=not mode.batch_statistics, momentum=self.bn_momentum, name='bn', **kinds)(x)
        return rest | {'map': nn.max_pool(nn.relu(x), (2, 2), strides=(2, 2))}


class DenseStage(nn.Module):
    """Dense layer, ReLU, dropout. Reads `pooled` (B,D), or flattens `map` (B,H,W,C); gives `pooled` (B, features) of `dtype`."""

    features: int
    dropout: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `pooled` in the place of what was read."""
        rest = {name: value for name, value in features.items() if name not in ('map', 'pooled')}
        x = features['pooled'] if 'pooled' in features else _flat(features['map'])
        x = nn.relu(nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name='dense')(x))
        return rest | {'pooled': nn.Dropout(self.dropout, deterministic=not mode.train)(x)}


def _flat(x: jax.Array) -> jax.Array:
    return x.reshape(len(x), -1)


def convnet(
    *,
    channels: tuple[int, ...] = (32, 64),
    kernel: int = 3,
    dense: tuple[int, ...] = (128,),
    batch_norm: bool = False,
    bn_momentum: float = 0.99,
    dropout: float = 0.0,
    image_channels: int = 1,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """A LeNet-like net, from scratch or from a checkpoint that jtl wrote.

    Stages `conv_0`, `conv_1`, ... each halve height and width; `dense_0`, ... follow. With dense stages the features are
    `pooled` (B, D), and the parameters of `dense_0` depend on the image size. With `dense=()` they are `map` (B,H,W,C), which
    the task pools or flattens.

    Args:
      channels: output channels of each convolution stage.
      kernel: side of the convolutions.
      dense: widths of the dense stages.
      batch_norm: BatchNorm between convolution and ReLU.
      bn_momentum: the part of the running statistics that a training step keeps.
      dropout: rate after each dense stage, in training.
      image_channels: 1 (grey), 3 (RGB), or another count.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range; from `inputs`, an image too small to be halved at every convolution stage.
    """
    if not channels or min(*channels, *dense, kernel, 1) < 1:
        raise UserError(
            f'model: convnet needs at least one convolution and sizes above 0, found channels={channels}, kernel={kernel}, dense={dense}.'
        )
    if not 0 <= dropout < 1 or not 0 <= bn_momentum <= 1:
        raise UserError(f'model: convnet needs dropout in [0, 1) and bn_momentum in [0, 1], found {dropout} and {bn_momentum}.')
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    conv = partial(ConvStage, kernel=kernel, batch_norm=batch_norm, bn_momentum=bn_momentum, **kinds)
    stages = [Stage(f'conv_{i}', partial(conv, features=width)) for i, width in enumerate(channels)]
    stages += [Stage(f'dense_{i}', partial(DenseStage, features=width, dropout=dropout, **kinds)) for i, width in enumerate(dense)]

    def inputs(size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        if min(size) < 2 ** len(channels):
            raise UserError(
                f'model.image_size is {size[0]} x {size[1]}, but {len(channels)} max-pools need at least {2 ** len(channels)} pixels a side: '
                'enlarge the image or shorten model.channels.'
            )
        return {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)}

    return Model(Backbone(stages=tuple(stages)), inputs, for_channels(Preprocessing(size=(32, 32)), image_channels))
