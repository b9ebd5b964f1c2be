"""From a batch on the device to what the net reads, and back to what a person can look at."""

from collections.abc import Mapping

import jax
import numpy as np

from jtl.data.augment import Settings, augment
from jtl.data.images import normalize
from jtl.errors import UserError
from jtl.models.base import Features
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing


def prepare_inputs(
    batch: Mapping[str, jax.Array],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    preprocessing: Preprocessing | TextPreprocessing,
    *,
    key: jax.Array | None = None,
    settings: Settings | None = None,
) -> Features:
    """The net's inputs, inside jit: pictures augmented (with a key) and normalised, everything else as the batch has it.

    Args:
      batch: of the pipeline; `image` is (B, H, W, C) uint8 or float32 with values 0..255.
      inputs: of the net (`Net.inputs`); their names are batch keys.
      preprocessing: of the weights.
      key: of this step; None as in evaluation.
      settings: of augmentation; given where there is a key.

    Raises:
      UserError: the net reads what the batch does not have.
    """
    found: Features = {}
    for name, spec in inputs.items():
        if name not in batch:
            raise UserError(f'The model reads {name!r}, which the data do not have; they have {", ".join(batch)}.')
        value = batch[name]
        if isinstance(preprocessing, Preprocessing) and name == 'image':
            if key is not None and settings is not None:
                value = augment(value, key, settings, size=preprocessing.size)
            value = normalize(value, preprocessing, spec.dtype)
        found[name] = value
    return found


def pictures_of(images: jax.Array | np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The inverse of `jtl.data.images.normalize`, for the eye.

    Args:
      images: (B, H, W, C) as the net reads them.
      preprocessing: of the weights.

    Returns:
      (B, H, W, C) uint8, RGB or grey; what lies outside of 0..255 is cut off.
    """
    x = np.asarray(images, np.float32) * np.asarray(preprocessing.std, np.float32) + np.asarray(preprocessing.mean, np.float32)
    pixels = np.clip(np.rint(x / preprocessing.scale), 0, 255).astype(np.uint8)
    return pixels[..., ::-1] if preprocessing.channels == 'BGR' else pixels
