"""ConvNeXt T, S and B: a ResNet in the manner of a vision transformer (7 x 7 depthwise convolutions, LayerNorm, GELU, layer scale).

Source: Liu et al. 2022, A ConvNet for the 2020s, and its code (facebookresearch/ConvNeXt).
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.tables import NameTable, without
from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights
from jtl.models.layers import DepthwiseConv, stochastic_depth
from jtl.models.preprocessing import Preprocessing, for_channels
from jtl.rules import as_rules

EPSILON = 1e-6
_init = nn.initializers.truncated_normal(0.02)


class Stem(nn.Module):
    """Convolution of disjoint patches of 4 x 4 pixels, LayerNorm. `image` (B,H,W,C) to `map` (B, H // 4, W // 4, channels)."""

    channels: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of `image`."""
        rest = {name: value for name, value in features.items() if name != 'image'}
        return rest | {'map': _norm(self, 'norm')(_patches(self, self.channels, 4, 'conv')(features['image']))}


class Downsample(nn.Module):
    """LayerNorm, convolution of disjoint patches of 2 x 2. `map` (B,H,W,C) to `map` (B, H // 2, W // 2, channels)."""

    channels: int
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        return features | {'map': _patches(self, self.channels, 2, 'conv')(_norm(self, 'norm')(features['map']))}


class Block(nn.Module):
    """7 x 7 depthwise convolution, LayerNorm, dense to four times the channels, GELU, dense back, scaled and added. `map` to `map`.

    Attributes:
      layer_scale: start of the factors on the branch, `layer_scale` (C,); 0 leaves them out.
      drop_rate: stochastic depth, the chance that training skips this block for an example.
    """

    layer_scale: float = 1e-6
    drop_rate: float = 0.0
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        x = features['map'].astype(self.dtype)
        channels = x.shape[-1]
        kinds: dict[str, Any] = {'kernel_init': _init, 'dtype': self.dtype, 'param_dtype': self.param_dtype}
        y = _norm(self, 'norm')(DepthwiseConv(7, padding=3, use_bias=True, name='depthwise', **kinds)(x))
        y = nn.gelu(nn.Dense(4 * channels, name='expand', **kinds)(y), approximate=False)
        y = nn.Dense(channels, name='project', **kinds)(y)
        if self.layer_scale:
            init = nn.initializers.constant(self.layer_scale)
            y = y * self.param('layer_scale', init, (channels,), self.param_dtype).astype(self.dtype)
        if mode.train and self.drop_rate:
            y = stochastic_depth(self, y, self.drop_rate)
        return features | {'map': x + y}


class PooledNorm(nn.Module):
    """LayerNorm of the mean of `map`: `pooled` (B,C) beside `map`."""

    epsilon: float = EPSILON
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `pooled`."""
        return features | {'pooled': _norm(self, 'layer_norm', self.epsilon)(features['map'].mean(axis=(1, 2)))}


def _norm(module: Any, name: str, epsilon: float = EPSILON) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon, dtype=module.dtype, param_dtype=module.param_dtype, name=name)


def _patches(module: Any, channels: int, side: int, name: str) -> nn.Conv:
    return nn.Conv(
        channels,
        (side, side),
        strides=(side, side),
        padding='VALID',
        kernel_init=_init,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def convnext(
    *,
    depths: tuple[int, ...] = (3, 3, 9, 3),
    width: int = 96,
    layer_scale: float = 1e-6,
    stochastic_depth: float = 0.0,
    epsilon: float = EPSILON,
    short_side: int = 236,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """ConvNeXt; the features are `map` (B, H // 32, W // 32, C) and `pooled` (B, C), the normed mean of it; C is 768, or 1024 for B.

    Stages: `stem`, the blocks `layer_1_0`, `layer_1_1`, ..., with `downsample_2`, `downsample_3`, `downsample_4` before their
    groups, and `norm` (tail).

    Args:
      depths: blocks of each group; each but the first follows a halving of the map and has twice the channels.
      width: channels of the first group.
      layer_scale: start of the learnt factors on every branch; 0: without them.
      stochastic_depth: chance that training skips the last block, falling linearly to 0 at the first; the originals trained with
        0.1 (T), 0.4 (S) and 0.5 (B).
      epsilon: of the last norm. Hugging Face's runs with 1e-12, whatever the weights were trained with.
      short_side: to which torchvision resizes pictures before its crop of 224, for its weights.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range; from `inputs`, a picture smaller than the strides.
    """
    if not depths or min(*depths, width) < 1 or short_side < 224:
        raise UserError(
            f'model: a ConvNeXt needs depths and width of at least 1 and a short_side from 224, found {depths}, {width} and {short_side}.'
        )
    if layer_scale < 0 or epsilon <= 0 or not 0 <= stochastic_depth < 1:
        raise UserError(
            'model: a ConvNeXt needs layer_scale from 0, epsilon above 0 and stochastic_depth in [0, 1), '
            f'found {layer_scale}, {epsilon} and {stochastic_depth}.'
        )
    kinds: dict[str, Any] = {'dtype': dtype, 'param_dtype': param_dtype}
    stages, block, last = [Stage('stem', partial(Stem, width, **kinds))], 0, max(sum(depths) - 1, 1)
    for i, depth in enumerate(depths):
        if i:
            stages.append(Stage(f'downsample_{i + 1}', partial(Downsample, width * 2**i, **kinds)))
        for j in range(depth):
            stages.append(Stage(f'layer_{i + 1}_{j}', partial(Block, layer_scale, stochastic_depth * block / last, **kinds)))
            block += 1
    stages.append(Stage('norm', partial(PooledNorm, epsilon, **kinds), tail=True))
    stride = 4 * 2 ** (len(depths) - 1)

    def inputs(size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        if min(size) < stride:
            raise UserError(f'model.image_size is {size[0]} x {size[1]}, but this ConvNeXt needs at least {stride} pixels a side.')
        return {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)}

    fb = for_channels(FB, image_channels)
    torchvision = for_channels(Preprocessing((224, 224), FB.mean, FB.std, interpolation='bilinear', crop=224 / short_side), image_channels)
    hugging_face = _hugging_face(len(depths))
    weights = (
        Weights(_torchvision(len(depths)), torchvision, licence='BSD-3-Clause'),
        Weights(_timm(len(depths)), fb, licence='Apache-2.0'),
        Weights(_original(len(depths)), fb, licence='MIT'),
        Weights(hugging_face, fb, licence='Apache-2.0'),
        Weights(without(hugging_face, 'convnext.'), fb, licence='Apache-2.0'),
    )
    return Model(Backbone(stages=tuple(stages)), inputs, fb, weights)


# The original's ImageNet-1k weights, also in timm (fb_in1k) and transformers (facebook/convnext-*-224): short side to 256, the middle 224.
FB = Preprocessing((224, 224), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), interpolation='bicubic', crop=224 / 256)

# torchvision resizes for each variant to another short side.
convnext_tiny = partial(convnext, depths=(3, 3, 9, 3), width=96, short_side=236)
convnext_small = partial(convnext, depths=(3, 3, 27, 3), width=96, short_side=230)
convnext_base = partial(convnext, depths=(3, 3, 27, 3), width=128, short_side=232)


Rules = list[tuple[str, Any]]
_TO_HWIO = ('transpose', 2, 3, 1, 0)
_TO_IN_OUT = ('transpose', 1, 0)


def _torchvision(groups: int) -> NameTable:
    rules = _conv('stem/conv', 'features.0.0', ('channels',)) + _affine('stem/norm', 'features.0.1')
    for i in range(groups):
        if i:
            rules += _affine(f'downsample_{i + 1}/norm', f'features.{2 * i}.0') + _conv(f'downsample_{i + 1}/conv', f'features.{2 * i}.1')
        at = rf'features.{2 * i + 1}.\1'
        parts = (f'{at}.block.0', f'{at}.block.2', f'{at}.block.3', f'{at}.block.5')
        rules += _block(i, parts, (f'{at}.layer_scale', ('reshape', -1)))
    return _table('torchvision ConvNeXt', ('features.0.0.weight', 'features.1.0.block.0.weight'), rules, 'classifier.0', 'classifier.2')


def _timm(groups: int) -> NameTable:
    rules = _conv('stem/conv', 'stem.0', ('channels',)) + _affine('stem/norm', 'stem.1')
    for i in range(groups):
        if i:
            rules += _affine(f'downsample_{i + 1}/norm', f'stages.{i}.downsample.0')
            rules += _conv(f'downsample_{i + 1}/conv', f'stages.{i}.downsample.1')
        at = rf'stages.{i}.blocks.\1'
        rules += _block(i, (f'{at}.conv_dw', f'{at}.norm', f'{at}.mlp.fc1', f'{at}.mlp.fc2'), f'{at}.gamma')
    return _table('timm ConvNeXt', ('stem.0.weight', 'stages.0.blocks.0.conv_dw.weight'), rules, 'head.norm', 'head.fc')


def _original(groups: int) -> NameTable:
    rules = _conv('stem/conv', 'downsample_layers.0.0', ('channels',)) + _affine('stem/norm', 'downsample_layers.0.1')
    for i in range(groups):
        if i:
            rules += _affine(f'downsample_{i + 1}/norm', f'downsample_layers.{i}.0')
            rules += _conv(f'downsample_{i + 1}/conv', f'downsample_layers.{i}.1')
        at = rf'stages.{i}.\1'
        rules += _block(i, (f'{at}.dwconv', f'{at}.norm', f'{at}.pwconv1', f'{at}.pwconv2'), f'{at}.gamma')
    return _table('ConvNeXt', ('downsample_layers.0.0.weight', 'stages.0.0.dwconv.weight'), rules, 'norm', 'head')


def _hugging_face(groups: int) -> NameTable:
    start = 'convnext.embeddings'
    rules = _conv('stem/conv', f'{start}.patch_embeddings', ('channels',)) + _affine('stem/norm', f'{start}.layernorm')
    for i in range(groups):
        stage = f'convnext.encoder.stages.{i}'
        if i:
            rules += _affine(f'downsample_{i + 1}/norm', f'{stage}.downsampling_layer.0')
            rules += _conv(f'downsample_{i + 1}/conv', f'{stage}.downsampling_layer.1')
        at = rf'{stage}.layers.\1'
        rules += _block(i, (f'{at}.dwconv', f'{at}.layernorm', f'{at}.pwconv1', f'{at}.pwconv2'), f'{at}.layer_scale_parameter')
    detect = (f'{start}.patch_embeddings.weight', 'convnext.encoder.stages.0.layers.0.dwconv.weight')
    return _table('transformers ConvNeXt', detect, rules, 'convnext.layernorm', 'classifier')


def _table(name: str, detect: tuple[str, ...], rules: Rules, norm: str, head: str) -> NameTable:
    output = [(r'heads/[^/]+/output/kernel', (f'{head}.weight', _TO_IN_OUT)), (r'heads/[^/]+/output/bias', f'{head}.bias')]
    return NameTable(
        name=name,
        detect=detect,
        rules=as_rules(rules + _affine('norm/layer_norm', norm), optional=True, origin=name),
        head=as_rules(output, optional=True, origin=name),
    )


def _block(i: int, keys: tuple[str, str, str, str], scale: Any) -> Rules:
    """Rules for the blocks of group `i`: keys of depthwise convolution, norm and both dense layers, and that of the layer scale."""
    path = rf'layer_{i + 1}_(\d+)'
    depthwise, norm, expand, project = keys
    rules = _conv(f'{path}/depthwise', depthwise) + _affine(f'{path}/norm', norm)
    for name, key in (('expand', expand), ('project', project)):
        rules += [(f'backbone/{path}/{name}/kernel', (f'{key}.weight', _TO_IN_OUT)), (f'backbone/{path}/{name}/bias', f'{key}.bias')]
    return [*rules, (f'backbone/{path}/layer_scale', scale)]


def _conv(path: str, key: str, *more: tuple[Any, ...]) -> Rules:
    return [(f'backbone/{path}/kernel', (f'{key}.weight', _TO_HWIO, *more)), (f'backbone/{path}/bias', f'{key}.bias')]


def _affine(path: str, key: str) -> Rules:
    return [(f'backbone/{path}/scale', f'{key}.weight'), (f'backbone/{path}/bias', f'{key}.bias')]
