"""Pictures on the host (decode, resize, crop with Pillow) and their normalisation on the device."""

import io
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Shaped

from jtl.data.base import UnreadableError, check_image
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing

if TYPE_CHECKING:
    from PIL import Image

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.gif', '.tif', '.tiff', '.ppm', '.pgm')
"""Names of files that are taken for pictures, in lower case."""


def decode(source: bytes | str | Path, name: str = '') -> np.ndarray:
    """A picture file as pixels, turned as its EXIF orientation says.

    Args:
      source: the file's content, or its path (`gs://` too).
      name: what to call it in messages; default: the path.

    Returns:
      (H, W, 1) uint8 for grey files (16-bit grey is scaled to 8), else (H, W, 3) uint8 RGB: palettes are looked up, CMYK is
      converted, an alpha channel is dropped. Of an animation, the first frame.

    Raises:
      UnreadableError: no picture, truncated, or damaged.
    """
    from PIL import ImageOps

    with _open(source, name) as picture:
        try:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith('I'):
                pixels = np.asarray(picture)
                return (np.clip(pixels, 0, 65535) // 257).astype(np.uint8)[..., None]
            pixels = np.array(picture.convert('L' if picture.mode in ('1', 'L', 'LA', 'F') else 'RGB'))
        except Exception as error:  # Pillow's decoders raise many kinds: OSError, SyntaxError, ValueError, struct.error ...
            raise _unreadable(source, name, error) from None
    return pixels if pixels.ndim == 3 else pixels[..., None]


def verify(source: bytes | str | Path, name: str = '') -> None:
    """Raises UnreadableError where `decode` would; JPEGs are read at an eighth of their size, which finds the same damage sooner."""
    with _open(source, name) as picture:
        try:
            picture.draft(None, (1, 1))
            picture.load()
        except Exception as error:
            raise _unreadable(source, name, error) from None


def padded_size(size: tuple[int, int], crop: float) -> tuple[int, int]:
    """The picture out of which `size` (height, width) is cropped: `floor(side / crop)` for each side."""
    return math.floor(size[0] / crop + 1e-6), math.floor(size[1] / crop + 1e-6)


def prepare(image: np.ndarray, preprocessing: Preprocessing, crop: float | None = None) -> np.ndarray:
    """Resize and centre-crop one picture.

    The picture is resized, keeping its proportions, until it just covers `size / crop`, and its middle is cut out. For square
    sizes that is `torchvision.transforms.Resize(floor(size / crop))` followed by `CenterCrop(size)`, as timm evaluates; Pillow's
    resize widens its filter when it shrinks (antialiasing). Only the part that is kept is resized: Pillow's `box` lets the
    filter see the pixels around it, so that the result is the same up to rounding.

    Args:
      image: (H, W, C) uint8 or float; C is 1 or 3 (2 and 4 are those with an alpha channel, which is dropped), or the count that the
        network reads.
      preprocessing: of the weights: size, channels, interpolation, and the crop of evaluation.
      crop: None for evaluation, (size) out of (size / preprocessing.crop); for training a fraction below 1 returns
        the whole picture of `padded_size(size, crop)`, out of which the device crops at random; 1.0 is as evaluation.

    Returns:
      (h, w, C) of the same dtype (float64 becomes float32), with 3 channels in RGB order (`normalize` turns them), 1, or that count.
    """
    check_image(image, 'A picture')
    if image.ndim == 2:
        image = image[..., None]
    if image.dtype != np.uint8:
        image = image.astype(np.float32, copy=False)
    image = _channels(image, preprocessing)
    if crop is None or crop >= 1:
        size, outer = preprocessing.size, padded_size(preprocessing.size, preprocessing.crop)
    else:
        size = outer = padded_size(preprocessing.size, crop)
    height, width = image.shape[:2]
    if (height, width) == outer == size:
        return image
    # The resized picture covers `outer`; the longer side is truncated, as torchvision does.
    tall = height * outer[1] >= width * outer[0]
    resized = (max(outer[0], height * outer[1] // width), outer[1]) if tall else (outer[0], max(outer[1], width * outer[0] // height))
    top, left = round((resized[0] - size[0]) / 2), round((resized[1] - size[1]) / 2)
    if (height, width) == resized:
        return image[top : top + size[0], left : left + size[1]]
    down, right = height / resized[0], width / resized[1]  # source pixels for one of the resized picture
    box = (left * right, top * down, min(width, (left + size[1]) * right), min(height, (top + size[0]) * down))
    return _resize(image, size, preprocessing.interpolation, box)


def normalize(
    images: Shaped[Array, '*batch h w c'], preprocessing: Preprocessing, dtype: DTypeLike = jnp.float32
) -> Float[Array, '*batch h w c']:
    """What the network reads: channels in its order, `(x * scale - mean) / std`, computed in float32. For use inside jit.

    Args:
      images: RGB or grey, values 0..255, uint8 or float.
      preprocessing: of the weights.
      dtype: of the result.
    """
    x = jnp.asarray(images, jnp.float32)
    if preprocessing.channels == 'BGR':
        x = x[..., ::-1]
    mean, std = jnp.asarray(preprocessing.mean, jnp.float32), jnp.asarray(preprocessing.std, jnp.float32)
    return ((x * preprocessing.scale - mean) / std).astype(dtype)


def _resize(image: np.ndarray, size: tuple[int, int], interpolation: str, box: tuple[float, float, float, float]) -> np.ndarray:
    from PIL import Image

    method = getattr(Image.Resampling, interpolation.upper())
    if image.dtype == np.uint8 and image.shape[-1] in (1, 3):
        picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else np.ascontiguousarray(image))
        out = np.asarray(picture.resize((size[1], size[0]), method, box))
        return out if out.ndim == 3 else out[..., None]
    planes = [Image.fromarray(np.ascontiguousarray(image[..., k])) for k in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize((size[1], size[0]), method, box)) for plane in planes], axis=-1)


