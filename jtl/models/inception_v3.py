"""Inception v3: torchvision's and timm's, and Keras's, which has no scales in its norms and averages without counting the padding.

Source: Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision. Stages and branches are called as in the
TensorFlow original and in torchvision. The auxiliary classifier, which only training from scratch used, is left out.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.adapt import NameTable
from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights, take_map, weights_for_channels
from jtl.models.layers import batch_norm
from jtl.models.preprocessing import Preprocessing
from jtl.rules import as_rules


class Conv(NamedTuple):
    """A convolution, BatchNorm and ReLU. Strided ones are not padded, nor those that are `valid`."""

    name: str
    channels: int
    kernel: tuple[int, int]
    stride: int = 1
    valid: bool = False


Step = Conv | tuple[Conv, ...] | Literal['average', 'max']
"""Of a branch: a convolution, several side by side, a 3 x 3 average that keeps the size, or a 3 x 3 maximum with stride 2."""

Branches = tuple[tuple[Step, ...], ...]

_conv_init = nn.initializers.truncated_normal(0.1)  # as the original trains from


def _chain(name: str, *convs: tuple[int, int, int], stride: int = 1) -> tuple[Conv, ...]:
    """Convolutions (channels, height, width) in a row, numbered from 1; the last one strides."""
    last = len(convs)
    return tuple(Conv(f'{name}_{k}', c, (h, w), stride if k == last else 1) for k, (c, h, w) in enumerate(convs, 1))


def _mixed_5(pool: int) -> Branches:
    return (
        (Conv('branch1x1', 64, (1, 1)),),
        _chain('branch5x5', (48, 1, 1), (64, 5, 5)),
        _chain('branch3x3dbl', (64, 1, 1), (96, 3, 3), (96, 3, 3)),
        ('average', Conv('branch_pool', pool, (1, 1))),
    )


def _mixed_6(inner: int) -> Branches:
    return (
        (Conv('branch1x1', 192, (1, 1)),),
        _chain('branch7x7', (inner, 1, 1), (inner, 1, 7), (192, 7, 1)),
        _chain('branch7x7dbl', (inner, 1, 1), (inner, 7, 1), (inner, 1, 7), (inner, 7, 1), (192, 1, 7)),
        ('average', Conv('branch_pool', 192, (1, 1))),
    )


def _mixed_7() -> Branches:
    def split(name: str) -> tuple[Conv, Conv]:
        return Conv(f'{name}a', 384, (1, 3)), Conv(f'{name}b', 384, (3, 1))

    return (
        (Conv('branch1x1', 320, (1, 1)),),
        (*_chain('branch3x3', (384, 1, 1)), split('branch3x3_2')),
        (*_chain('branch3x3dbl', (448, 1, 1), (384, 3, 3)), split('branch3x3dbl_3')),
        ('average', Conv('branch_pool', 192, (1, 1))),
    )


STEM: dict[str, Branches] = {
    'conv_1a': ((Conv('conv', 32, (3, 3), stride=2),),),
    'conv_2a': ((Conv('conv', 32, (3, 3), valid=True),),),
    'conv_2b': ((Conv('conv', 64, (3, 3)), 'max'),),
    'conv_3b': ((Conv('conv', 80, (1, 1)),),),
    'conv_4a': ((Conv('conv', 192, (3, 3), valid=True), 'max'),),
}
MIXED: dict[str, Branches] = {
    'mixed_5b': _mixed_5(32),
    'mixed_5c': _mixed_5(64),
    'mixed_5d': _mixed_5(64),
    'mixed_6a': (
        (Conv('branch3x3', 384, (3, 3), stride=2),),
        _chain('branch3x3dbl', (64, 1, 1), (96, 3, 3), (96, 3, 3), stride=2),
        ('max',),
    ),
    'mixed_6b': _mixed_6(128),
    'mixed_6c': _mixed_6(160),
    'mixed_6d': _mixed_6(160),
    'mixed_6e': _mixed_6(192),
    'mixed_7a': (
        _chain('branch3x3', (192, 1, 1), (320, 3, 3), stride=2),
        _chain('branch7x7x3', (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3), stride=2),
        ('max',),
    ),
    'mixed_7b': _mixed_7(),
    'mixed_7c': _mixed_7(),
}


class Module(nn.Module):
    """Branches side by side, joined along the channels. Reads `image` or `map` (B,H,W,C); gives `map`.

    Attributes:
      branches: each a row of steps. A convolution `c` has the parameters `c/kernel`, `c_bn/scale` and `c_bn/bias`.
      width: factor on all channels.
      scale: the norms have one.
      count_padding: averages at the border divide by 9, else by the number of pixels there are.
    """

    branches: Branches
    width: float = 1.0
    scale: bool = True
    count_padding: bool = True
    bn_momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of what was read."""
        x, rest = take_map(features)
        joined = []
        for branch in self.branches:
            y = x.astype(self.dtype)
            for step in branch:
                y = _step(self, step, mode, y)
            joined.append(y)
        return rest | {'map': jnp.concatenate(joined, axis=-1)}


