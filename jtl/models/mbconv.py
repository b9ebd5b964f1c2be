"""Inverted bottlenecks and the convolutions around them, which EfficientNet-Lite, EfficientNet and MobileNetV3 share.

Sources: Sandler et al. 2018, MobileNetV2: Inverted Residuals and Linear Bottlenecks; with squeeze-and-excite: Tan et al. 2019, MnasNet.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.models.base import EVAL, Features, Mode, take_map
from jtl.models.layers import DepthwiseConv, Padding, batch_norm, pads, stochastic_depth


class Lineage(NamedTuple):
    """What differs between implementations of one architecture though their checkpoints have the same keys.

    Attributes:
      same: SAME padding as TensorFlow has it (uneven where a stride meets an even side), else so many zeros on every side.
      epsilon: of BatchNorm.
    """

    same: bool
    epsilon: float

    def padding(self, kernel: int) -> Padding:
        """Of a convolution with this kernel."""
        return 'SAME' if self.same else kernel // 2


TENSORFLOW = Lineage(same=True, epsilon=1e-3)
TORCH = Lineage(same=False, epsilon=1e-5)

# He initialisation by fan-out, as the originals train from; a depthwise kernel's fan is its k * k taps alone.
_conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
_depthwise_init = nn.initializers.variance_scaling(2.0, 'fan_in', 'normal')


class ConvBN(nn.Module):
    """Convolution without bias, BatchNorm, activation. Reads `image` or `map` (B,H,W,C); gives `map` (B, H / stride, W / stride, channels)."""

    channels: int
    activation: Callable[[jax.Array], jax.Array]
    kernel: int = 1
    stride: int = 1
    lineage: Lineage = TENSORFLOW
    bn_momentum: float = 0.99
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with `map` in the place of what was read."""
        x, rest = take_map(features)
        x = _conv(self, self.channels, 'conv', self.kernel, self.stride)(x)
        return rest | {'map': self.activation(_bn(self, mode, 'bn')(x))}


class InvertedBottleneck(nn.Module):
    """Expand, depthwise convolution, squeeze-and-excite, project; the input is added where the shape allows. `map` to `map`.

    Attributes:
      channels: of the output.
      expanded: channels between; where the input has as many, nothing is expanded.
      activation: after the expansion and after the depthwise convolution.
      squeeze_excite: makes the module between depthwise convolution and projection; None leaves it out.
      drop_rate: stochastic depth, the chance that training skips this block for an example.
    """

    channels: int
    expanded: int
    activation: Callable[[jax.Array], jax.Array]
    kernel: int = 3
    stride: int = 1
    squeeze_excite: Callable[..., nn.Module] | None = None
    drop_rate: float = 0.0
    lineage: Lineage = TENSORFLOW
    bn_momentum: float = 0.99
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, features: Features, mode: Mode = EVAL) -> Features:
        """`features` with the new `map`."""
        x = y = features['map'].astype(self.dtype)
        if self.expanded != x.shape[-1]:
            y = self.activation(_bn(self, mode, 'expand_bn')(_conv(self, self.expanded, 'expand')(y)))
        depthwise = DepthwiseConv(
            self.kernel,
            self.stride,
            self.lineage.padding(self.kernel),
            kernel_init=_depthwise_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name='depthwise',
        )
        y = self.activation(_bn(self, mode, 'depthwise_bn')(depthwise(y)))
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(dtype=self.dtype, param_dtype=self.param_dtype, name='squeeze_excite')(y)
        y = _bn(self, mode, 'project_bn')(_conv(self, self.channels, 'project')(y))
        if self.stride == 1 and x.shape[-1] == self.channels:
            if mode.train and self.drop_rate:
                y = stochastic_depth(self, y, self.drop_rate)
            y = y + x
        return features | {'map': y}


def round_channels(channels: float) -> int:
    """The nearest multiple of 8 that is not more than a tenth below."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def _conv(module: ConvBN | InvertedBottleneck, channels: int, name: str, kernel: int = 1, stride: int = 1) -> nn.Conv:
    return nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding=pads(module.lineage.padding(kernel)),
        use_bias=False,
        kernel_init=_conv_init,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


def _bn(module: ConvBN | InvertedBottleneck, mode: Mode, name: str) -> nn.BatchNorm:
    return batch_norm(module, mode, name, epsilon=module.lineage.epsilon)
