"""ResNet 18 to 152: as PyTorch, timm and Hugging Face have them (v1.5), and as Keras has them (v1).

Sources: He et al. 2016, Deep Residual Learning for Image Recognition. v1.5 moves the stride of a bottleneck from its first 1 x 1
convolution to the 3 x 3 (Gross & Wilber 2016, the Torch implementation). Goyal et al. 2017, Accurate, Large Minibatch SGD, for the
last scale of a block that starts at zero.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.checkpoint.tables import without
from jtl.errors import UserError
from jtl.models import resnet_names as names
from jtl.models.base import EVAL, Backbone, Features, Mode, Model, Stage, Weights, weights_for_channels
from jtl.models.layers import batch_norm, pads
from jtl.models.preprocessing import Preprocessing, for_channels

# He initialisation by fan-out, as torchvision and the original train from.
_conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')


class Stem(nn.Module):
    """7 x 7 convolution with stride 2, BatchNorm, ReLU, 3 x 3 max-pool with stride 2. `image` to `map` (B, H / 4, W / 4, channels), rounded up.

    Attributes:
      channels: of the output.
      bias: the convolution has one, although BatchNorm takes it away (Keras).
    """

    channels: int
    bias: bool = False
    epsilon: float = 1e-5
    bn_momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of `image`."""
        rest = {name: value for name, value in features.items() if name != 'image'}
        x = _conv(self, self.channels, 7, 2, 'conv')(features['image'])
        x = nn.relu(batch_norm(self, mode, 'bn', epsilon=self.epsilon)(x))
        return rest | {'map': nn.max_pool(x, (3, 3), (2, 2), pads(1))}


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions, or a bottleneck of 1 x 1, 3 x 3 and 1 x 1. `map` to `map`.

    Where the shape changes, the input is added through a 1 x 1 convolution with BatchNorm, else as it is.

    Attributes:
      channels: of the convolutions; the last one of a bottleneck has four times as many.
      stride: of the block.
      bottleneck: the kind.
      stride_first: the first convolution of a bottleneck has the stride (v1), else the second (v1.5).
      zero_init: the last BatchNorm's scale starts at zero, so that the block starts as its shortcut.
      bias: the convolutions have one, although BatchNorm takes it away (Keras).
    """

    channels: int
    stride: int = 1
    bottleneck: bool = True
    stride_first: bool = False
    zero_init: bool = True
    bias: bool = False
    epsilon: float = 1e-5
    bn_momentum: float = 0.9
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        x = y = features['map'].astype(self.dtype)
        out = 4 * self.channels if self.bottleneck else self.channels
        convs = ((self.channels, 1), (self.channels, 3), (out, 1)) if self.bottleneck else ((out, 3), (out, 3))
        strided = 1 if self.bottleneck and not self.stride_first else 0
        norm = partial(batch_norm, self, mode, epsilon=self.epsilon)
        for i, (channels, kernel) in enumerate(convs):
            last = i == len(convs) - 1
            y = _conv(self, channels, kernel, self.stride if i == strided else 1, f'conv_{i + 1}')(y)
            y = norm(f'bn_{i + 1}', scale_init=nn.initializers.zeros if last and self.zero_init else nn.initializers.ones)(y)
            y = y if last else nn.relu(y)
        if self.stride != 1 or x.shape[-1] != out:
            x = norm('shortcut_bn')(_conv(self, out, 1, self.stride, 'shortcut')(x))
        return features | {'map': nn.relu(x + y)}


def _conv(module: Stem | Block, channels: int, kernel: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=pads(kernel // 2),
        use_bias=module.bias,
        kernel_init=_conv_init,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


# torchvision's IMAGENET1K_V1: short side to 256, the middle 224.
IMAGENET = Preprocessing(size=(224, 224), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), crop=224 / 256)
# microsoft/resnet-18 to -152 (timm's a1 weights, with the image processor of ConvNeXt).
HUGGING_FACE = Preprocessing(
    size=(224, 224), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), interpolation='bicubic', crop=224 / 256
)
# The weights that He et al. trained in Caffe: no scale, BGR; one crop of 224 out of a short side of 256.
KERAS = Preprocessing(size=(224, 224), mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0), channels='BGR', crop=224 / 256)


def resnet(
    *,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    bottleneck: bool = True,
    width: int = 64,
    stride_first: bool = False,
    zero_init_residual: bool = True,
    bn_momentum: float = 0.9,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """ResNet v1.5; the features are `map` (B, H / 32, W / 32, C) of `dtype`, sides rounded up, for any image size; C is 512 or 2048.

    Stages: `stem`, then each residual block, `layer_1_0`, `layer_1_1`, ... `layer_4_2`, as PyTorch counts them: a block is the
    smallest unit that a cut may lie behind.

    torchvision and timm write the same keys; files of both get the preprocessing of torchvision's IMAGENET1K_V1. timm's own weights
    want bicubic interpolation and a larger crop (resnet50.a1_in1k: 0.95), which `config.preprocessing` can say.

    Args:
      depths: blocks of each group; the first group keeps the size of the map, each later one halves it.
      bottleneck: blocks of three convolutions (50 layers and more), else of two.
      width: channels of the stem and of the first group's convolutions; each later group has twice as many.
      stride_first: v1, the first convolution of a bottleneck has the stride; such weights have the same keys.
      zero_init_residual: a new block starts as its shortcut (Goyal et al. 2017). Only weights that start new are concerned.
      bn_momentum: the part of the running statistics that a training step keeps.
      image_channels: 1 (grey), 3 (colour) or another count; the first kernel of a checkpoint is fitted.
      dtype: of the computation.
      param_dtype: of the parameters.

    Raises:
      UserError: an option out of its range.
    """
    torch, flax = names.hugging_face(len(depths)), names.hugging_face_flax(len(depths), bottleneck)
    weights = (
        Weights(names.TORCH, IMAGENET),  # torchvision's are BSD-3-Clause, timm's Apache-2.0
        *(
            Weights(table, HUGGING_FACE, licence='Apache-2.0')
            for table in (torch, without(torch, 'resnet.'), flax, without(flax, 'resnet/'))
        ),
    )
    kinds: dict[str, Any] = {'bn_momentum': bn_momentum, 'dtype': dtype, 'param_dtype': param_dtype}
    block = partial(Block, bottleneck=bottleneck, stride_first=stride_first, zero_init=zero_init_residual, **kinds)
    return _model(depths, width, image_channels, bn_momentum, partial(Stem, **kinds), block, IMAGENET, weights)


def keras_resnet(
    *,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    width: int = 64,
    zero_init_residual: bool = True,
    bn_momentum: float = 0.99,
    image_channels: int = 3,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> Model:
    """ResNet as keras.applications has it (v1): of bottlenecks with the stride in the first convolution, biases, and its own epsilon.

    Features, stages, options and errors are those of `resnet`. Reads Keras's `.h5`, `.weights.h5` and `.keras`. Its pictures are BGR.
    """
    weights = (Weights(names.keras(depths), KERAS, licence='MIT'), Weights(names.keras_by_place(depths, width), KERAS, licence='MIT'))
    kinds: dict[str, Any] = {'bias': True, 'epsilon': 1.001e-5, 'bn_momentum': bn_momentum, 'dtype': dtype, 'param_dtype': param_dtype}
    block = partial(Block, stride_first=True, zero_init=zero_init_residual, **kinds)
    return _model(depths, width, image_channels, bn_momentum, partial(Stem, **kinds), block, KERAS, weights)


def _model(
    depths: tuple[int, ...],
    width: int,
    image_channels: int,
    bn_momentum: float,
    stem: partial[Stem],
    block: partial[Block],
    preprocessing: Preprocessing,
    weights: tuple[Weights, ...],
) -> Model:
    if not depths or min(*depths, width) < 1:
        raise UserError(f'model: a ResNet needs depths and width of at least 1, found depths={depths} and width={width}.')
    if not 0 <= bn_momentum <= 1:
        raise UserError(f'model.bn_momentum must lie in [0, 1], found {bn_momentum}.')
    preprocessing = for_channels(preprocessing, image_channels)
    stages = [Stage('stem', partial(stem, width))]
    for i, depth in enumerate(depths):
        stages += [Stage(f'layer_{i + 1}_{j}', partial(block, width * 2**i, stride=2 if i and not j else 1)) for j in range(depth)]
    return Model(
        backbone=Backbone(stages=tuple(stages)),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, image_channels), jnp.float32)},
        preprocessing=preprocessing,
        weights=weights_for_channels(weights, image_channels),
    )


resnet18 = partial(resnet, depths=(2, 2, 2, 2), bottleneck=False)
resnet34 = partial(resnet, depths=(3, 4, 6, 3), bottleneck=False)
resnet50 = partial(resnet, depths=(3, 4, 6, 3))
resnet101 = partial(resnet, depths=(3, 4, 23, 3))
resnet152 = partial(resnet, depths=(3, 8, 36, 3))

keras_resnet50 = partial(keras_resnet, depths=(3, 4, 6, 3))
keras_resnet101 = partial(keras_resnet, depths=(3, 4, 23, 3))
keras_resnet152 = partial(keras_resnet, depths=(3, 8, 36, 3))
