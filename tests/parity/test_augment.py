"""Augmentation beside Keras's ImageDataGenerator and torchvision, on the same parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl.data.augment import settings_of
from jtl.data.colour import brighten, contrast_by, saturate, turn_hue
from jtl.data.crops import Window, crop_window, resize_window
from jtl.data.randaugment import BLENDS, MOVES, OPERATIONS, operate
from jtl.data.warp import FILLS, affine_matrix, warp

pytestmark = pytest.mark.parity

SIDE = 24
TORCHVISION = {  # our names of RandAugment's operations
    'identity': 'Identity',
    'shear_x': 'ShearX',
    'shear_y': 'ShearY',
    'translate_x': 'TranslateX',
    'translate_y': 'TranslateY',
    'rotate': 'Rotate',
    'brightness': 'Brightness',
    'color': 'Color',
    'contrast': 'Contrast',
    'sharpness': 'Sharpness',
    'posterize': 'Posterize',
    'solarize': 'Solarize',
    'auto_contrast': 'AutoContrast',
    'equalize': 'Equalize',
}


@pytest.fixture(scope='module')
def image():
    """Smooth enough to be a picture, with noise on it."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-20, 21, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def torchvision():
    pytest.importorskip('reference')
    import torchvision

    return torchvision


@pytest.mark.parametrize('fill', FILLS)
def test_the_affine_map_is_kerass(image, fill):
    """`apply_transform` of ten draws of the classical recipe, for which Keras draws shear in degrees and shifts in pixels."""
    pytest.importorskip('keras_reference')
    from keras.src.legacy.preprocessing import image as keras_image

    generator = keras_image.ImageDataGenerator(
        rotation_range=20,
        width_shift_range=0.2,
        height_shift_range=0.2,
        shear_range=25,
        zoom_range=0.2,
        fill_mode=fill,
        cval=99.0,
        data_format='channels_last',
    )
    settings = settings_of({'rotation': 20.0, 'width_shift': 0.2, 'height_shift': 0.2, 'shear': 25.0, 'zoom': 0.2, 'fill': fill})
    assert list(settings.zoom) == generator.zoom_range
    largest = 0.0
    for seed in range(10):
        drawn = generator.get_random_transform(image.shape, seed=seed)
        assert abs(drawn['tx']) <= 0.2 * SIDE and abs(drawn['theta']) <= 20 and abs(drawn['shear']) <= 25
        wanted = generator.apply_transform(image.astype(np.float64), drawn)
        # Keras's x is the column, for its shifts and zooms too.
        matrix = affine_matrix(
            *(jnp.float32(v) for v in (np.deg2rad(drawn['theta']), drawn['ty'], drawn['tx'], np.deg2rad(drawn['shear']))),
            jnp.array([drawn['zy'], drawn['zx']], jnp.float32),
        )
        largest = max(largest, float(np.abs(np.asarray(warp(jnp.asarray(image), matrix, fill, 99.0)) - wanted).max()))
    print(f'largest difference {largest:.1e} of 255')
    assert largest < 0.01


@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation', 'hue'])
def test_colours_are_torchvisions(image, torchvision, name):
    """On float tensors, which round nothing."""
    import torch

    functional = torchvision.transforms.functional
    ours, theirs, factors = {
        'brightness': (brighten, functional.adjust_brightness, (0.0, 0.4, 1.3)),
        'contrast': (contrast_by, functional.adjust_contrast, (0.0, 0.4, 1.7)),
        'saturation': (saturate, functional.adjust_saturation, (0.0, 0.4, 1.7)),
        'hue': (turn_hue, functional.adjust_hue, (-0.5, -0.1, 0.3)),
    }[name]
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255
    for factor in factors:
        wanted = 255 * theirs(tensor, factor).numpy().transpose(1, 2, 0)
        found = np.asarray(ours(jnp.asarray(image, jnp.float32), jnp.float32(factor)))
        # torchvision's grey has 0.2989 for 0.299: at most 0.0001 * 255 less, times |1 - factor|.
        np.testing.assert_allclose(found, wanted, atol=1e-3 + (0.0256 * abs(1 - factor) if name in ('contrast', 'saturation') else 0))


@pytest.mark.parametrize('magnitude', [0, 5, 10])
def test_operations_are_torchvisions(image, torchvision, magnitude):
    from torchvision.transforms import autoaugment

    policy = autoaugment.RandAugment(num_magnitude_bins=11)
    space = policy._augmentation_space(11, (SIDE, SIDE))
    assert set(TORCHVISION.values()) == set(space) and set(TORCHVISION) == set(OPERATIONS)
    cases = [(name, sign) for name in OPERATIONS for sign in ((1.0, -1.0) if space[TORCHVISION[name]][1] else (1.0,))]
    assert {name for name, sign in cases if sign < 0} == {*MOVES, *BLENDS}
    run = jax.jit(jax.vmap(lambda k, sign: operate(jnp.asarray(image), k, sign, magnitude, 'constant', 0.0)))
    found = np.asarray(run(np.array([OPERATIONS.index(name) for name, _ in cases]), np.array([sign for _, sign in cases], np.float32)))

    def theirs(pixels, name, sign):
        magnitudes, _ = space[TORCHVISION[name]]
        value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
        bilinear = torchvision.transforms.InterpolationMode.BILINEAR
        return np.asarray(autoaugment._apply_op(Image.fromarray(pixels), TORCHVISION[name], sign * value, bilinear, None))

    for (name, sign), result in zip(cases, found, strict=True):
        off = np.abs(result.astype(int) - theirs(image, name, sign))
        if name in MOVES:  # Pillow fills from half a pixel further out
            shown = (theirs(np.full((SIDE, SIDE), 255, np.uint8), name, sign) > 0) & ~(result == 0).all(-1)
            assert shown.mean() > 0.45
            off = off[shown]
        assert off.max() <= 1, (name, sign, off.max())


def test_resized_crops_are_torchvisions(image, torchvision):
    import torch

    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy()).float()
    run = jax.jit(lambda *window: resize_window(jnp.asarray(image), Window(*window), (10, 11)))
    for window in [(0, 0, SIDE, SIDE), (2, 3, 20, 17), (5, 1, 6, 7), (0, 20, 3, 3)]:
        wanted = torchvision.transforms.functional.resized_crop(tensor, *window, size=(10, 11), antialias=True)
        np.testing.assert_allclose(run(*np.array(window, np.int32)), wanted.numpy().transpose(1, 2, 0), atol=1e-3)


@pytest.mark.parametrize(
    ('size', 'area', 'ratio'), [((60, 90), (0.08, 1.0), (3 / 4, 4 / 3)), ((90, 40), (0.3, 1.0), (3 / 4, 4 / 3))], ids=['wide', 'high']
)
def test_windows_are_distributed_as_torchvisions(torchvision, size, area, ratio):
    """Heights, widths and places of 3000 windows each: the two samples are of one distribution."""
    import torch
    from scipy import stats

    torch.manual_seed(0)
    tensor = torch.zeros(1, *size)
    draw = torchvision.transforms.RandomResizedCrop.get_params
    theirs = np.array([draw(tensor, list(area), list(ratio)) for _ in range(3000)], np.float64)
    keys = jax.random.split(jax.random.key(0), 3000)
    ours = np.stack(jax.jit(jax.vmap(lambda key: crop_window(key, size, area, ratio)))(keys), -1).astype(np.float64)
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-3, column
