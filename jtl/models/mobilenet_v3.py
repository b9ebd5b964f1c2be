"""MobileNetV3 large and small: torchvision's, timm's own (`_100`), and TensorFlow's as timm and Keras have them (`tf_`).

Source: Howard et al. 2019, Searching for MobileNetV3.
"""

import re
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.adapt import NameTable
from jtl.errors import UserError
from jtl.models import mbconv_names as names
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights, weights_for_channels
from jtl.models.layers import SqueezeExcite
from jtl.models.mbconv import TENSORFLOW, TORCH, ConvBN, InvertedBottleneck, Lineage, round_channels
from jtl.models.preprocessing import Preprocessing


class Hidden(nn.Module):
    """The layer between pooling and classifier: mean of `map`, dense, hard-swish. `map` (B,H,W,C) to `pooled` (B, features)."""

    features: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `pooled` in the place of `map`."""
        rest = {name: value for name, value in features.items() if name != 'map'}
        dense = nn.Dense(self.features, dtype=self.dtype, param_dtype=self.param_dtype, name='dense')
        return rest | {'pooled': nn.hard_swish(dense(features['map'].mean(axis=(1, 2))))}


class Row(NamedTuple):
    """A block: a line of the paper's tables. `hard`: hard-swish, else ReLU."""

    kernel: int
    expanded: int
    channels: int
    squeeze: bool
    hard: bool
    stride: int = 1


class Variant(NamedTuple):
    """Groups of blocks of one width, and the width of the layer before the classifier."""

    groups: tuple[tuple[Row, ...], ...]
    hidden: int


STEM = 16
LARGE = Variant(
    groups=(
        (Row(3, 16, 16, False, False),),
        (Row(3, 64, 24, False, False, stride=2), Row(3, 72, 24, False, False)),
        (Row(5, 72, 40, True, False, stride=2), Row(5, 120, 40, True, False), Row(5, 120, 40, True, False)),
        (Row(3, 240, 80, False, True, stride=2), Row(3, 200, 80, False, True), *(Row(3, 184, 80, False, True),) * 2),
        (Row(3, 480, 112, True, True), Row(3, 672, 112, True, True)),
        (Row(5, 672, 160, True, True, stride=2), *(Row(5, 960, 160, True, True),) * 2),
    ),
    hidden=1280,
)
SMALL = Variant(
    groups=(
        (Row(3, 16, 16, True, False, stride=2),),
        (Row(3, 72, 24, False, False, stride=2), Row(3, 88, 24, False, False)),
        (Row(5, 96, 40, True, True, stride=2), *(Row(5, 240, 40, True, True),) * 2),
        (Row(5, 120, 48, True, True), Row(5, 144, 48, True, True)),
        (Row(5, 288, 96, True, True, stride=2), *(Row(5, 576, 96, True, True),) * 2),
    ),
    hidden=1024,
)
TORCHVISION = Lineage(same=False, epsilon=1e-3)


