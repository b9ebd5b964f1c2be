"""EfficientNet: B0 to B3 as PyTorch and timm trained them, B0 to B7 as TensorFlow, Keras and Hugging Face have them (`tf_`).

Source: Tan & Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.tables import NameTable, without
from jtl.errors import UserError
from jtl.models import mbconv_names as names
from jtl.models.base import Backbone, Model, Stage, Weights, weights_for_channels
from jtl.models.layers import SqueezeExcite
from jtl.models.mbconv import TENSORFLOW, TORCH, ConvBN, InvertedBottleneck, Lineage, round_channels
from jtl.models.preprocessing import Preprocessing, for_channels


def _imagenet(size: int, crop: float, interpolation: str = 'bicubic') -> Preprocessing:
    return Preprocessing(
        size=(size, size), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), interpolation=interpolation, crop=crop
    )


class Variant(NamedTuple):
    """How a variant scales: factors on channels and on the number of blocks of a group, and the side of its pictures, pixels."""

    width: float
    depth: float
    size: int


class Group(NamedTuple):
    """A run of like blocks before scaling; only the first strides."""

    repeats: int
    kernel: int
    stride: int
    expand: int
    channels: int


VARIANTS = (
    Variant(1.0, 1.0, 224),
    Variant(1.0, 1.1, 240),
    Variant(1.1, 1.2, 260),
    Variant(1.2, 1.4, 300),
    Variant(1.4, 1.8, 380),
    Variant(1.6, 2.2, 456),
    Variant(1.8, 2.6, 528),
    Variant(2.0, 3.1, 600),
)
# How pictures become the input of the weights trained in PyTorch. torchvision: IMAGENET1K_V1, of B1 IMAGENET1K_V2.
_TORCHVISION = (_imagenet(224, 224 / 256), _imagenet(240, 240 / 255, 'bilinear'), _imagenet(288, 1.0), _imagenet(300, 300 / 320))
# timm: b0.ra_in1k, b1.ra4_e3600_r240_in1k, b2.ra_in1k, b3.ra2_in1k.
_TIMM = (
    _imagenet(224, 0.875),
    Preprocessing(size=(240, 240), interpolation='bicubic', crop=0.9),
    _imagenet(256, 0.875),
    _imagenet(288, 0.875),
)
GROUPS = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
    Group(1, 3, 1, 6, 320),
)
STEM, TOP = 32, 1280


def efficientnet(
    lineage: Lineage,
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
    """EfficientNet; the features are `map` (B, H / 32, W / 32, C) of `dtype`, sides rounded up, for any image size; C is 1280 up to 2560.

    Stages: `stem`, `block_0` ... `block_<n>`, `top` (the 1 x 1 convolution before pooling): a block is the smallest unit that a cut
    may lie behind.

    `efficientnet_b<n>` (zeros on every side, epsilon 1e-5) loads torchvision's and timm's own weights; `tf_efficientnet_b<n>` (SAME
    padding, epsilon 1e-3) those trained in TensorFlow, which Keras, transformers and timm (`tf_efficientnet_*`) carry. timm's keys
    are the same for both: the name says which is meant. Transformers pads as SAME does at the size its weights were trained on;
    at sizes whose halvings are odd elsewhere it cuts other windows than TensorFlow, and jtl follows TensorFlow.

    Args:
      lineage: padding and epsilon.
      variant: 0 to 7, in PyTorch's lineage to 3.
      width: factor on the variant's channels.
      depth: factor on the variant's number of blocks, of each group rounded up.
      stochastic_depth: chance that training skips the last block, falling linearly to 0 at the first; the original trained with 0.2.
      bn_momentum: the part of the running statistics that a training step keeps. 0.99 needs some 500 steps to settle: a short run
        from scratch wants 0.9.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range.
    """
    if not 0 <= stochastic_depth < 1 or not 0 <= bn_momentum <= 1:
        raise UserError(
            f'model: EfficientNet needs stochastic_depth in [0, 1) and bn_momentum in [0, 1], found {stochastic_depth} and {bn_momentum}.'
        )
    if width <= 0 or depth <= 0:
        raise UserError(f'model: EfficientNet needs width and depth above 0, found {width} and {depth}.')
    scale = VARIANTS[variant]
    channels = stem = round_channels(STEM * scale.width * width)
    kinds: dict[str, Any] = {
        'activation': nn.silu,
        'lineage': lineage,
        'bn_momentum': bn_momentum,
        'dtype': dtype,
        'param_dtype': param_dtype,
    }
    blocks: list[partial[InvertedBottleneck]] = []
    named: list[names.Names] = []
    for g, group in enumerate(GROUPS):
        out = round_channels(group.channels * scale.width * width)
        for i in range(math.ceil(group.repeats * scale.depth * depth)):
            squeeze = partial(SqueezeExcite, max(1, channels // 4), activation=nn.silu)
            shape: dict[str, Any] = {'kernel': group.kernel, 'stride': group.stride if i == 0 else 1, 'squeeze_excite': squeeze}
            blocks.append(partial(InvertedBottleneck, out, channels * group.expand, **shape, **kinds))
            named.append(names.Names(g, i, expands=group.expand != 1, squeezes=True))
            channels = out
    stages = (
        Stage('stem', partial(ConvBN, stem, kernel=3, stride=2, **kinds)),
        *(Stage(f'block_{i}', partial(block, drop_rate=stochastic_depth * i / len(blocks))) for i, block in enumerate(blocks)),
        Stage('top', partial(ConvBN, round_channels(TOP * scale.width * width), **kinds)),
    )
    weights = _tensorflow_weights(scale, named) if lineage == TENSORFLOW else _torch_weights(variant, named)
    return Model(
        backbone=Backbone(stages=stages),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)},
        preprocessing=for_channels(_original(scale), image_channels),
        weights=weights_for_channels(weights, image_channels),
    )


efficientnet_b0 = partial(efficientnet, TORCH, 0)
efficientnet_b1 = partial(efficientnet, TORCH, 1)
efficientnet_b2 = partial(efficientnet, TORCH, 2)
efficientnet_b3 = partial(efficientnet, TORCH, 3)
tf_efficientnet_b0 = partial(efficientnet, TENSORFLOW, 0)
tf_efficientnet_b1 = partial(efficientnet, TENSORFLOW, 1)
tf_efficientnet_b2 = partial(efficientnet, TENSORFLOW, 2)
tf_efficientnet_b3 = partial(efficientnet, TENSORFLOW, 3)
tf_efficientnet_b4 = partial(efficientnet, TENSORFLOW, 4)
tf_efficientnet_b5 = partial(efficientnet, TENSORFLOW, 5)
tf_efficientnet_b6 = partial(efficientnet, TENSORFLOW, 6)
tf_efficientnet_b7 = partial(efficientnet, TENSORFLOW, 7)


def _original(scale: Variant) -> Preprocessing:
    """The original evaluates on the middle of the picture without a border of 32 pixels in size + 32; so does timm with `tf_` weights."""
    return _imagenet(scale.size, scale.size / (scale.size + 32))


def _torch_weights(variant: int, named: list[names.Names]) -> tuple[Weights, ...]:
    return (
        Weights(_torchvision(named), _TORCHVISION[variant], licence='BSD-3-Clause'),
        Weights(_timm(named), _TIMM[variant], licence='Apache-2.0'),
    )


def _tensorflow_weights(scale: Variant, named: list[names.Names]) -> tuple[Weights, ...]:
    # google/efficientnet-b0 to -b7: the whole picture squeezed to the size, nearest pixels. Its processor divides twice by the root of std.
    squeezed, hugging_face = _imagenet(scale.size, 1.0, 'nearest'), _hugging_face(named)
    # timm: tf_efficientnet_b<n>.ns_jft_in1k, .aa_in1k and .in1k. (.ap_in1k wants mean and std 127.5: config.preprocessing.)
    # Keras: its models do the same inside (Rescaling, Normalization with a variance of std, Rescaling by the root of 1 / std).
    return (
        Weights(hugging_face, squeezed, licence='Apache-2.0'),
        Weights(without(hugging_face, 'efficientnet.'), squeezed, licence='Apache-2.0'),
        Weights(_timm(named), _original(scale), licence='Apache-2.0'),
        *(Weights(table, _original(scale), licence='Apache-2.0') for table in _keras(named)),
    )


def _torchvision(named: list[names.Names]) -> NameTable:
    top = f'features.{len(GROUPS) + 1}'
    modules: list[names.Module] = [('stem/conv', 'features.0.0', 'first'), ('stem/bn', 'features.0.1', 'norm')]
    for i, block in enumerate(named):
        modules += names.torchvision_block(f'block_{i}', f'features.{block.group + 1}.{block.place}.block', block)
    modules += [('top/conv', f'{top}.0', 'conv'), ('top/bn', f'{top}.1', 'norm'), (names.HEAD, 'classifier.1', 'dense')]
    return names.table('torchvision EfficientNet', ('features.0.0.weight', 'features.1.0.block.1.fc1.weight', f'{top}.0.weight'), modules)


def _timm(named: list[names.Names]) -> NameTable:
    modules: list[names.Module] = [('stem/conv', 'conv_stem', 'first'), ('stem/bn', 'bn1', 'norm')]
    for i, block in enumerate(named):
        modules += names.timm_block(f'block_{i}', block)
    modules += [('top/conv', 'conv_head', 'conv'), ('top/bn', 'bn2', 'norm'), (names.HEAD, 'classifier', 'dense')]
    return names.table('timm EfficientNet', ('conv_stem.weight', 'blocks.0.0.se.conv_reduce.weight', 'bn2.weight'), modules)


def _hugging_face(named: list[names.Names]) -> NameTable:
    stem, top = 'efficientnet.embeddings', 'efficientnet.encoder.top'
    modules: list[names.Module] = [('stem/conv', f'{stem}.convolution', 'first'), ('stem/bn', f'{stem}.batchnorm', 'norm')]
    for i, block in enumerate(named):
        modules += names.hugging_face_block(f'block_{i}', i, block)
    modules += [('top/conv', f'{top}_conv', 'conv'), ('top/bn', f'{top}_bn', 'norm'), (names.HEAD, 'classifier', 'dense')]
    return names.table('transformers EfficientNet', (f'{stem}.convolution.weight', f'{top}_conv.weight'), modules)


def _keras(named: list[names.Names]) -> tuple[NameTable, NameTable]:
    modules: list[names.Module] = [('stem/conv', 'stem_conv', 'first'), ('stem/bn', 'stem_bn', 'norm')]
    for i, block in enumerate(named):
        modules += names.keras_block(f'block_{i}', f'block{block.group + 1}{chr(ord("a") + block.place)}', block)
    modules += [('top/conv', 'top_conv', 'conv'), ('top/bn', 'top_bn', 'norm'), (names.HEAD, 'predictions', 'dense')]
    detect = ('stem_conv/kernel', 'block1a_dwconv/kernel', 'top_conv/kernel')
    # The statistics of the Normalization layer are in the preprocessing.
    by_name = names.table('Keras EfficientNet', detect, modules, names.KERAS, (r'normalization/(mean|variance|count)',))
    detect = ('layers/conv2d/vars/0', 'layers/depthwise_conv2d/vars/0', 'layers/normalization/vars/0')
    by_place = names.table('Keras 3 EfficientNet', detect, names.by_place(modules), names.KERAS_PLACES, (r'layers/normalization/vars/\d',))
    return by_name, by_place
