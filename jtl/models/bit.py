"""BiT: pre-activation ResNets with group norm and standardised weights, whose statistics do not depend on the batch.

Sources: Kolesnikov et al. 2020, Big Transfer (BiT): General Visual Representation Learning; He et al. 2016, Identity Mappings in Deep
Residual Networks; Wu & He 2018, Group Normalization; Qiao et al. 2019, Weight Standardization.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jtl.checkpoint.tables import NameTable, without
from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights
from jtl.models.layers import pads
from jtl.models.preprocessing import Preprocessing, for_channels
from jtl.rules import as_rules

GROUPS = 32
_EPSILON = 1e-10  # the original's; timm and transformers have 1e-8, which trained kernels do not notice
_kernel_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class StdConv(nn.Module):
    """A convolution whose kernel has mean 0 and variance 1 for each output, without bias. (B,H,W,C) -> (B,H',W',channels) of `dtype`.

    Padded as PyTorch has it: half of the kernel on every side.
    """

    channels: int
    kernel_size: int
    stride: int = 1
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 d']:
        """The convolved maps."""
        side = self.kernel_size
        kernel = self.param('kernel', _kernel_init, (side, side, x.shape[-1], self.channels), self.param_dtype)
        kernel = kernel.astype(jnp.promote_types(self.dtype, jnp.float32))
        kernel = (kernel - kernel.mean((0, 1, 2))) * lax.rsqrt(kernel.var((0, 1, 2)) + _EPSILON)
        return lax.conv_general_dilated(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            (self.stride, self.stride),
            pads(side // 2),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )


class Stem(nn.Module):
    """7 x 7 convolution with stride 2, 3 x 3 max-pool with stride 2. `image` to `map` (B, H / 4, W / 4, channels), rounded up.

    The border of the max-pool is zero, as in the original, although the map has negative values.
    """

    channels: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of `image`."""
        rest = {name: value for name, value in features.items() if name != 'image'}
        x = StdConv(self.channels, 7, 2, self.dtype, self.param_dtype, name='conv')(features['image'])
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        return rest | {'map': nn.max_pool(x, (3, 3), (2, 2))}


class Block(nn.Module):
    """A bottleneck of 1 x 1, 3 x 3 and 1 x 1, each after group norm and ReLU. `map` to `map`.

    Attributes:
      channels: of the first two convolutions; the last has four times as many.
      stride: of the 3 x 3.
      project: the shortcut is a 1 x 1 convolution of the normalised input, else the input.
    """

    channels: int
    stride: int = 1
    project: bool = False
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        x = features['map'].astype(self.dtype)
        y = nn.relu(_norm(self, 'norm_1')(x))
        if self.project:
            x = StdConv(4 * self.channels, 1, self.stride, name='shortcut', **kinds)(y)
        y = StdConv(self.channels, 1, name='conv_1', **kinds)(y)
        y = StdConv(self.channels, 3, self.stride, name='conv_2', **kinds)(nn.relu(_norm(self, 'norm_2')(y)))
        y = StdConv(4 * self.channels, 1, name='conv_3', **kinds)(nn.relu(_norm(self, 'norm_3')(y)))
        return features | {'map': x + y}


class Norm(nn.Module):
    """The last group norm and ReLU. `map` to `map`."""

    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        return features | {'map': nn.relu(_norm(self, 'norm')(features['map']))}


def _norm(module: Block | Norm, name: str) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, epsilon=1e-5, use_fast_variance=False, dtype=module.dtype, param_dtype=module.param_dtype, name=name)


# Pretrained on ImageNet-21k at 224 pixels (timm's resnetv2_*_bit.goog_in21k). All of BiT's read x / 127.5 - 1, resized bilinearly.
PRETRAINED = Preprocessing(size=(224, 224), crop=0.875)


