"""Windows of a picture: random crops, random resized crops, random erasing. For use inside jit; over a batch with `jax.vmap`."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num, Shaped

TRIES = 10
"""Windows drawn until one fits into the picture, as torchvision does."""


class Window(NamedTuple):
    """A rectangle of whole pixels."""

    top: Int[Array, '']
    left: Int[Array, '']
    height: Int[Array, '']
    width: Int[Array, '']


def random_crop(image: Shaped[Array, 'height width c'], key: Key[Array, ''], size: tuple[int, int]) -> Shaped[Array, 'h w c']:
    """A window of `size`, every position equally likely."""
    spare = (image.shape[0] - size[0], image.shape[1] - size[1])
    if min(spare) < 0:
        raise ValueError(f'cannot crop {size} out of {image.shape[:2]}')
    if max(spare) == 0:
        return image
    top, left = jax.random.randint(key, (2,), 0, jnp.array([spare[0] + 1, spare[1] + 1]))
    return jax.lax.dynamic_slice(image, (top, left, 0), (*size, image.shape[2]))


def random_resized_crop(
    image: Num[Array, 'height width c'],
    key: Key[Array, ''],
    size: tuple[int, int],
    *,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Float[Array, 'h w c']:
    """A window of random area and proportions, resized to `size`: `torchvision.transforms.RandomResizedCrop`.

    Args:
      image: values 0..255, uint8 or float32.
      key: of the example.
      size: height and width of the result.
      area: (least, most) as a part of the picture.
      ratio: (least, most) width / height.

    Returns:
      float32, not rounded.
    """
    return resize_window(image, crop_window(key, (image.shape[0], image.shape[1]), area, ratio), size)


def crop_window(key: Key[Array, ''], size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float]) -> Window:
    """Torchvision's rule: of ten windows (area uniform in its range, width / height log-uniform, sides rounded) the first that fits, every
    position equally likely; where none fits, the largest in the middle whose proportions are allowed.
    """  # fmt: skip
    drawn, fits, _ = draw_window(key, size, area, (1 / ratio[1], 1 / ratio[0]), largest=size)
    height, width = size
    if width / height < ratio[0]:
        height = round(width / ratio[0])
    elif width / height > ratio[1]:
        width = round(height * ratio[1])
    middle = ((size[0] - height) // 2, (size[1] - width) // 2, height, width)
    return Window(*(jnp.where(fits, one, other) for one, other in zip(drawn, middle, strict=True)))


def random_erase(
    image: Num[Array, 'h w c'],
    key: Key[Array, ''],
    *,
    probability: float,
    area: tuple[float, float],
    ratio: tuple[float, float],
) -> Num[Array, 'h w c']:
    """With `probability`, a rectangle of the picture becomes noise: random erasing with random values (Zhong et al. 2020, RE-R).

    Args:
      image: values 0..255.
      key: of the example.
      probability: of a rectangle; where none of ten fits, the picture stays as it is.
      area: (least, most) as a part of the picture, drawn uniformly.
      ratio: (least, most) height / width, drawn log-uniformly as in torchvision.

    Returns:
      The dtype of `image`; noise is whole numbers 0..255, equally likely.
    """
    where, what = jax.random.split(key)
    height, width, depth = image.shape
    # A rectangle leaves a row and a column free, as in the paper and in torchvision.
    window, fits, chance = draw_window(where, (height, width), area, ratio, largest=(height - 1, width - 1))
    words = jax.random.bits(what, (height, width, -(-depth // 4)))  # four bytes of noise for one draw
    noise = jax.lax.bitcast_convert_type(words, jnp.uint8).reshape(height, width, -1)[..., :depth]
    i, j = jnp.arange(height)[:, None, None], jnp.arange(width)[:, None]
    hit = (i >= window.top) & (i < window.top + window.height) & (j >= window.left) & (j < window.left + window.width)
    return jnp.where(hit & fits & (chance < probability), noise.astype(image.dtype), image)


def draw_window(
    key: Key[Array, ''], size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], largest: tuple[int, int]
) -> tuple[Window, Bool[Array, ''], Float[Array, '']]:
    """The first of ten random windows with sides from one pixel to `largest`.

    Args:
      key: of the draw.
      size: height and width of the picture.
      area: (least, most) as a part of the picture; uniform.
      ratio: (least, most) height / width; log-uniform.
      largest: height and width that fit.

    Returns:
      The window; whether one fits; and a number uniform in [0, 1), for whatever else is to be decided.
    """
    down, across, rest, *drawn = jax.random.uniform(key, (3 + 2 * TRIES,))  # one draw compiles faster than five
    areas, ratios = jnp.array(drawn[:TRIES]), jnp.array(drawn[TRIES:])
    areas = size[0] * size[1] * (area[0] + (area[1] - area[0]) * areas)
    ratios = ratio[0] * (ratio[1] / ratio[0]) ** ratios
    heights, widths = (jnp.round(jnp.sqrt(x)).astype(jnp.int32) for x in (areas * ratios, areas / ratios))
    fits = (heights >= 1) & (heights <= largest[0]) & (widths >= 1) & (widths <= largest[1])
    # A stable sort puts the first that fits in front. (XLA on CPU computes a sort apart; it would fold anything else into a loop over pixels.)
    misses, heights, widths = jax.lax.sort((~fits, heights, widths), num_keys=1)
    height, width = heights[0], widths[0]
    top, left = (jnp.floor(u * (n - side + 1)).astype(jnp.int32) for u, n, side in zip((down, across), size, (height, width), strict=True))
    return Window(top, left, height, width), ~misses[0], rest


def resize_window(image: Num[Array, 'height width c'], window: Window, size: tuple[int, int]) -> Float[Array, 'h w c']:
    """The window resized to `size`: bilinear, with the filter widened where it shrinks (antialiasing), as Pillow resizes a crop.

    Args:
      image: values 0..255, uint8 or float32.
      window: inside of the picture.
      size: height and width of the result.

    Returns:
      float32, not rounded.
    """
    (row_taps, row_weights), (column_taps, column_weights) = (
        _taps(start, length, n, out)
        for start, length, n, out in zip((window.top, window.left), (window.height, window.width), image.shape, size, strict=False)
    )
    parts = (jnp.take(image, tap, 0, mode='clip') * weight[:, None, None] for tap, weight in zip(row_taps, row_weights, strict=True))
    rows = sum(parts, jnp.zeros(()))

    def add(total: Array, tap: tuple[Array, Array]) -> tuple[Array, None]:
        place, weight = tap
        return total + jnp.take(rows, place, 1, mode='clip') * weight[:, None], None

    # A loop for the columns is computed apart from what is before and behind it; folded into one, all would be done for every tap of every pixel.
    found = jax.lax.scan(add, jnp.zeros((*size, image.shape[2])), (column_taps, column_weights))[0]
    return jnp.clip(found, 0, 255)  # sums of weights are rounded


def _taps(start: Int[Array, ''], length: Int[Array, ''], n: int, out: int) -> tuple[Int[Array, 't out'], Float[Array, 't out']]:
    """For each of `out` pixels, the pixels of a side of `n` that it is made of, and their weights, which add up to 1."""
    scale = length / out
    support = jnp.maximum(scale, 1.0)
    middle = start + (jnp.arange(out) + 0.5) * scale  # of each pixel of the result, in the source
    count = 2 * math.ceil(max(n / out, 1)) + 1
    taps = jnp.floor(middle - support).astype(jnp.int32) + jnp.arange(count)[:, None]
    weights = jnp.maximum(0, 1 - jnp.abs(taps + 0.5 - middle) / support)
    weights = jnp.where((taps >= start) & (taps < start + length), weights, 0)
    return taps, weights / weights.sum(0)
