from functools import partial

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from scipy import stats

from jtl.data.randaugment import BLENDS, MOVES, OPERATIONS, draw, operate, randaugment

HEIGHT, WIDTH = 17, 23
CASES = [(name, sign) for name in OPERATIONS for sign in ((1.0, -1.0) if name in (*MOVES, *BLENDS) else (1.0,))]


def pillow(image, name, sign, magnitude):
    """The operation as Pillow does it, outside filled with 0; written down from the paper and torchvision's ranges."""
    part = magnitude / 10
    lean, move, factor = 0.3 * part * sign, sign * int(150 / 331 * part * (WIDTH if name.endswith('x') else HEIGHT)), 1 + 0.9 * part * sign
    affine = {
        'shear_x': (1, lean, 0, 0, 1, 0),
        'shear_y': (1, 0, 0, lean, 1, 0),
        'translate_x': (1, 0, -move, 0, 1, 0),
        'translate_y': (1, 0, 0, 0, 1, -move),
    }
    enhance = {
        'brightness': ImageEnhance.Brightness,
        'color': ImageEnhance.Color,
        'contrast': ImageEnhance.Contrast,
        'sharpness': ImageEnhance.Sharpness,
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name], Image.Resampling.BILINEAR)
    if name in enhance:
        return enhance[name](image).enhance(factor)
    if name == 'rotate':
        return image.rotate(30 * part * sign, Image.Resampling.BILINEAR)
    if name == 'posterize':
        return ImageOps.posterize(image, 8 - round(4 * part))
    if name == 'solarize':
        return ImageOps.solarize(image, 255 * (1 - part))
    return {'identity': lambda x: x, 'auto_contrast': ImageOps.autocontrast, 'equalize': ImageOps.equalize}[name](image)


def pixels(depth):
    """A picture with something to stretch and to equalise, and a channel of one value."""
    image = np.random.default_rng(0).integers(40, 200, (HEIGHT, WIDTH, depth), np.uint8)
    image[4:9, 3:15] = 120
    if depth == 3:
        image[..., 2] = 90
        image[0, 0, 2] = 91
    return image


def zip_cases():
    return np.array([OPERATIONS.index(name) for name, _ in CASES]), np.array([sign for _, sign in CASES], np.float32)


@partial(jax.jit, static_argnums=3)
def run(images, operations, signs, magnitude):
    return jax.vmap(lambda *example: operate(*example, magnitude, 'constant', 0.0))(images, operations, signs)


@pytest.mark.parametrize(('magnitude', 'depth'), [(9, 3), (4, 1)])
def test_operations_are_pillows(magnitude, depth):
    image = pixels(depth)
    found = np.asarray(run(np.repeat(image[None], len(CASES), 0), *zip_cases(), magnitude))
    assert found.dtype == np.uint8
    picture = Image.fromarray(image if depth == 3 else image[..., 0])
    for (name, sign), result in zip(CASES, found, strict=True):
        wanted = np.asarray(pillow(picture, name, sign, magnitude)).reshape(image.shape)
        off = np.abs(result.astype(int) - wanted)
        if name in MOVES:
            # Pillow reaches half a pixel further out before it fills (scipy, and so we, do not), and cuts off what we round.
            all_ones = np.asarray(pillow(Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)), name, sign, magnitude)) > 0
            shown = all_ones & ~((result == 0).all(-1))
            assert shown.mean() > 0.5 and (all_ones & ~shown).sum() <= 2 * (HEIGHT + WIDTH), name
            off = off[shown]
        assert off.max() <= (0 if name in ('identity', 'posterize', 'solarize', 'equalize', 'translate_x', 'translate_y') else 1), name
        assert name in ('identity', 'color') or (result != image).any(), name
        if name == 'color':
            assert (result != image).any() == (depth == 3)


def test_pictures_of_one_value_stay():
    """Nothing to stretch, nothing to equalise."""
    flat = np.full((len(CASES), HEIGHT, WIDTH, 3), 33, np.uint8)
    found = run(flat, *zip_cases(), 9)
    for (name, _), result in zip(CASES, found, strict=True):
        assert name not in ('auto_contrast', 'equalize') or (result == 33).all()


def test_operations_and_signs_are_equally_likely():
    operations, signs = jax.jit(draw, static_argnums=1)(jax.random.key(0), 5000)
    counts = np.array([[((operations == k) & (signs == sign)).sum() for sign in (1, -1)] for k in range(len(OPERATIONS))])
    assert counts.sum() == 5000 and stats.chisquare(counts.ravel()).pvalue > 1e-3


def test_layers_are_operations_in_turn():
    image, key = pixels(3), jax.random.key(5)
    found = jax.jit(lambda image: randaugment(image, key, 3, 9, 'constant', 0.0))(image.astype(np.float32) + 0.3)
    operations, signs = draw(key, 3)
    assert len(set(operations.tolist())) == 3
    wanted = image
    for operation, sign in zip(operations, signs, strict=True):
        repeated = (np.repeat(x[None], len(CASES), 0) for x in (wanted, operation, sign))
        wanted = np.asarray(run(*repeated, 9))[0]
    np.testing.assert_array_equal(found, wanted)
