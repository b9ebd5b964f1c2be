import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy import stats

from jtl.data.colour import brighten, contrast_by, jitter, saturate, turn_hue

FACTORS = np.array([0.0, 0.3, 1.0, 1.7, 2.5], np.float32)


@pytest.fixture(scope='module')
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (11, 13, 3), np.uint8)
    pixels[0, :6] = [(0, 0, 0), (255, 255, 255), (9, 9, 9), (255, 0, 0), (0, 255, 0), (0, 0, 255)]
    return pixels


@pytest.mark.parametrize(
    ('change', 'enhance'), [(brighten, ImageEnhance.Brightness), (contrast_by, ImageEnhance.Contrast), (saturate, ImageEnhance.Color)]
)
def test_changes_are_pillows_before_it_rounds(image, change, enhance):
    found = np.asarray(jax.jit(jax.vmap(change, (None, 0)))(image.astype(np.float32), FACTORS))
    np.testing.assert_array_equal(found[2], image)  # factor 1, exactly
    for factor, result in zip(FACTORS, found, strict=True):
        wanted = np.asarray(enhance(Image.fromarray(image)).enhance(float(factor)), np.float32)
        # Pillow rounds the grey that it blends with (by up to 1/2, here times |1 - factor|), and cuts off the fraction of the result.
        assert (result - wanted > -0.5 * abs(1 - factor) - 1e-3).all() and (result - wanted < 1 + 0.5 * abs(1 - factor) + 1e-3).all()


def test_hue_turns_as_in_colorsys(image):
    turns = np.array([-0.5, -0.2, 0.0, 0.1, 0.4], np.float32)
    found = np.asarray(jax.jit(jax.vmap(turn_hue, (None, 0)))(image.astype(np.float32), turns))
    for turn, result in zip(turns, found, strict=True):
        for pixel, changed in zip(image.reshape(-1, 3), result.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
            np.testing.assert_allclose(changed, 255 * np.array(colorsys.hsv_to_rgb((hue + turn) % 1, saturation, value)), atol=2e-3)


def test_grey_pictures_have_neither_saturation_nor_hue(image):
    grey = image[..., :1].astype(np.float32)
    assert saturate(grey, jnp.float32(0.3)) is grey and turn_hue(grey, jnp.float32(0.3)) is grey
    wanted = np.clip(grey.mean() + 0.5 * (grey - grey.mean()), 0, 255)
    np.testing.assert_allclose(contrast_by(grey, jnp.float32(0.5)), wanted, atol=1e-3)


def test_factors_are_drawn_uniformly_and_apart():
    """Read back from pictures that show them: brightness from a white pixel's value, hue from a red pixel's."""
    keys = jax.random.split(jax.random.key(0), 2000)
    white, red = np.full((1, 1, 3), 100, np.float32), np.array([[[200, 0, 0]]], np.float32)
    bright = jax.jit(jax.vmap(lambda k: jitter(white, k, brightness=0.4, contrast=0.0, saturation=0.0, hue=0.0)))(keys)
    assert stats.kstest((np.asarray(bright)[:, 0, 0, 0] / 100 - 0.6) / 0.8, 'uniform').pvalue > 1e-3
    strong = jax.jit(jax.vmap(lambda k: jitter(white / 4, k, brightness=1.5, contrast=0.0, saturation=0.0, hue=0.0)))(keys)
    assert stats.kstest(np.asarray(strong)[:, 0, 0, 0] / 25 / 2.5, 'uniform').pvalue > 1e-3  # from 0, not from below
    turned = jax.jit(jax.vmap(lambda k: jitter(red, k, brightness=0.4, contrast=0.0, saturation=0.0, hue=0.1)))(keys)
    turned = np.asarray(turned)[:, 0, 0]
    hues = np.array([(colorsys.rgb_to_hsv(*(pixel / 255))[0] + 0.5) % 1 - 0.5 for pixel in turned])
    assert stats.kstest((hues + 0.1) / 0.2, 'uniform').pvalue > 1e-3
    assert abs(np.corrcoef(hues, np.asarray(bright)[:, 0, 0, 0])[0, 1]) < 0.08
