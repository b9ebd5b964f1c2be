"""One affine map of a picture, interpolated once. For use inside jit; over a batch with `jax.vmap`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

FILLS = ('nearest', 'constant', 'reflect')
"""What lies outside of a picture: its outermost pixels, one value, or its mirror image (d c b a | a b c d | d c b a)."""

Matrix = Float[Array, '2 3']
"""Where a pixel of the result is looked up: (row, column) in the source = `matrix[:, :2] @ (row, column) + matrix[:, 2]`, all from
the middle of the picture, in pixels. The identity is exact."""


def random_matrix(
    key: Key[Array, ''],
    size: tuple[int, int],
    *,
    rotation: float,
    height_shift: float,
    width_shift: float,
    shear: float,
    zoom: tuple[float, float],
) -> Matrix:
    """Angles, shifts and factors, each drawn uniformly from its range, as one matrix.

    Args:
      key: of the example.
      size: height and width of the picture, pixels.
      rotation: degrees; drawn from -rotation to rotation, and likewise:
      height_shift: fraction of the height.
      width_shift: fraction of the width.
      shear: degrees.
      zoom: (least, most), for each axis by itself.
    """
    angle, down, right, slant, *sides = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)  # one draw compiles faster than six
    middle, reach = (zoom[0] + zoom[1]) / 2, (zoom[1] - zoom[0]) / 2
    return affine_matrix(
        jnp.deg2rad(rotation) * angle,
        height_shift * size[0] * down,
        width_shift * size[1] * right,
        jnp.deg2rad(shear) * slant,
        middle + reach * jnp.array(sides),
    )


def affine_matrix(
    angle: Float[Array, ''], down: Float[Array, ''], right: Float[Array, ''], slant: Float[Array, ''], zoom: Float[Array, '2']
) -> Matrix:
    """The map of Keras's ImageDataGenerator: rotation @ shift @ shear @ zoom, on (x, y) = (column, row).

    Keras (3.15) gives the height's shift to the columns and turns a picture that is not square about another point than its middle; here
    the names mean what they say. Square pictures with equal shifts get Keras's map.

    Args:
      angle: radians; positive turns the content counterclockwise.
      down: pixels by which rows are looked up further down (the content goes up).
      right: likewise for columns.
      slant: radians; the shear is [[1, -sin(slant)], [0, cos(slant)]].
      zoom: factors on rows and columns; below 1 enlarges.
    """
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    rows = (jnp.cos(angle + slant) * zoom[0], sin * zoom[1], sin * right + cos * down)
    columns = (-jnp.sin(angle + slant) * zoom[0], cos * zoom[1], cos * right - sin * down)
    return jnp.array([rows, columns])


def mirror(matrix: Matrix, flips: Sequence[Bool[Array, ''] | bool]) -> Matrix:
    """The map whose result is that of `matrix`, mirrored along the rows, the columns."""
    return matrix * jnp.array([*(jnp.where(flip, -1.0, 1.0) for flip in flips), 1.0])


def warp(
    image: Num[Array, 'h w c'], matrix: Matrix, fill: str = 'nearest', fill_value: float = 0.0, *, apart: bool = False
) -> Float[Array, 'h w c']:
    """The picture looked up through `matrix` with bilinear interpolation: `scipy.ndimage.affine_transform(order=1)`.

    Args:
      image: values 0..255, uint8 or float32.
      matrix: see `Matrix`.
      fill: one of FILLS, as scipy's modes of these names; 'constant' begins beyond the middle of the outermost pixels.
      fill_value: of 'constant'.
      apart: for a result that is read more than once. XLA on CPU folds the map into a loop that reads it, and looks every pixel up as often as
        it is read there; this keeps the two apart. The result is the same.

    Returns:
      float32, not rounded.
    """
    height, width, depth = image.shape
    middle = jnp.array([(height - 1) / 2, (width - 1) / 2])
    rows = height + height % 2 if apart else height
    i, j = jnp.meshgrid(jnp.arange(rows) - middle[0], jnp.arange(width) - middle[1], indexing='ij')
    # A product of matrices is what XLA on CPU computes apart: it would fold the matrix's sines into the loop over pixels.
    places = jnp.einsum('rk,khw->rhw', matrix, jnp.stack([i, j, jnp.ones_like(i)]), precision='highest') + middle[:, None, None]
    pixels = image.reshape(height * width, depth)  # one gather fetches the channels of a pixel

    def look_up(place: Float[Array, '2 rows w']) -> Float[Array, 'rows w c']:
        y, x = place
        found = jnp.zeros((*y.shape, depth))
        for row, row_weight in _taps(_within(y, height, fill), height):
            for column, column_weight in _taps(_within(x, width, fill), width):
                pixel = pixels.at[row * width + column].get(mode='promise_in_bounds')
                found += pixel.astype(jnp.float32) * (row_weight * column_weight)[..., None]
        found = jnp.clip(found, 0, 255)  # sums of weights are rounded
        inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
        return jnp.where(inside[..., None], found, jnp.float32(fill_value)) if fill == 'constant' else found

    if not apart:
        return look_up(places)
    places = jnp.moveaxis(places.reshape(2, 2, rows // 2, width), 1, 0)
    halves = jax.lax.map(look_up, places)  # two turns of a loop, which XLA does not fold into another
    return halves.reshape(rows, width, depth)[:height]


def _within(x: Float[Array, 'h w'], n: int, fill: str) -> Float[Array, 'h w']:
    """Coordinates brought into a side of `n` pixels, at most half a pixel beyond the middle of its outermost ones."""
    if fill == 'reflect':
        turned = x + 0.5 - 2 * n * jnp.floor((x + 0.5) / (2 * n))
        return n - 0.5 - jnp.abs(turned - n)
    return jnp.clip(x, 0, n - 1)


def _taps(x: Float[Array, 'h w'], n: int) -> tuple[tuple[Int[Array, 'h w'], Float[Array, 'h w']], ...]:
    """The two pixels that `x` lies between, and their weights: the nearest even one and the nearest odd one.

    A compiler may compute `x` anew for a weight, rounding it otherwise than for the index. With floor and fraction that is a wrong pixel now
    and then (seen on CPU: 3 in a million). Here it cannot matter: where the nearest even pixel changes, its weight is 0.
    """
    even, odd = 2 * jnp.round(x / 2), 2 * jnp.floor(x / 2) + 1
    return tuple((jnp.clip(tap, 0, n - 1).astype(jnp.int32), 1 - jnp.abs(x - tap)) for tap in (even, odd))
