"""Random changes to training pictures, on the device, inside jit.

Every example has its own key, `fold_in(key, position in the global batch)`: what happens to it depends neither on how the
batch is spread over devices nor on the other examples.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Shaped


def defaults() -> dict[str, Any]:
    """The config's `augment` section."""
    return {
        'crop': 1.0,  # train on a random crop out of the picture resized to model.image_size / crop; 1.0: none (as in evaluation)
        'flip': False,  # mirror left and right, every second picture at random
    }


def augment(
    images: Shaped[Array, 'b height width c'], key: Key[Array, ''], *, size: tuple[int, int], flip: bool
) -> Shaped[Array, 'b h w c']:
    """A random crop to `size`, then a random flip, for each example.

    Args:
      images: the global batch; at least as high and wide as `size`.
      key: of this step.
      size: height and width of the result; equal to that of `images`: no crop.
      flip: whether to mirror left and right with probability 1/2.

    Returns:
      The dtype of `images`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))

    def one(image: Array, key: Array) -> Array:
        crop_key, flip_key = jax.random.split(key)
        image = random_crop(image, crop_key, size)
        return random_flip(image, flip_key) if flip else image

    return jax.vmap(one)(images, keys)


def random_crop(image: Shaped[Array, 'height width c'], key: Key[Array, ''], size: tuple[int, int]) -> Shaped[Array, 'h w c']:
    """A window of `size`, every position equally likely."""
    spare = (image.shape[0] - size[0], image.shape[1] - size[1])
    if min(spare) < 0:
        raise ValueError(f'cannot crop {size} out of {image.shape[:2]}')
    if max(spare) == 0:
        return image
    top, left = jax.random.randint(key, (2,), 0, jnp.array([spare[0] + 1, spare[1] + 1]))
    return jax.lax.dynamic_slice(image, (top, left, 0), (*size, image.shape[2]))


def random_flip(image: Shaped[Array, 'h w c'], key: Key[Array, '']) -> Shaped[Array, 'h w c']:
    """The picture or, with probability 1/2, its mirror image."""
    return jnp.where(jax.random.bernoulli(key), image[:, ::-1], image)