def bit(
    *,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """BiT ResNet; the features are `map` (B, H / 32, W / 32, C) of `dtype`, sides rounded up, for any image size; C is 2048 for R50x1.

    Stages: `stem`, each residual block, `layer_1_0` ... `layer_4_2`, as `resnet` names them, and `norm`, which is a tail.

    A checkpoint is taken for one of ImageNet-21k by its 21,843 outputs (BiT-M), and else for one fine-tuned on ImageNet-1k. BiT-S, trained
    on ImageNet-1k at 224 pixels, cannot be told from the latter: set `model.image_size`.

    No part of a new block starts at zero: a zero kernel has no direction to be standardised to.

    Args:
      depths: blocks of each group; the first group keeps the size of the map, each later one halves it.
      width: channels of the stem and of the first group's bottlenecks, a multiple of 32; each later group has twice as many. 64 is x1.
      image_channels: 1 (grey), 3 (colour) or another count. The first kernel of a checkpoint is fitted, but standardised anew: each output is scaled.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range.
    """
    if not depths or min(depths) < 1 or width < 1 or width % GROUPS:
        raise UserError(
            f'model: BiT needs depths of at least 1 and a width that is a multiple of {GROUPS} (its groups), '
            f'found depths={depths} and width={width}.'
        )
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    stages = [Stage('stem', partial(Stem, width, **kinds))]
    for i, depth in enumerate(depths):
        block = partial(Block, width * 2**i, **kinds)
        stages += [Stage(f'layer_{i + 1}_{j}', partial(block, stride=2 if i and not j else 1, project=not j)) for j in range(depth)]
    stages.append(Stage('norm', partial(Norm, **kinds), tail=True))
    return Model(
        backbone=Backbone(stages=tuple(stages)),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)},
        preprocessing=for_channels(PRETRAINED, image_channels),
        weights=tuple(
            Weights(table, for_channels(preprocessing, image_channels), licence='Apache-2.0')
            for table, preprocessing in _known(depths, width)
        ),
    )


bit_resnet50x1 = partial(bit, depths=(3, 4, 6, 3), width=64)
bit_resnet50x3 = partial(bit, depths=(3, 4, 6, 3), width=192)
bit_resnet101x1 = partial(bit, depths=(3, 4, 23, 3), width=64)
bit_resnet101x3 = partial(bit, depths=(3, 4, 23, 3), width=192)
bit_resnet152x2 = partial(bit, depths=(3, 8, 36, 3), width=128)
bit_resnet152x4 = partial(bit, depths=(3, 8, 36, 3), width=256)


def _known(depths: tuple[int, ...], width: int) -> list[tuple[NameTable, Preprocessing]]:
    """The tables and the preprocessing of their weights."""
    features = 4 * width * 2 ** (len(depths) - 1)
    # BiT's rule fine-tunes on pictures as large as ImageNet's at 480 pixels (bit_hyperrule.py), and evaluates on the whole picture.
    original = Preprocessing(size=(480, 480))
    # timm evaluates the same weights at 448, the widest at 480; transformers' google/bit-50 is converted from timm's.
    timm = Preprocessing(size=(480, 480) if width >= 256 else (448, 448))
    transformers = _transformers(len(depths))
    return [
        (_npz(max(depths), (('resnet/head/conv2d/kernel', (1, 1, features, 21843)),)), PRETRAINED),
        (_npz(max(depths)), original),
        (_timm(len(depths), (('head.fc.weight', (21843, features, 1, 1)),)), PRETRAINED),
        (_timm(len(depths)), timm),
        (transformers, timm),
        (without(transformers, 'bit.'), timm),
    ]


Shapes = tuple[tuple[str, tuple[int, ...]], ...]
_TO_HWIO = ('transpose', 2, 3, 1, 0)


