"""Layers that several families share."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def depthwise_conv(x: Float[Array, 'b h w c'], kernel: Float[Array, 'k l 1 c'], stride: int = 1) -> Float[Array, 'b h2 w2 c']:
    """Convolve every channel with its own kernel, with SAME padding as TensorFlow has it (the odd pixel goes below and right).

    XLA computes a grouped convolution well on GPUs and TPUs. On CPUs it has no good code for it: there, k x l shifted
    multiply-adds, which it fuses into one loop, give equal numbers 9 to 40 times faster forward, and backward 4 to 60 times
    (input) and 1 to 60 times (kernel), depending on the shape. EfficientNet-Lite0 on 16 images of 128 pixels: 6 times faster
    forward, 4 times for a training step, which takes twice as long to compile (2 cores).
    The form is chosen where the program is lowered, so that compiling for a TPU on a machine without one takes the right one.

    Args:
      x: any floating dtype, which the result has too.
      kernel: of the same dtype, laid out as `nn.Conv(feature_group_count=c)` does.
      stride: of both axes.
    """
    return lax.platform_dependent(x, kernel, cpu=lambda x, k: _shifted(x, k, stride), default=lambda x, k: _grouped(x, k, stride))


def _grouped(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[-1]
    )


def _shifted(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    rows, cols = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)  # as a convolution does, sum in float32 and round once
    (height, *pad_h), (width, *pad_w) = _same(x.shape[1], rows, stride), _same(x.shape[2], cols, stride)
    padded = jnp.pad(x, ((0, 0), pad_h, pad_w, (0, 0))).astype(wide)
    taps = kernel[:, :, 0].astype(wide)
    out = jnp.zeros((), wide)
    for i in range(rows):
        for j in range(cols):
            out += taps[i, j] * padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
    return out.astype(x.dtype)


def _same(size: int, kernel: int, stride: int) -> tuple[int, int, int]:
    """Of one axis under SAME padding: the size of the output, and the padding before and after."""
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, total // 2, total - total // 2


class DepthwiseConv(nn.Module):
    """A depthwise convolution without bias, SAME padding. (B,H,W,C) -> (B, H / stride, W / stride, C), rounded up, of `dtype`.

    Its parameter is that of `nn.Conv(C, ..., feature_group_count=C)`: `kernel` (k, k, 1, C).
    """

    kernel_size: int
    stride: int = 1
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
        """The convolved maps."""
        kernel = self.param('kernel', self.kernel_init, (self.kernel_size, self.kernel_size, 1, x.shape[-1]), self.param_dtype)
        return depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)


def stochastic_depth(module: nn.Module, x: Float[Array, 'b ...'], rate: float) -> Float[Array, 'b ...']:
    """Zero `x` for a random `rate` of the examples, and scale up the others, so that the expectation stays.

    For the branch of a residual block, in training. The key is the 'dropout' stream at the module's path.
    Source: Huang et al. 2016, Deep Networks with Stochastic Depth.
    """
    keep = jax.random.bernoulli(module.make_rng('dropout'), 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
