"""Mixup and cutmix: pictures of two examples in one, on the device, inside jit.

A mixed picture `w * own + (1 - w) * partner` has a weight w for each pixel: mixup's is the same everywhere (Zhang et al., "mixup: Beyond
Empirical Risk Minimization", 2018), cutmix's is 0 in a box and 1 around it (Yun et al., "CutMix", 2019). The mean weight is the example's
share in its picture, and its loss is `share * loss(own label) + (1 - share) * loss(partner's label)`: the task's own loss on labels as
they are, so that classes, several labels and values mix alike.

The partner of an example is the one before it in the global batch, the last one for the first: over several devices a row moves
between neighbours, where a reversed or shuffled batch would move whole. Shares, boxes and the choice between mixup and cutmix are drawn for
each example (timm's default draws one for a batch, its `mode='elem'` is this). The gradient is the same on average and varies less,
and every batch holds clean and mixed pictures, so that batch statistics do not swing between the two.

Pictures are mixed after normalisation. That is affine, so mixing before it would give the same, but would round.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jtl.errors import UserError
from jtl.keys import derive


@dataclass(frozen=True)
class Mixing:
    """How pictures are mixed; at least one of the two is above 0, and where both are, each example takes either with probability 1/2.

    Attributes:
      mixup, cutmix: alpha of the Beta(alpha, alpha) distribution of shares; 0.0: not this one.
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def defaults() -> dict[str, Any]:
    """Fields of the config's `augment` section."""
    return {
        'mixup': 0.0,  # blend two pictures and their losses with shares from Beta(alpha, alpha), this alpha; 0.0: none
        'cutmix': 0.0,  # paste a box of another picture, its area from Beta(alpha, alpha), this alpha; 0.0: none; both: either by chance
    }


def mixing_of(section: Mapping[str, Any]) -> Mixing | None:
    """What the config's `augment` section says, fields left out taking their default; None where nothing is mixed.

    Raises:
      UserError: an alpha that is none.
    """
    found = {name: section.get(name, default) for name, default in defaults().items()}
    for name, alpha in found.items():
        if not 0 <= alpha < math.inf:
            raise UserError(f'config.augment.{name}: alpha of a Beta distribution, at least 0.0 (none), found {alpha!r}.')
    return Mixing(**found) if any(found.values()) else None


def partners(batch: Any) -> Any:
    """Every leaf (B, ...) with the row of each example's partner in its place."""
    return jax.tree.map(lambda x: jnp.roll(x, 1, axis=0), batch)


def mix(images: Float[Array, 'b h w c'], key: Key[Array, ''], mixing: Mixing) -> tuple[Float[Array, 'b h w c'], Float[Array, ' b']]:
    """Every picture mixed with its partner's.

    Args:
      images: the global batch (or micro-batch), normalised.
      key: of this step (or micro-batch).
      mixing: at least one alpha above 0.

    Returns:
      Pictures of the same dtype, and the share (B,) float32 that each example has in its own.
    """
    b, height, width, _ = images.shape
    both = bool(mixing.mixup and mixing.cutmix)
    cut = jax.random.bernoulli(derive(key, 'cutmix'), 0.5, (b,)) if both else jnp.full((b,), bool(mixing.cutmix))
    alpha = jnp.where(cut, mixing.cutmix, mixing.mixup)
    share = symmetric_beta(derive(key, 'share'), alpha)
    weight = jnp.broadcast_to(share[:, None, None], (b, height, width))
    if mixing.cutmix:
        outside = ~boxes(derive(key, 'box'), share, (height, width))
        weight = jnp.where(cut[:, None, None], outside, weight)
    w = weight[..., None]
    mixed = w * images.astype(jnp.float32) + (1 - w) * partners(images).astype(jnp.float32)
    return mixed.astype(images.dtype), weight.mean(axis=(1, 2))


def symmetric_beta(key: Key[Array, ''], alpha: Float[Array, ' b']) -> Float[Array, ' b']:
    """Shares from Beta(alpha, alpha), each with an alpha of its own, in closed form.

    `jax.random.beta` rejects in a loop, at each turn of which the devices would wait for one another.

    With u and v uniform in [0, 1), t = cos(2 pi v) sqrt(1 - u^(2 / (2 a - 1))) makes (1 + t) / 2 a Beta(a, a) for a > 1/2 (Ulrich 1984), of
    log odds 2 artanh(t). Taken for a = alpha + 1, it is a ratio of two gamma variables, and one of alpha is one of alpha + 1 times
    w^(1 / alpha), w uniform (Stuart 1962): that adds the difference of two exponential variables, divided by alpha, to the log odds.
    """
    u, v = (jax.random.uniform(derive(key, name), alpha.shape) for name in ('u', 'v'))
    t = jnp.cos(2 * jnp.pi * v) * jnp.sqrt(1 - u ** (2 / (2 * alpha + 1)))
    return jax.nn.sigmoid(2 * jnp.arctanh(t) + jax.random.laplace(derive(key, 'w'), alpha.shape) / alpha)


def boxes(key: Key[Array, ''], share: Float[Array, ' b'], size: tuple[int, int]) -> Bool[Array, 'b h w']:
    """A box in each picture: its sides are `sqrt(1 - share)` of the picture's, its middle is any pixel, and the edges clip it."""
    inside = jnp.ones((len(share), *size), bool)
    for axis, (name, side) in enumerate(zip(('y', 'x'), size, strict=True), start=1):
        half = jnp.floor(side * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        middle = jax.random.randint(derive(key, name), share.shape, 0, side)
        places = jnp.arange(side)
        within = (places >= (middle - half)[:, None]) & (places < (middle + half)[:, None])  # (B, side)
        inside &= jnp.expand_dims(within, 3 - axis)
    return inside
