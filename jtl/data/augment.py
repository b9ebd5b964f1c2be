"""Random changes to training pictures, on the device, inside jit.

Every example has its own key, `fold_in(key, position in the global batch)`: what happens to it depends neither on how the
batch is spread over devices nor on the other examples.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, Num
from ml_collections import ConfigDict, config_dict

from jtl.config import frozen, plain
from jtl.data.colour import jitter
from jtl.data.crops import random_crop, random_erase, random_resized_crop
from jtl.data.randaugment import randaugment
from jtl.data.warp import FILLS, mirror, random_matrix, warp
from jtl.errors import UserError, did_you_mean
from jtl.keys import derive


def defaults() -> dict[str, Any]:
    """The config's `augment` section, in the order in which things are done to a picture."""
    return {
        # The picture comes from the host resized to model.image_size / crop (1.0: as in evaluation), and a window is cut out of it at random:
        'crop': 1.0,  # of model.image_size; 1.0: none
        'resized_crop': (),  # (0.25, 1.0): of a quarter to all of its area, resized; needs crop < 1, such as 0.5, to have pixels to choose from
        'resized_crop_ratio': (3 / 4, 4 / 3),  # width / height of that window
        # One affine map, interpolated once. Each number is the end of a symmetric range; as in Keras's ImageDataGenerator:
        'rotation': 0.0,  # degrees
        'width_shift': 0.0,  # fraction of the width
        'height_shift': 0.0,  # fraction of the height
        'shear': 0.0,  # degrees
        'zoom': config_dict.placeholder(object),  # 0.2: each side is seen at 0.8 to 1.2 of its extent (below 1 enlarges); or (low, high)
        'fill': 'nearest',  # what lies outside of the picture, here and in randaugment: nearest, constant or reflect
        'fill_value': 0.0,  # of fill='constant', 0..255
        'flip': False,  # mirror left and right, every second picture at random
        'vertical_flip': False,  # mirror top and bottom likewise
        # Colours:
        'randaugment': (),  # (2, 9.0): two operations drawn from fourteen, at magnitude 9 of 10
        'brightness': 0.0,  # 0.4: a factor of 0.6 to 1.4
        'contrast': 0.0,  # likewise, about the mean grey
        'saturation': 0.0,  # likewise, about the picture in grey; grey pictures keep their pixels
        'hue': 0.0,  # 0.1: up to a tenth of the colour circle either way, at most 0.5; likewise
        # A rectangle of noise:
        'erase': 0.0,  # probability
        'erase_area': (0.02, 1 / 3),  # as a part of the picture
        'erase_ratio': (0.3, 3.3),  # height / width
    }


@dataclass(frozen=True)
class Settings:
    """The config's `augment` section in range, as `settings_of` makes it. The fields are those of `defaults()`; `zoom` is (low, high)."""

    crop: float
    resized_crop: tuple[float, float] | tuple[()]
    resized_crop_ratio: tuple[float, float]
    rotation: float
    width_shift: float
    height_shift: float
    shear: float
    zoom: tuple[float, float]
    fill: str
    fill_value: float
    flip: bool
    vertical_flip: bool
    randaugment: tuple[int, float] | tuple[()]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    erase: float
    erase_area: tuple[float, float]
    erase_ratio: tuple[float, float]

    @property
    def warps(self) -> bool:
        """Whether there is an affine map."""
        return any((self.rotation, self.width_shift, self.height_shift, self.shear)) or self.zoom != (1, 1)

    @property
    def recolours(self) -> bool:
        """Whether there is a change of colours beside RandAugment's."""
        return any((self.brightness, self.contrast, self.saturation, self.hue))


