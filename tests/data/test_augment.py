import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from jtl.data.arrays import from_arrays
from jtl.data.augment import augment, defaults, settings_of
from jtl.data.colour import jitter
from jtl.data.crops import random_erase, random_resized_crop
from jtl.data.inputs import prepare_inputs
from jtl.data.pipeline import train_batches
from jtl.data.randaugment import randaugment
from jtl.data.warp import mirror, random_matrix, warp
from jtl.errors import UserError
from jtl.keys import derive
from jtl.models.preprocessing import Preprocessing

FAST = {'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True}  # compiles with little effort of LLVM's
FLIP = settings_of({'flip': True})
EVERYTHING = {
    'crop': 0.5,
    'resized_crop': (0.2, 1.0),
    'rotation': 20.0,
    'width_shift': 0.2,
    'height_shift': 0.2,
    'shear': 10.0,
    'zoom': 0.2,
    'fill': 'reflect',
    'flip': True,
    'vertical_flip': True,
    'randaugment': (2, 9),
    'brightness': 0.3,
    'contrast': 0.3,
    'saturation': 0.3,
    'hue': 0.1,
    'erase': 0.5,
}


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
    seen, first = set(), []
    run = jax.jit(lambda x, k: augment(x, k, FLIP, size=(4, 5)), compiler_options=FAST)
    for step in range(4):
        found = np.asarray(run(images, jax.random.key(step)))
        assert found.dtype == np.uint8 and found.shape == (64, 4, 5, 3)
        for image, result in zip(images, found, strict=True):
            places = [place for place, window in windows(image, (4, 5)) if (window == result).all()]
            assert len(places) == 1
            seen.add(places[0])
            first.append(places[0])
    assert len(seen) == 2 * 3 * 3
    assert first[:4] == [(True, 0, 2), (True, 0, 2), (False, 1, 1), (False, 1, 1)]  # what runs were trained on stays what it was


def test_an_example_does_not_feel_the_others(images):
    key = jax.random.key(3)
    run = jax.jit(lambda x, k: augment(x, k, FLIP, size=(4, 4)), compiler_options=FAST)
    whole = run(images, key)
    np.testing.assert_array_equal(run(images[:9], key), whole[:9])
    changed = images.copy()
    changed[1:] = 0
    np.testing.assert_array_equal(run(changed, key)[0], whole[0])
    assert (np.asarray(run(images, jax.random.key(4))) != whole).any()


def test_without_crop_and_flip_nothing_changes(images):
    np.testing.assert_array_equal(augment(images, jax.random.key(0), settings_of({}), size=(6, 7)), images)


@pytest.fixture(scope='module')
def everything():
    """All of it at once, compiled."""
    settings = settings_of(EVERYTHING)
    return jax.jit(lambda images, key: augment(images, key, settings, size=(6, 7)), compiler_options=FAST)


def test_everything_in_its_order(everything):
    images = np.random.default_rng(1).integers(0, 256, (8, 12, 14, 3), np.uint8)
    key = jax.random.key(7)
    found = np.asarray(everything(images, key))
    assert found.shape == (8, 6, 7, 3) and found.dtype == np.float32 and found.min() >= 0 and found.max() <= 255
    grey = jax.eval_shape(everything, images[..., :1], key)
    assert grey.shape == (8, 6, 7, 1) and grey.dtype == np.float32

    def by_hand(image, position):
        key_of = jax.random.fold_in(key, position)
        crop_key, flip_key = jax.random.split(key_of)
        image = random_resized_crop(image, crop_key, (6, 7), area=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
        matrix = random_matrix(
            derive(key_of, 'warp'), (6, 7), rotation=20.0, height_shift=0.2, width_shift=0.2, shear=10.0, zoom=(0.8, 1.2)
        )
        flips = (jax.random.bernoulli(derive(key_of, 'vertical_flip')), jax.random.bernoulli(flip_key))
        image = randaugment(warp(image, mirror(matrix, flips), 'reflect'), derive(key_of, 'randaugment'), 2, 9, 'reflect', 0.0)
        image = jitter(image.astype(np.float32), derive(key_of, 'colour'), brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
        return random_erase(image, derive(key_of, 'erase'), probability=0.5, area=(0.02, 1 / 3), ratio=(0.3, 3.3))

    wanted = jax.jit(jax.vmap(by_hand), compiler_options=FAST)(images, np.arange(8))
    np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_same_key_gives_the_same_batch_and_another_example_or_step_another(everything):
    images = np.repeat(np.random.default_rng(2).integers(0, 256, (1, 12, 14, 3), np.uint8), 8, 0)
    first, again, later = (np.asarray(everything(images, jax.random.key(k))) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(np.concatenate([first, later]).reshape(16, -1), axis=0)) == 16


def test_eight_devices_make_what_one_makes_and_send_nothing(everything):
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_force_host_platform_device_count=8'
    command = [sys.executable, str(Path(__file__).with_name('augment_on_devices.py')), *map(json.dumps, (EVERYTHING, FAST, 5))]
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found['devices'] == 8 and found['collectives'] == []
    images = np.random.default_rng(5).integers(0, 256, (8, 12, 14, 3), np.uint8)
    np.testing.assert_array_equal(np.array(found['result'], np.float32), everything(images, jax.random.key(5)))


def test_resized_crops_come_out_of_the_larger_picture_that_the_host_delivers():
    """The detail that half of the picture's side has at twice the size is there, and the net's inputs have its size and range."""
    stripes = np.tile(np.array([[0], [255]], np.uint8), (16, 32))[..., None]  # a row dark, a row bright
    split = from_arrays({'train': np.stack([stripes] * 4)}, {'train': np.arange(4) % 2}).splits['train']
    preprocessing = Preprocessing((16, 16), (127.5,), (127.5,), channels='L')
    settings = settings_of({'crop': 0.5, 'resized_crop': (0.25, 0.25), 'resized_crop_ratio': (1.0, 1.0)})
    batch = next(train_batches(split, batch_size=4, seed=0, preprocessing=preprocessing, crop=settings.crop))
    assert batch['image'].shape == (4, 32, 32, 1)
    spec = {'image': jax.ShapeDtypeStruct((16, 16, 1), np.float32)}

    @jax.jit
    def inputs(batch, key):
        return prepare_inputs(batch, spec, preprocessing, key=key, settings=settings)['image']

    found = np.asarray(inputs(batch, jax.random.key(0)))
    assert found.shape == (4, 16, 16, 1) and found.min() == -1 and found.max() == 1  # a window of 16 x 16: as sharp as the picture
    assert {float(picture[0, 0, 0]) for picture in found} == {-1.0, 1.0}


def test_what_rounds_nothing_keeps_the_dtype(images):
    for dtype in (np.uint8, np.float32):
        for section, wanted in (
            ({'crop': 0.5, 'flip': True, 'vertical_flip': True, 'erase': 0.5}, dtype),
            ({'randaugment': (1, 5)}, np.uint8),
            ({'rotation': 5.0}, np.float32),
            ({'hue': 0.1}, np.float32),
        ):
            settings = settings_of(section)
            run = lambda images, settings=settings: augment(images, jax.random.key(0), settings, size=(4, 4))  # noqa: E731
            found = jax.eval_shape(run, images.astype(dtype))
            assert found.shape == (64, 4, 4, 3) and found.dtype == wanted


def test_settings_are_the_section_in_range():
    settings = settings_of(ConfigDict({**defaults(), 'zoom': 0.25, 'randaugment': (2, 9.0), 'resized_crop': (0.5, 1.0), 'crop': 0.5}))
    assert settings.zoom == (0.75, 1.25) and settings.randaugment == (2, 9.0) and settings.resized_crop == (0.5, 1.0)
    assert settings_of({'zoom': [0.5, 1]}) == settings_of({'zoom': (0.5, 1.0)}) and hash(settings)
    assert settings_of(defaults()) == settings_of({}) and not settings_of({}).warps and not settings_of({}).recolours
    for name in ('rotation', 'width_shift', 'height_shift', 'shear', 'zoom'):
        assert settings_of({name: 0.1}).warps


@pytest.mark.parametrize(
    ('section', 'says'),
    [
        ({'rotate': 20.0}, r"rotate: there is no such field\. Did you mean 'rotation'"),
        ({'crop': 0.0}, r'crop: a fraction in \(0, 1\], found 0\.0'),
        ({'crop': 1.5}, r'crop: .* found 1\.5'),
        ({'flip': 1}, r'flip: True or False, found 1'),
        ({'vertical_flip': 0.5}, r'vertical_flip: True or False'),
        ({'rotation': -5.0}, r'rotation: degrees in \[0, 180\], found -5\.0'),
        ({'rotation': float('nan')}, r'rotation: .* found nan'),
        ({'rotation': True}, r'rotation: .* found True'),
        ({'width_shift': 20.0}, r'width_shift: a fraction of the width in \[0, 1\]'),
        ({'height_shift': '0.1'}, r"height_shift: a fraction .* found '0\.1'"),
        ({'shear': 90.0}, r'shear: degrees in \[0, 89\]'),
        ({'zoom': 1.0}, r'zoom: None, a number in \[0, 1\), or \(least, most\), 0 < least <= most, found 1\.0'),
        ({'zoom': (1.2, 0.8)}, r'zoom: .* found \(1\.2, 0\.8\)'),
        ({'zoom': 'in'}, r"zoom: .* found 'in'"),
        ({'fill': 'wrap'}, r"fill: one of 'nearest', 'constant', 'reflect', found 'wrap'"),
        ({'fill_value': 256.0}, r'fill_value: a pixel value in \[0, 255\]'),
        ({'crop': 0.5, 'resized_crop': (0.08,)}, r'resized_crop: \(\) or \(least, most\) area, 0 < least <= most <= 1, found \(0\.08,\)'),
        ({'resized_crop': (0.08, 1.0)}, r'resized_crop: .* set config\.augment\.crop below 1 too, such as 0\.5'),
        ({'resized_crop_ratio': (0.0, 1.0)}, r'resized_crop_ratio: \(least, most\) width / height'),
        ({'brightness': -0.1}, r'brightness: a number of at least 0'),
        ({'contrast': float('inf')}, r'contrast: .* found inf'),
        ({'hue': 0.6}, r'hue: a part of the colour circle in \[0, 0\.5\]'),
        ({'randaugment': (2,)}, r'randaugment: \(\) or \(operations, magnitude from 0 to 10\), found \(2,\)'),
        ({'randaugment': (0, 9)}, r'randaugment: .* found \(0, 9\)'),
        ({'randaugment': (2, 11)}, r'randaugment: .* found \(2, 11\)'),
        ({'randaugment': (1.5, 9)}, r'randaugment: .* found \(1\.5, 9\)'),
        ({'erase': 1.1}, r'erase: a probability in \[0, 1\]'),
        ({'erase_area': (0.0, 0.3)}, r'erase_area: \(least, most\) area'),
        ({'erase_ratio': 0.3}, r'erase_ratio: \(least, most\) height / width, .* found 0\.3'),
    ],
)
def test_values_out_of_range_are_told(section, says):
    with pytest.raises(UserError, match=rf'^config\.augment\.{says}'):
        settings_of(section)