def check_channels(channels: int, preprocessing: Preprocessing) -> None:
    """UserError for pictures of so many channels that cannot become those that the network reads."""
    if not preprocessing.pictorial and channels != preprocessing.depth:
        raise UserError(
            f'The pictures have {channels} channels, the model reads {preprocessing.depth}: set model.image_channels={channels}.'
        )
    if preprocessing.pictorial and channels > 4:
        raise UserError(
            f'The pictures have {channels} channels, the model reads {preprocessing.channels}. Set model.image_channels={channels}, '
            'or give pictures of 1 to 4 channels (grey or colour, with or without alpha).'
        )


def _channels(image: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """With 1 or 3 channels: grey is repeated, colour becomes luma (ITU-R 601-2, as Pillow and OpenCV do). Other counts stay."""
    check_channels(image.shape[-1], preprocessing)
    depth = preprocessing.depth
    if not preprocessing.pictorial:
        return image
    if image.shape[-1] in (2, 4):
        image = image[..., :-1]
    if image.shape[-1] == depth:
        return image
    if depth == 3:
        return np.repeat(image, 3, axis=-1)
    luma = image.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return (luma if image.dtype != np.uint8 else np.clip(np.rint(luma), 0, 255).astype(np.uint8))[..., None]


def _open(source: bytes | str | Path, name: str) -> 'Image.Image':
    from etils import epath
    from PIL import Image

    try:
        content = source if isinstance(source, bytes) else epath.Path(source).read_bytes()
        picture = Image.open(io.BytesIO(content))
    except Exception as error:
        bands = _tiff_bands(content) if type(error).__name__ == 'UnidentifiedImageError' else 0
        raise _unreadable(
            source, name, ValueError(f'it is a TIFF of {bands} channels, a picture has 1 to 4') if bands > 4 else error
        ) from None
    if picture.size == (1, 1):  # what web pages and failed downloads leave behind
        raise _unreadable(source, name, ValueError('it has one pixel, which shows nothing'))
    return picture


def _tiff_bands(content: bytes) -> int:
    """The number of channels of a TIFF; 0 for other files."""
    from PIL.TiffImagePlugin import SAMPLESPERPIXEL, ImageFileDirectory_v2

    try:
        directory, file = ImageFileDirectory_v2(content[:8]), io.BytesIO(content)
        file.seek(directory.next)
        directory.load(file)
        return int(directory.get(SAMPLESPERPIXEL, 1))
    except Exception:  # no TIFF, or a damaged one
        return 0


def _unreadable(source: Any, name: str, error: Exception) -> UnreadableError:
    called = name or ('an image' if isinstance(source, bytes) else str(source))
    # Pillow's own words name the buffer we opened; say what it means.
    why = 'it is no picture that Pillow knows' if type(error).__name__ == 'UnidentifiedImageError' else str(error) or type(error).__name__
    return UnreadableError(f'{called} cannot be read: {why}.')