def _step(module: Module, step: Step, mode: Mode, x: jax.Array) -> jax.Array:
    if step == 'average':
        return nn.avg_pool(x, (3, 3), padding='SAME', count_include_pad=module.count_padding)
    if step == 'max':
        return nn.max_pool(x, (3, 3), (2, 2))
    if not isinstance(step, Conv):
        return jnp.concatenate([_step(module, conv, mode, x) for conv in step], axis=-1)
    conv = nn.Conv(
        max(1, round(step.channels * module.width)),
        step.kernel,
        strides=step.stride,
        padding='VALID' if step.valid or step.stride > 1 else 'SAME',
        use_bias=False,
        kernel_init=_conv_init,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=step.name,
    )
    return nn.relu(batch_norm(module, mode, f'{step.name}_bn', epsilon=1e-3, use_scale=module.scale)(conv(x)))


def inception(
    keras: bool,
    /,
    *,
    width: float = 1.0,
    bn_momentum: float = 0.9,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """Inception v3; the features are `map` (B, h, w, 2048) of `dtype`, 8 x 8 for pictures of 299 pixels, any size from 75 on.

    Stages: `conv_1a`, `conv_2a`, `conv_2b`, `conv_3b`, `conv_4a` (with the max-pool behind it), then the modules `mixed_5b` ... `mixed_7c`.

    Args:
      keras: no scales in the norms, averages that do not count the padding; else as torchvision has it.
      width: factor on all channels.
      bn_momentum: the part of the running statistics that a training step keeps.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range; from `inputs`, a picture too small for the strides.
    """
    if width <= 0 or not 0 <= bn_momentum <= 1:
        raise UserError(f'model: Inception v3 needs width above 0 and bn_momentum in [0, 1], found {width} and {bn_momentum}.')
    kinds: dict[str, Any] = {'bn_momentum': bn_momentum, 'dtype': dtype, 'param_dtype': param_dtype}
    module = partial(Module, width=width, scale=not keras, count_padding=not keras, **kinds)
    known = weights_for_channels(KERAS if keras else TORCH, image_channels)

    def inputs(size: tuple[int, int]) -> dict[str, jax.ShapeDtypeStruct]:
        if min(size) < SMALLEST:
            raise UserError(f'model.image_size is {size[0]} x {size[1]}, but Inception v3 needs at least {SMALLEST} pixels a side.')
        return {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)}

    return Model(
        backbone=Backbone(stages=tuple(Stage(name, partial(module, branches)) for name, branches in (STEM | MIXED).items())),
        inputs=inputs,
        preprocessing=known[0].preprocessing,
        weights=known,
    )


def _table(
    name: str, detect: tuple[str, ...], rules: list[tuple[str, Any]], head: dict[str, Any], ignore: tuple[str, ...] = ()
) -> NameTable:
    classifier = [(f'heads/[^/]+/output/{leaf}', value) for leaf, value in head.items()]
    return NameTable(
        name=name,
        detect=detect,
        rules=as_rules(rules, optional=True, origin=name),
        head=as_rules(classifier, optional=True, origin=name),
        ignore=ignore,
    )


