from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy import stats

from jtl.data.crops import Window, draw_window, random_erase, random_resized_crop, resize_window


def pillow(image, window, size):
    """Cut out, then resized, in float32."""
    top, left, height, width = window
    planes = [Image.fromarray(image[top : top + height, left : left + width, c].astype(np.float32)) for c in range(image.shape[-1])]
    return np.stack([np.asarray(plane.resize(size[::-1], Image.Resampling.BILINEAR)) for plane in planes], -1)


def test_a_window_is_resized_as_pillow_resizes_a_crop():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (29, 23, 3), np.uint8)
    windows = [(0, 0, 29, 23), (3, 5, 9, 8), (28, 22, 1, 1), (10, 0, 2, 23), (0, 7, 29, 3), (4, 2, 18, 17)]
    run = jax.jit(jax.vmap(lambda *window: resize_window(image, Window(*window), (9, 8))))
    found = np.asarray(run(*np.array(windows, np.int32).T))
    for window, result in zip(windows, found, strict=True):
        np.testing.assert_allclose(result, pillow(image, window, (9, 8)), atol=1e-3)
    np.testing.assert_array_equal(found[1], image[3:12, 5:13])


def test_windows_have_the_areas_and_proportions_asked_for():
    n, height, width = 4000, 300, 200
    keys = jax.random.split(jax.random.key(1), n)
    draw = jax.jit(jax.vmap(lambda key: draw_window(key, (height, width), (0.1, 0.4), (0.5, 2.0), (height, width))))
    window, fits, _ = draw(keys)
    top, left, h, w = (np.asarray(x, np.float64) for x in window)
    assert fits.all() and (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
    # Sides are rounded to whole pixels; every one of these fits.
    assert stats.kstest((h * w / (height * width) - 0.1) / 0.3, 'uniform').pvalue > 1e-3
    assert stats.kstest((np.log(h / w) / np.log(2) + 1) / 2, 'uniform').pvalue > 1e-3
    for place, room in ((top, height - h), (left, width - w)):
        assert stats.kstest((place + 0.5) / (room + 1), 'uniform').pvalue > 1e-3
        assert (place == 0).any() and (place == room).any()


def test_windows_that_do_not_fit_are_drawn_anew_ten_times():
    """Of squares with 50 % to 150 % of the area, half fit."""
    keys, size = jax.random.split(jax.random.key(2), 20000), (1001, 1001)
    window, fits, _ = jax.jit(jax.vmap(lambda key: draw_window(key, size, (0.5, 1.5), (1.0, 1.0), size)))(keys)
    assert stats.binomtest(int((~fits).sum()), len(keys), 0.5**10).pvalue > 1e-3
    side = np.asarray(window.height[fits], np.float64)
    assert (side == window.width[fits]).all() and side.max() == 1001
    assert stats.kstest(((side / 1001) ** 2 - 0.5) / 0.5, 'uniform').pvalue > 1e-3


def test_where_no_window_fits_the_middle_is_taken():
    """As torchvision: the largest in the middle whose width / height is allowed."""
    images = np.random.default_rng(3).integers(0, 256, (2, 8, 40, 1), np.uint8)
    crop = partial(random_resized_crop, size=(8, 8), area=(0.9, 1.0), ratio=(3 / 4, 4 / 3))

    @jax.jit
    def run(wide, high):
        return crop(wide, jax.random.key(0)), crop(high, jax.random.key(1))

    wide, high = images[0], images[1].transpose(1, 0, 2)
    found = run(wide, high)
    np.testing.assert_allclose(found[0], pillow(wide, (0, 14, 8, 11), (8, 8)), atol=1e-3)
    np.testing.assert_allclose(found[1], pillow(high, (14, 0, 11, 8), (8, 8)), atol=1e-3)


def test_a_rectangle_of_noise():
    n = 600
    images = np.full((n, 20, 30, 3), 100, np.uint8)
    keys = jax.random.split(jax.random.key(4), n)
    erase = jax.jit(jax.vmap(lambda image, key: random_erase(image, key, probability=0.6, area=(0.1, 0.3), ratio=(0.5, 2.0))))
    found = np.asarray(erase(images, keys))
    assert found.dtype == np.uint8
    changed = (found != 100).any(-1)
    erased = changed.any((1, 2))
    assert stats.binomtest(int(erased.sum()), n, 0.6).pvalue > 1e-3
    values = []
    for picture, mask in zip(found[erased], changed[erased], strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert mask.sum() == box[..., 0].size  # all within the box is noise, nothing else
        assert 0.1 - 0.04 < box[..., 0].size / 600 < 0.3 + 0.04 and 0.4 < len(rows) / len(columns) < 2.5
        values.append(box.reshape(-1, 3))
    values = np.concatenate(values).astype(np.int64)
    counts = np.bincount(values.ravel(), minlength=256)
    assert len(counts) == 256 and stats.chisquare(np.delete(counts, 100)).pvalue > 1e-3
    assert np.abs(np.corrcoef(values.T) - np.eye(3)).max() < 0.02


def test_a_rectangle_that_never_fits_changes_nothing():
    """Such high squares do not fit into a picture of five rows."""
    image = jnp.full((5, 30, 1), 7.0)
    run = jax.jit(lambda image, key: random_erase(image, key, probability=1.0, area=(0.9, 1.0), ratio=(1.0, 1.0)))
    np.testing.assert_array_equal(run(image, jax.random.key(0)), image)