def mobilenet_v3(
    variant: Variant,
    lineage: Lineage,
    resize: int = 256,
    /,
    *,
    depths: tuple[int, ...] = (),
    width: float = 1.0,
    hidden: bool = True,
    bn_momentum: float = 0.99,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """MobileNetV3; the features are `pooled` (B, 1280), of the small one (B, 1024), of `dtype`, for any image size.

    Stages: `stem`, `block_0` ... `block_<n>`, `top` (the 1 x 1 convolution before pooling), `hidden` (pooling, and the dense layer
    that the original counts to its classifier).

    `mobilenet_v3_*` has zeros on every side and an epsilon of 1e-3, as torchvision trains it; `mobilenetv3_*_100` the same with 1e-5,
    as timm does; `tf_mobilenetv3_*_100` SAME padding and 1e-3, as TensorFlow does, whose weights Keras and timm carry. timm's keys are
    the same for both: the name says which is meant.

    Args:
      variant: LARGE or SMALL.
      lineage: padding and epsilon.
      resize: short side before the crop of 224 pixels.
      depths: so many blocks of each group, at most as many as the original has; empty for all.
      width: factor on all channels.
      hidden: without it the features are `map` (B, H / 32, W / 32, 960 or 576), sides rounded up, as Keras's files without top have them.
      bn_momentum: the part of the running statistics that a training step keeps. 0.99 needs some 500 steps to settle: a short run
        from scratch wants 0.9.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range.
    """
    most = tuple(len(group) for group in variant.groups)
    depths = depths or most
    if len(depths) != len(most) or any(not 1 <= depth <= limit for depth, limit in zip(depths, most, strict=True)):
        raise UserError(f'model.depths: this MobileNetV3 has from 1 up to {most} blocks in its {len(most)} groups, found {depths}.')
    if width <= 0 or not 0 <= bn_momentum <= 1:
        raise UserError(f'model: MobileNetV3 needs width above 0 and bn_momentum in [0, 1], found {width} and {bn_momentum}.')
    kinds: dict[str, Any] = {'lineage': lineage, 'bn_momentum': bn_momentum, 'dtype': dtype, 'param_dtype': param_dtype}
    channels = stem = round_channels(STEM * width)
    stages = [Stage('stem', partial(ConvBN, stem, nn.hard_swish, kernel=3, stride=2, **kinds))]
    named: list[names.Names] = []
    for g, group in enumerate(variant.groups):
        for i, row in enumerate(group[: depths[g]]):
            expanded = round_channels(row.expanded * width)
            named.append(names.Names(g, i, expands=expanded != channels, squeezes=row.squeeze))
            channels = round_channels(row.channels * width)
            activation = nn.hard_swish if row.hard else nn.relu
            squeeze = partial(SqueezeExcite, round_channels(expanded // 4), gate=nn.hard_sigmoid) if row.squeeze else None
            shape: dict[str, Any] = {'kernel': row.kernel, 'stride': row.stride, 'squeeze_excite': squeeze}
            block = partial(InvertedBottleneck, channels, expanded, activation, **shape, **kinds)
            stages.append(Stage(f'block_{len(named) - 1}', block))
    stages.append(Stage('top', partial(ConvBN, 6 * channels, nn.hard_swish, **kinds)))
    if hidden:
        features = round_channels(variant.hidden * width)
        stages.append(Stage('hidden', partial(Hidden, features, dtype=dtype, param_dtype=param_dtype)))
    known = _known(lineage, resize, named, hidden)
    weights = weights_for_channels(known, image_channels)
    return Model(
        backbone=Backbone(stages=tuple(stages)),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)},
        preprocessing=weights[0].preprocessing,
        weights=weights,
    )


mobilenet_v3_large = partial(mobilenet_v3, LARGE, TORCHVISION, 232)
mobilenet_v3_small = partial(mobilenet_v3, SMALL, TORCHVISION)
mobilenetv3_large_100 = partial(mobilenet_v3, LARGE, TORCH)
mobilenetv3_small_100 = partial(mobilenet_v3, SMALL, TORCH)
tf_mobilenetv3_large_100 = partial(mobilenet_v3, LARGE, TENSORFLOW)
tf_mobilenetv3_small_100 = partial(mobilenet_v3, SMALL, TENSORFLOW)


def _known(lineage: Lineage, resize: int, named: list[names.Names], hidden: bool) -> tuple[Weights, ...]:
    imagenet = partial(Preprocessing, size=(224, 224), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), crop=224 / resize)
    if lineage == TORCHVISION:  # IMAGENET1K_V2 of the large one, IMAGENET1K_V1 of the small one
        return (Weights(_torchvision(named, hidden), imagenet(), licence='BSD-3-Clause'),)
    if lineage == TORCH:  # mobilenetv3_large_100.ra_in1k, mobilenetv3_small_100.lamb_in1k (.miil_* wants mean 0 and std 255)
        return (Weights(_timm(named, hidden), imagenet(interpolation='bicubic'), licence='Apache-2.0'),)
    # timm: tf_mobilenetv3_*_100.in1k; Keras: its models map pixels to [-1, 1] themselves.
    tensorflow = Preprocessing(size=(224, 224), crop=224 / resize)
    return tuple(Weights(table, tensorflow, licence='Apache-2.0') for table in (_timm(named, hidden), *_keras(named, hidden)))