def _npz(deepest: int, shapes: Shapes = ()) -> NameTable:
    """The original's npz, which counts units from 1 with two digits and calls a unit's convolutions a, b and c."""
    rules: list[tuple[str, Any]] = [(r'backbone/stem/conv/kernel', ('resnet/root_block/standardized_conv2d/kernel', ('channels',)))]
    leaves = {'scale': 'gamma', 'bias': 'beta'}
    for j in range(deepest):
        block, unit = rf'backbone/layer_(\d+)_{j}', rf'resnet/block\1/unit{j + 1:02d}'
        rules.append((f'{block}/shortcut/kernel', f'{unit}/a/proj/standardized_conv2d/kernel'))
        for k, part in enumerate('abc', 1):
            rules.append((f'{block}/conv_{k}/kernel', f'{unit}/{part}/standardized_conv2d/kernel'))
            rules += [(f'{block}/norm_{k}/{ours}', f'{unit}/{part}/group_norm/{theirs}') for ours, theirs in leaves.items()]
    rules += [(f'backbone/norm/norm/{ours}', f'resnet/group_norm/{theirs}') for ours, theirs in leaves.items()]
    head = [
        (r'heads/[^/]+/output/kernel', ('resnet/head/conv2d/kernel', ('squeeze', 0), ('squeeze', 0))),
        (r'heads/[^/]+/output/bias', 'resnet/head/conv2d/bias'),
    ]
    detect = ('resnet/root_block/standardized_conv2d/kernel', 'resnet/block1/unit01/a/standardized_conv2d/kernel')
    return _table('BiT npz', detect, rules, head, shapes)


def _timm(groups: int, shapes: Shapes = ()) -> NameTable:
    """The layout of timm's resnetv2_*_bit; its classifier is a 1 x 1 convolution."""
    rules = _torch_rules('stem.conv', [rf'stages.{i}.blocks.\1' for i in range(groups)], 'norm')
    head = [
        (r'heads/[^/]+/output/kernel', ('head.fc.weight', ('squeeze', 3), ('squeeze', 2), ('transpose', 1, 0))),
        (r'heads/[^/]+/output/bias', 'head.fc.bias'),
    ]
    return _table('timm ResNetV2', ('stem.conv.weight', 'stages.0.blocks.0.norm1.weight', 'norm.weight'), rules, head, shapes)


def _transformers(groups: int) -> NameTable:
    """BitForImageClassification of transformers."""
    rules = _torch_rules('bit.embedder.convolution', [rf'bit.encoder.stages.{i}.layers.\1' for i in range(groups)], 'bit.norm')
    head = [
        (r'heads/[^/]+/output/kernel', ('classifier.1.weight', ('transpose', 1, 0))),
        (r'heads/[^/]+/output/bias', 'classifier.1.bias'),
    ]
    detect = ('bit.embedder.convolution.weight', 'bit.encoder.stages.0.layers.0.norm1.weight', 'bit.norm.weight')
    return _table('transformers BiT', detect, rules, head)


def _torch_rules(stem: str, blocks: list[str], norm: str) -> list[tuple[str, Any]]:
    rules: list[tuple[str, Any]] = [(r'backbone/stem/conv/kernel', (f'{stem}.weight', _TO_HWIO, ('channels',)))]
    leaves = {'scale': 'weight', 'bias': 'bias'}
    for i, block in enumerate(blocks, 1):
        ours = rf'backbone/layer_{i}_(\d+)'
        rules.append((rf'{ours}/conv_(\d)/kernel', (rf'{block}.conv\2.weight', _TO_HWIO)))
        rules.append((f'{ours}/shortcut/kernel', (f'{block}.downsample.conv.weight', _TO_HWIO)))
        rules += [(rf'{ours}/norm_(\d)/{leaf}', rf'{block}.norm\2.{theirs}') for leaf, theirs in leaves.items()]
    return rules + [(f'backbone/norm/norm/{leaf}', f'{norm}.{theirs}') for leaf, theirs in leaves.items()]


def _table(name: str, detect: tuple[str, ...], rules: list[tuple[str, Any]], head: list[Any], shapes: Shapes = ()) -> NameTable:
    return NameTable(
        name=name,
        detect=detect,
        shapes=shapes,
        rules=as_rules(rules, optional=True, origin=name),
        head=as_rules(head, optional=True, origin=name),
    )
