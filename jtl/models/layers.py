"""Layers that several families share."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import Initializer
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jtl.models.base import Mode

Padding = str | int
"""'SAME' as TensorFlow has it (the odd pixel goes below and right), 'VALID', or so many zeros on every side, as PyTorch has it."""


def depthwise_conv(
    x: Float[Array, 'b h w c'], kernel: Float[Array, 'k l 1 c'], stride: int = 1, padding: Padding = 'SAME'
) -> Float[Array, 'b h2 w2 c']:
    """Convolve every channel with its own kernel.

    XLA computes a grouped convolution well on GPUs and TPUs. On CPUs it has no good code for it: there, k x l shifted
    multiply-adds, which it fuses into one loop, give equal numbers 9 to 40 times faster forward, and backward 4 to 60 times
    (input) and 1 to 60 times (kernel), depending on the shape. EfficientNet-Lite0 on 16 images of 128 pixels: 6 times faster
    forward, 4 times for a training step, which takes twice as long to compile (2 cores).
    The form is chosen where the program is lowered, so that compiling for a TPU on a machine without one takes the right one.

    Args:
      x: any floating dtype, which the result has too.
      kernel: of the same dtype, laid out as `nn.Conv(feature_group_count=c)` does.
      stride: of both axes.
      padding: see `Padding`.
    """
    return lax.platform_dependent(
        x, kernel, cpu=lambda x, k: _shifted(x, k, stride, padding), default=lambda x, k: _grouped(x, k, stride, padding)
    )


def _grouped(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), pads(padding), dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=x.shape[-1]
    )


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    rows, cols = kernel.shape[:2]
    wide = jnp.promote_types(x.dtype, jnp.float32)  # as a convolution does, sum in float32 and round once
    (height, *pad_h), (width, *pad_w) = _extent(x.shape[1], rows, stride, padding), _extent(x.shape[2], cols, stride, padding)
    padded = jnp.pad(x, ((0, 0), pad_h, pad_w, (0, 0))).astype(wide)
    taps = kernel[:, :, 0].astype(wide)
    out = jnp.zeros((), wide)
    for i in range(rows):
        for j in range(cols):
            out += taps[i, j] * padded[:, i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
    return out.astype(x.dtype)


def pads(padding: Padding) -> str | tuple[tuple[int, int], tuple[int, int]]:
    """The padding as `nn.Conv`, `nn.max_pool` and `lax` take it."""
    return padding if isinstance(padding, str) else ((padding, padding), (padding, padding))


def _extent(size: int, kernel: int, stride: int, padding: Padding) -> tuple[int, int, int]:
    """Of one axis: the size of the output, and the padding before and after."""
    if padding != 'SAME':
        each = 0 if isinstance(padding, str) else padding
        return (size + 2 * each - kernel) // stride + 1, each, each
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)
    return out, total // 2, total - total // 2


class DepthwiseConv(nn.Module):
    """A depthwise convolution. (B,H,W,C) -> (B,H',W',C) of `dtype`; with SAME padding H' is H / stride, rounded up.

    Its parameters are those of `nn.Conv(C, ..., feature_group_count=C)`: `kernel` (k, k, 1, C) and, where asked for, `bias` (C,).
    """

    kernel_size: int
    stride: int = 1
    padding: Padding = 'SAME'
    use_bias: bool = False
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h2 w2 c']:
        """The convolved maps."""
        kernel = self.param('kernel', self.kernel_init, (self.kernel_size, self.kernel_size, 1, x.shape[-1]), self.param_dtype)
        y = depthwise_conv(x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding)
        if self.use_bias:
            y += self.param('bias', nn.initializers.zeros, (x.shape[-1],), self.param_dtype).astype(self.dtype)
        return y


def batch_norm(
    module: Any,
    mode: Mode,
    name: str,
    *,
    epsilon: float = 1e-5,
    use_scale: bool = True,
    scale_init: Initializer = nn.initializers.ones,
) -> nn.BatchNorm:
    """A BatchNorm inside `module`, whose `bn_momentum`, `dtype` and `param_dtype` it takes, as `mode` has it."""
    return nn.BatchNorm(
        use_running_average=not mode.batch_statistics,
        momentum=module.bn_momentum,
        epsilon=epsilon,
        use_scale=use_scale,
        scale_init=scale_init,
        dtype=module.dtype,
        param_dtype=module.param_dtype,
        name=name,
    )


class SqueezeExcite(nn.Module):
    """Channels weighted by what the whole map holds: mean, dense to `reduced`, `activation`, dense, `gate`. (B,H,W,C) -> (B,H,W,C).

    Parameters: `reduce` and `expand`, each `kernel` and `bias`. Source: Hu et al. 2018, Squeeze-and-Excitation Networks.
    """

    reduced: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    gate: Callable[[jax.Array], jax.Array] = nn.sigmoid
    dtype: DTypeLike = jnp.float32
    param_dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b h w c']:
        """The weighted map."""
        kinds: dict[str, Any] = {'dtype': self.dtype, 'param_dtype': self.param_dtype}
        s = self.activation(nn.Dense(self.reduced, name='reduce', **kinds)(x.mean(axis=(1, 2))))
        return x * self.gate(nn.Dense(x.shape[-1], name='expand', **kinds)(s))[:, None, None]


def stochastic_depth(module: nn.Module, x: Float[Array, 'b ...'], rate: float) -> Float[Array, 'b ...']:
    """Zero `x` for a random `rate` of the examples, and scale up the others, so that the expectation stays.

    For the branch of a residual block, in training. The key is the 'dropout' stream at the module's path.
    Source: Huang et al. 2016, Deep Networks with Stochastic Depth.
    """
    keep = jax.random.bernoulli(module.make_rng('dropout'), 1 - rate, (len(x),) + (1,) * (x.ndim - 1))
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