def _table(name: str, detect: tuple[str, ...], modules: list[names.Module], hidden: bool, **options: Any) -> NameTable:
    """Without the hidden layer its keys are not missed."""
    if hidden:
        return names.table(name, detect, modules, **options)
    key = next(key for path, key, _ in modules if path == 'hidden/dense')
    return names.table(name, detect, [module for module in modules if module[0] != 'hidden/dense'], unread=(key,), **options)


def _torchvision(named: list[names.Names], hidden: bool) -> NameTable:
    top = f'features.{len(named) + 1}'
    modules: list[names.Module] = [('stem/conv', 'features.0.0', 'first'), ('stem/bn', 'features.0.1', 'norm')]
    for i, block in enumerate(named):
        modules += names.torchvision_block(f'block_{i}', f'features.{i + 1}.block', block)
    modules += [('top/conv', f'{top}.0', 'conv'), ('top/bn', f'{top}.1', 'norm')]
    modules += [('hidden/dense', 'classifier.0', 'dense'), (names.HEAD, 'classifier.3', 'dense')]
    return _table('torchvision MobileNetV3', ('features.0.0.weight', 'features.1.block.0.0.weight', f'{top}.0.weight'), modules, hidden)


def _timm(named: list[names.Names], hidden: bool) -> NameTable:
    top = f'blocks.{named[-1].group + 1}.0'
    modules: list[names.Module] = [('stem/conv', 'conv_stem', 'first'), ('stem/bn', 'bn1', 'norm')]
    for i, block in enumerate(named):
        modules += names.timm_block(f'block_{i}', block)
    modules += [('top/conv', f'{top}.conv', 'conv'), ('top/bn', f'{top}.bn1', 'norm')]
    modules += [('hidden/dense', 'conv_head', 'pointwise'), (names.HEAD, 'classifier', 'dense')]
    return _table('timm MobileNetV3', ('conv_stem.weight', 'blocks.0.0.conv_dw.weight', f'{top}.conv.weight'), modules, hidden)


def _keras(named: list[names.Names], hidden: bool) -> tuple[NameTable, ...]:
    modules: list[names.Module] = [('stem/conv', 'conv', 'first'), ('stem/bn', 'conv_bn', 'norm')]
    for i, block in enumerate(named):
        modules += names.keras_mobilenet_block(f'block_{i}', f'expanded_conv_{i}' if i else 'expanded_conv', block)
    modules += [('top/conv', 'conv_1', 'conv'), ('top/bn', 'conv_1_bn', 'norm')]
    modules += [('hidden/dense', 'conv_2', 'pointwise'), (names.HEAD, 'logits', 'pointwise')]
    named_by_2 = [(path, _keras_2(key), kind) for path, key, kind in modules]
    by_name: dict[str, Any] = {'layout': names.KERAS, 'ignore': ()}
    last = f'layers/batch_normalization_{sum(kind == "norm" for *_, kind in modules) - 1}/vars/0'
    return (
        _table('Keras MobileNetV3', ('conv/kernel', 'expanded_conv_depthwise/kernel', 'conv_1/kernel'), modules, hidden, **by_name),
        _table('Keras 2 MobileNetV3', ('Conv/kernel', 'expanded_conv/depthwise/kernel', 'Conv_1/kernel'), named_by_2, hidden, **by_name),
        _table(
            'Keras MobileNetV3, layers counted',
            ('layers/conv2d/vars/0', 'layers/depthwise_conv2d/vars/0', last),
            names.by_place(modules),
            hidden,
            layout=names.KERAS_PLACES,
            ignore=(),
        ),
    )


def _keras_2(name: str) -> str:
    """The name that a layer has in Keras 2 and in the published files: `expanded_conv_1_expand_bn` is `expanded_conv_1/expand/BatchNorm`."""
    name = re.sub(r'^(expanded_conv(?:_\d+)?)_', r'\1/', name).replace('squeeze_excite_conv', 'squeeze_excite/conv')
    name = re.sub(r'_bn$', '/BatchNorm', name)
    return re.sub(r'(^|/)(conv|logits)', lambda found: found[1] + found[2].capitalize(), name)