def _torch(name: str, *more: str) -> NameTable:
    """The keys of torchvision, which timm has too; with `more` keys that tell."""
    to_hwio = ('transpose', 2, 3, 1, 0)
    norm = {'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
    modules = {r'mixed_(\w+)/(branch\w+)': r'Mixed_\1.\2'}
    modules |= {
        f'conv_{layer}/conv': f'Conv2d_{layer}_{side}x{side}' for layer, side in (('1a', 3), ('2a', 3), ('2b', 3), ('3b', 1), ('4a', 3))
    }
    rules: list[tuple[str, Any]] = [('backbone/conv_1a/conv/kernel', ('Conv2d_1a_3x3.conv.weight', to_hwio, ('channels',)))]
    for path, key in modules.items():
        rules.append((f'backbone/{path}/kernel', (f'{key}.conv.weight', to_hwio)))
        rules += [(f'backbone/{path}_bn/{ours}', f'{key}.bn.{theirs}') for ours, theirs in norm.items()]
    return _table(
        name,
        ('Conv2d_1a_3x3.conv.weight', 'Mixed_5b.branch1x1.conv.weight', *more),
        rules,
        {'kernel': ('fc.weight', ('transpose', 1, 0)), 'bias': 'fc.bias'},
        (r'.*\.num_batches_tracked', r'AuxLogits\..*'),
    )


def _by_depth() -> list[str]:
    """Paths of the convolutions in the order of Keras's `model.layers`: by distance from the end, then branch by branch."""
    found = []
    for stage, branches in (STEM | MIXED).items():
        distances = {}
        for branch in branches:
            steps = [step for step in branch if not isinstance(step, str)]
            joins = any(not isinstance(step, Conv) for step in steps)  # what lies side by side is joined once more
            for place, step in enumerate(steps):
                for conv in (step,) if isinstance(step, Conv) else step:
                    distances[f'{stage}/{conv.name}'] = 3 * (len(steps) - place) + joins  # convolution, norm, ReLU
        found += sorted(distances, key=lambda path: -distances[path])
    return found


def _keras(name: str, layer: str, weights: dict[str, str], head: dict[str, str]) -> NameTable:
    """Layers that are counted.

    Args:
      name: of the table.
      layer: what stands before a layer's name.
      weights: from our leaf to the end of the key; of the head with its layer.
      head: the same of the classifier.
    """
    rules: list[tuple[str, Any]] = []
    for k, path in enumerate(_by_depth()):
        count = f'_{k}' if k else ''
        fit = () if k else (('channels',),)
        rules.append((f'backbone/{path}/kernel', (f'{layer}conv2d{count}/{weights["kernel"]}', *fit)))
        rules += [(f'backbone/{path}_bn/{leaf}', f'{layer}batch_normalization{count}/{weights[leaf]}') for leaf in ('bias', 'mean', 'var')]
    last = f'{layer}conv2d_{len(_by_depth()) - 1}/{weights["kernel"]}'
    return _table(name, (f'{layer}conv2d/{weights["kernel"]}', f'{layer}batch_normalization/{weights["bias"]}', last), rules, head)


SMALLEST = 75  # pixels a side: one less and nothing is left of the map
# Original and Keras: the middle 87.5 %, values in [-1, 1]. torchvision's IMAGENET1K_V1 says mean and std of ImageNet, but the model that
# reads these weights has transform_input=True, which maps them back: ((x - m) / s) s / 0.5 + (m - 0.5) / 0.5 = (x - 0.5) / 0.5.
_TORCHVISION = Preprocessing(size=(299, 299), crop=299 / 342)
_TIMM = Preprocessing(size=(299, 299), crop=0.875, interpolation='bicubic')  # inception_v3.tf_in1k, .tf_adv_in1k
_KERAS = Preprocessing(size=(299, 299), crop=0.875)
TORCH = (
    Weights(_torch('torchvision Inception v3', 'AuxLogits.fc.weight'), _TORCHVISION, licence='BSD-3-Clause'),
    Weights(_torch('timm Inception v3'), _TIMM, licence='Apache-2.0'),
)
KERAS = (
    Weights(
        _keras(
            'Keras Inception v3',
            '',
            {'kernel': 'kernel', 'bias': 'beta', 'mean': 'moving_mean', 'var': 'moving_variance'},
            {'kernel': 'predictions/kernel', 'bias': 'predictions/bias'},
        ),
        _KERAS,
        licence='Apache-2.0',
    ),
    Weights(
        _keras(
            'Keras Inception v3, layers counted',
            'layers/',
            {'kernel': 'vars/0', 'bias': 'vars/0', 'mean': 'vars/1', 'var': 'vars/2'},
            {'kernel': 'layers/dense/vars/0', 'bias': 'layers/dense/vars/1'},
        ),
        _KERAS,
        licence='Apache-2.0',
    ),
)
inception_v3 = partial(inception, False)
keras_inception_v3 = partial(inception, True)
