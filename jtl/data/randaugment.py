"""RandAugment (Cubuk et al. 2020): a few operations drawn at random, all at one magnitude. For use inside jit; over a batch with `jax.vmap`.

The fourteen operations of the paper with torchvision's ranges (`RandAugment(num_magnitude_bins=11)`), on whole numbers as Pillow
computes them. A compiled step cannot branch for each picture, it would do all fourteen and choose. But there are three kinds: an affine map,
a blend with another picture, and a table of the 256 values. So a layer does one of each and chooses.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, Num, UInt8

from jtl.data.colour import blend, grey
from jtl.data.warp import Matrix, warp

MOVES = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate')
BLENDS = ('brightness', 'color', 'contrast', 'sharpness')
TABLES = ('posterize', 'solarize', 'auto_contrast', 'equalize')
OPERATIONS = ('identity', *MOVES, *BLENDS, *TABLES)


def randaugment(
    image: Num[Array, 'h w c'], key: Key[Array, ''], layers: int, magnitude: float, fill: str, fill_value: float
) -> UInt8[Array, 'h w c']:
    """`layers` operations one after the other, each drawn from OPERATIONS; those that have a direction go either way.

    Args:
      image: values 0..255, rounded first; one channel or three.
      key: of the example.
      layers: how many.
      magnitude: 0 (least) to 10.
      fill: see `jtl.data.warp.FILLS`.
      fill_value: of 'constant'.
    """

    def layer(pixels: Array, drawn: tuple[Array, Array]) -> tuple[Array, None]:
        return operate(pixels, *drawn, magnitude, fill, fill_value), None

    return jax.lax.scan(layer, jnp.round(image).astype(jnp.uint8), draw(key, layers))[0]


def draw(key: Key[Array, ''], layers: int) -> tuple[Int[Array, ' n'], Float[Array, ' n']]:
    """For each layer a position in OPERATIONS and a sign, all equally likely."""
    which, way = jax.random.uniform(key, (2, layers))
    return jnp.floor(which * len(OPERATIONS)).astype(jnp.int32), jnp.where(way < 0.5, 1.0, -1.0)


def operate(
    image: UInt8[Array, 'h w c'],
    operation: Int[Array, ''],
    sign: Float[Array, ''],
    magnitude: float,
    fill: str = 'nearest',
    fill_value: float = 0.0,
) -> UInt8[Array, 'h w c']:
    """One operation.

    Args:
      image: one channel or three.
      operation: a position in OPERATIONS.
      sign: 1 or -1; of shears, translations, rotation and the four blends.
      magnitude: 0 to 10.
      fill: see `jtl.data.warp.FILLS`.
      fill_value: of 'constant'.
    """
    part = magnitude / 10
    is_ = {name: operation == k for k, name in enumerate(OPERATIONS)}
    moved = jnp.round(warp(image, _matrix(is_, part, sign, (image.shape[0], image.shape[1])), fill, fill_value, apart=True))
    blended = _blended(image.astype(jnp.float32), is_, 1 + 0.9 * part * sign)
    looked_up = jnp.take_along_axis(_table(image, is_, part), image.reshape(-1, image.shape[-1]).astype(jnp.int32), 0).reshape(image.shape)
    moves, blends = (jnp.array([is_[name] for name in names]).any() for names in (MOVES, BLENDS))
    return jnp.where(moves, moved, jnp.where(blends, blended, looked_up)).astype(jnp.uint8)


def _matrix(is_: dict[str, Array], part: float, sign: Float[Array, ''], size: tuple[int, int]) -> Matrix:
    """Shears keep the upper left corner where it is, as in the paper; at most one term is not zero."""
    height, width = size

    def of(name: str, most: float) -> Float[Array, '']:
        return jnp.where(is_[name], most * sign, 0.0)

    shear_x, shear_y = of('shear_x', 0.3 * part), of('shear_y', 0.3 * part)
    right, down = of('translate_x', int(150 / 331 * width * part)), of('translate_y', int(150 / 331 * height * part))
    angle = jnp.deg2rad(of('rotate', 30 * part))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.array([(cos, sin + shear_y, shear_y * width / 2 - down), (shear_x - sin, cos, shear_x * height / 2 - right)])


def _blended(x: Float[Array, 'h w c'], is_: dict[str, Array], factor: Float[Array, '']) -> Float[Array, 'h w c']:
    """Whole numbers to whole numbers; fractions are cut off, as Pillow does."""
    luma = jnp.round(grey(x))
    others = (jnp.zeros(()), luma, jnp.floor(luma.mean() + 0.5), _smooth(x))
    other = jnp.select([is_[name] for name in BLENDS], [jnp.broadcast_to(o, x.shape) for o in others])
    return jnp.floor(blend(x, other, factor))


def _smooth(x: Float[Array, 'h w c']) -> Float[Array, 'h w c']:
    """Pillow's SMOOTH: the mean of nine pixels, the middle one counted five times; the outermost pixels stay."""
    height, width, depth = x.shape
    line = x.reshape(height, width * depth)  # sums along whole rows: a last axis of three would be slow
    around = jnp.pad(line, ((1, 1), (depth, depth)))
    total = sum((around[i : i + height, j * depth :][:, : width * depth] for i in range(3) for j in range(3)), 4 * line)
    i, j = jnp.arange(height)[:, None], jnp.arange(width * depth)
    inner = (i > 0) & (i < height - 1) & (j >= depth) & (j < (width - 1) * depth)
    return jnp.where(inner, jnp.round(total / 13), line).reshape(x.shape)


def _table(image: UInt8[Array, 'h w c'], is_: dict[str, Array], part: float) -> UInt8[Array, '256 c']:
    """What becomes of each value, for each channel."""
    depth = image.shape[-1]
    places = (image.astype(jnp.int32) * depth + jnp.arange(depth)).reshape(-1)
    counts = jnp.zeros(256 * depth, jnp.int32).at[places].add(1, mode='promise_in_bounds').reshape(256, depth)
    values = jnp.broadcast_to(jnp.arange(256)[:, None], counts.shape)
    tables = (
        values & ~(2 ** round(4 * part) - 1),
        jnp.where(values < 255 * (1 - part), values, 255 - values),
        _stretched(counts, values),
        _equalized(counts, values),
    )
    chosen = jnp.select([is_[name] for name in TABLES], tables, values)
    # As sums of its steps: XLA on CPU computes those apart, and would fold anything else into the loop over the pixels that are looked up.
    return jnp.cumsum(jnp.diff(chosen, axis=0, prepend=0), axis=0).astype(jnp.uint8)


def _stretched(counts: Int[Array, '256 c'], values: Int[Array, '256 c']) -> Int[Array, '256 c']:
    """The least value that occurs becomes 0, the greatest 255."""
    least, most = jnp.argmax(counts > 0, 0), 255 - jnp.argmax(counts[::-1] > 0, 0)
    return jnp.where(most > least, jnp.clip((values - least) * 255 // jnp.maximum(most - least, 1), 0, 255), values)


def _equalized(counts: Int[Array, '256 c'], values: Int[Array, '256 c']) -> Int[Array, '256 c']:
    """Pillow's `ImageOps.equalize`: values in proportion to how many pixels are below."""
    most = 255 - jnp.argmax(counts[::-1] > 0, 0)
    step = (counts.sum(0) - jnp.take_along_axis(counts, most[None], 0)[0]) // 255
    below = jnp.cumsum(counts, 0) - counts
    return jnp.where(step > 0, jnp.clip((below + step // 2) // jnp.maximum(step, 1), 0, 255), values)