def settings_of(section: Mapping[str, Any]) -> Settings:
    """The settings that a config's `augment` section means; fields left out take their default.

    Raises:
      UserError: an unknown field, or a value out of its range.
    """
    known = defaults()
    values: dict[str, Any] = frozen(plain(ConfigDict({**known, **section})))
    for name in values:
        if name not in known:
            raise UserError(f'config.augment.{name}: there is no such field. {did_you_mean(name, known)}'.rstrip())

    def check(name: str, right: bool, wanted: str) -> None:
        if not right:
            raise UserError(f'config.augment.{name}: {wanted}, found {values[name]!r}.')

    for name in ('flip', 'vertical_flip'):
        check(name, isinstance(values[name], bool), 'True or False')
    check('crop', _number(values['crop']) and 0 < values['crop'] <= 1, 'a fraction in (0, 1]')
    for name, most, what in (
        ('rotation', 180, 'degrees in [0, 180]'),
        ('width_shift', 1, 'a fraction of the width in [0, 1]'),
        ('height_shift', 1, 'a fraction of the height in [0, 1]'),
        ('shear', 89, 'degrees in [0, 89]'),
        ('fill_value', 255, 'a pixel value in [0, 255]'),
        ('brightness', math.inf, 'a number of at least 0'),
        ('contrast', math.inf, 'a number of at least 0'),
        ('saturation', math.inf, 'a number of at least 0'),
        ('hue', 0.5, 'a part of the colour circle in [0, 0.5]'),
        ('erase', 1, 'a probability in [0, 1]'),
    ):
        check(name, _number(values[name]) and 0 <= values[name] <= most, what)
    for name, most, what in (
        ('resized_crop', 1, '() or (least, most) area, 0 < least <= most <= 1'),
        ('resized_crop_ratio', math.inf, '(least, most) width / height, 0 < least <= most'),
        ('erase_area', 1, '(least, most) area, 0 < least <= most <= 1'),
        ('erase_ratio', math.inf, '(least, most) height / width, 0 < least <= most'),
    ):
        check(name, _range(values[name], most) or (name == 'resized_crop' and values[name] == ()), what)
    if values['resized_crop'] and values['crop'] == 1:
        raise UserError(
            'config.augment.resized_crop: its window is cut out of the picture resized to model.image_size / crop: '
            'set config.augment.crop below 1 too, such as 0.5.'
        )
    check('fill', values['fill'] in FILLS, f'one of {", ".join(map(repr, FILLS))}')
    check('randaugment', values['randaugment'] == () or _operations(values['randaugment']), '() or (operations, magnitude from 0 to 10)')
    zoom = values['zoom']
    near = _number(zoom) and 0 <= zoom < 1
    check('zoom', zoom is None or near or _range(zoom, math.inf), 'None, a number in [0, 1), or (least, most), 0 < least <= most')
    values['zoom'] = (1.0, 1.0) if zoom is None else (1 - zoom, 1 + zoom) if near else zoom
    return Settings(**values)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _range(value: Any, most: float) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_number, value)) and 0 < value[0] <= value[1] <= most


def _operations(value: Any) -> bool:
    if not isinstance(value, tuple) or len(value) != 2 or not all(map(_number, value)):
        return False
    return isinstance(value[0], int) and value[0] >= 1 and 0 <= value[1] <= 10


def augment(
    images: Num[Array, 'b height width c'], key: Key[Array, ''], settings: Settings, *, size: tuple[int, int]
) -> Num[Array, 'b h w c']:
    """Each example changed at random: crop, affine map, flips, RandAugment, colours, erasing, in this order.

    Args:
      images: the global batch, RGB or grey, values 0..255, uint8 or float32; at least as high and wide as `size`.
      key: of this step.
      settings: of `settings_of`.
      size: height and width of the result; equal to that of `images`: no crop.

    Returns:
      Values 0..255. What interpolates or changes colours gives float32, not rounded; RandAugment gives uint8; crop, flips and erasing
      keep the dtype. With all of them at their defaults, `images`.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    return jax.vmap(lambda image, key: _augment_one(image, key, settings, size))(images, keys)


def _augment_one(
    image: Num[Array, 'height width c'], key: Key[Array, ''], settings: Settings, size: tuple[int, int]
) -> Num[Array, 'h w c']:
    s = settings
    crop_key, flip_key = jax.random.split(key)
    if s.resized_crop:
        image = random_resized_crop(image, crop_key, size, area=s.resized_crop, ratio=s.resized_crop_ratio)
    else:
        image = random_crop(image, crop_key, size)
    flips: list[Any] = [
        jax.random.bernoulli(derive(key, 'vertical_flip')) if s.vertical_flip else False,
        jax.random.bernoulli(flip_key) if s.flip else False,
    ]
    if s.warps:
        ranges: dict[str, Any] = {name: getattr(s, name) for name in ('rotation', 'height_shift', 'width_shift', 'shear', 'zoom')}
        matrix = random_matrix(derive(key, 'warp'), size, **ranges)
        image = warp(image, mirror(matrix, flips), s.fill, s.fill_value, apart=bool(s.randaugment) or s.recolours)
    else:
        for axis, flip in enumerate(flips):
            image = image if flip is False else jnp.where(flip, jnp.flip(image, axis), image)
    if s.randaugment:
        image = randaugment(image, derive(key, 'randaugment'), *s.randaugment, s.fill, s.fill_value)
    if s.recolours:
        strengths = {name: getattr(s, name) for name in ('brightness', 'contrast', 'saturation', 'hue')}
        image = jitter(image.astype(jnp.float32), derive(key, 'colour'), **strengths)
    if s.erase:
        image = random_erase(image, derive(key, 'erase'), probability=s.erase, area=s.erase_area, ratio=s.erase_ratio)
    return image
