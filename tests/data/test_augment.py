import jax
import numpy as np
import pytest

from jtl.data.augment import augment, settings_of

FLIP = settings_of({'flip': True})


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(0).integers(0, 256, (64, 6, 7, 3), np.uint8)


def windows(image, size):
    for flipped in (False, True):
        for top in range(image.shape[0] - size[0] + 1):
            for left in range(image.shape[1] - size[1] + 1):
                window = image[top : top + size[0], left : left + size[1]]
                yield (flipped, top, left), window[:, ::-1] if flipped else window


def test_every_result_is_a_window_and_all_windows_occur(images):
    seen = set()
    for step in range(4):
        found = np.asarray(jax.jit(lambda x, k: augment(x, k, FLIP, size=(4, 5)))(images, jax.random.key(step)))
        assert found.dtype == np.uint8 and found.shape == (64, 4, 5, 3)
        for image, result in zip(images, found, strict=True):
            places = [place for place, window in windows(image, (4, 5)) if (window == result).all()]
            assert len(places) == 1
            seen.add(places[0])
    assert len(seen) == 2 * 3 * 3


def test_an_example_does_not_feel_the_others(images):
    key = jax.random.key(3)
    whole = augment(images, key, FLIP, size=(4, 4))
    np.testing.assert_array_equal(augment(images[:9], key, FLIP, size=(4, 4)), whole[:9])
    changed = images.copy()
    changed[1:] = 0
    np.testing.assert_array_equal(augment(changed, key, FLIP, size=(4, 4))[0], whole[0])
    assert (np.asarray(augment(images, jax.random.key(4), FLIP, size=(4, 4))) != whole).any()


def test_without_crop_and_flip_nothing_changes(images):
    np.testing.assert_array_equal(augment(images, jax.random.key(0), settings_of({}), size=(6, 7)), images)
