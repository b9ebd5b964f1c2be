"""Changes of colour: brightness, contrast, saturation, hue. For use inside jit; over a batch with `jax.vmap`.

Pictures are float32 with values 0..255, RGB or grey (one channel). As torchvision's functions on float tensors.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

LUMA = (0.299, 0.587, 0.114)
"""ITU-R 601-2, as Pillow has it; adds up to 1, so that grey stays what it is."""

Image = Float[Array, 'h w c']


def jitter(image: Image, key: Key[Array, ''], *, brightness: float, contrast: float, saturation: float, hue: float) -> Image:
    """`torchvision.transforms.ColorJitter`: factors uniform in [max(0, 1 - x), 1 + x], a turn of the hue in [-hue, hue].

    Always in this order; torchvision shuffles it, which would cost each picture every order.
    """
    *factors, turn = jax.random.uniform(key, (4,))
    for change, strength, u in zip((brighten, contrast_by, saturate), (brightness, contrast, saturation), factors, strict=True):
        if strength:
            least = max(0.0, 1 - strength)
            image = change(image, least + (1 + strength - least) * u)
    return turn_hue(image, hue * (2 * turn - 1)) if hue else image


def brighten(image: Image, factor: Float[Array, '']) -> Image:
    """Times `factor`."""
    return jnp.clip(image * factor, 0, 255)


def contrast_by(image: Image, factor: Float[Array, '']) -> Image:
    """The distance from the picture's mean grey times `factor`."""
    return blend(image, grey(image).mean(), factor)


def saturate(image: Image, factor: Float[Array, '']) -> Image:
    """The distance from the picture in grey times `factor`. A grey picture stays as it is."""
    return image if image.shape[-1] == 1 else blend(image, grey(image), factor)


def turn_hue(image: Image, turn: Float[Array, '']) -> Image:
    """The hue (of HSV) moved on by `turn` of the colour circle. A grey picture stays as it is."""
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = image.max(-1)
    chroma = value - image.min(-1)
    by_red, by_green = value == red, value == green
    part = jnp.where(by_red, green - blue, jnp.where(by_green, blue - red, red - green)) / jnp.where(chroma == 0, 1, chroma)
    sixths = part + jnp.where(by_red, 0, jnp.where(by_green, 2, 4)) + 6 * turn
    k = jnp.array([5.0, 3.0, 1.0]) + sixths[..., None]
    k -= 6 * jnp.floor(k / 6)  # how far a channel is from where it is highest, in sixths of the circle
    return value[..., None] - chroma[..., None] * jnp.clip(jnp.minimum(k, 4 - k), 0, 1)


def grey(image: Image) -> Float[Array, 'h w 1']:
    """The picture's luma."""
    return image if image.shape[-1] == 1 else sum((image[..., k : k + 1] * weight for k, weight in enumerate(LUMA)), jnp.zeros(()))


def blend(image: Image, other: Float[Array, '*#other'], factor: Float[Array, '']) -> Image:
    """From `other` (factor 0) to the picture (1, exactly) and beyond."""
    return jnp.clip(image + (1 - factor) * (other - image), 0, 255)
