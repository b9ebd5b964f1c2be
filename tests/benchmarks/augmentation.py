"""Images a second of jtl's augmentation on the device beside Pillow doing the same to each picture on the host, in one process.

    python tests/benchmarks/augmentation.py [--size 224] [--batch 32] [--rounds 5]

Each round runs both for one batch in turn (A B A B ...); the best of each counts, and the ratio of the medians is printed with it. Pillow runs
in as many threads as there are cores (it lets go of the interpreter while it works) and starts from decoded pictures, as the device does.
Pillow's affine map fills with one value: it has no 'nearest', and does less than the recipe asks for. scipy does what Keras's
ImageDataGenerator does, 'nearest' too.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from scipy import ndimage

from jtl.data.augment import augment, settings_of
from jtl.data.images import padded_size

Host = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def recipe_matrix(rng: np.random.Generator, size: int) -> np.ndarray:
    """Rotation 20, shifts 0.2, shear 0.2, zoom 0.2, flip: (2, 3), on (row, column) from the first pixel."""
    turn, slant = np.deg2rad(rng.uniform(-20, 20)), np.deg2rad(rng.uniform(-0.2, 0.2))
    (down, right), (zy, zx) = rng.uniform(-0.2, 0.2, 2) * size, rng.uniform(0.8, 1.2, 2)
    cos, sin, flip = np.cos(turn), np.sin(turn), rng.choice([-1, 1])
    linear = np.array([[np.cos(turn + slant) * zy, sin * zx], [-np.sin(turn + slant) * zy, cos * zx]]) * [1, flip]
    middle = np.full(2, (size - 1) / 2)
    return np.column_stack([linear, middle - linear @ middle + [sin * right + cos * down, cos * right - sin * down]])


def recipe_pillow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    rows, columns = recipe_matrix(rng, len(pixels))
    data = (columns[1], columns[0], columns[2], rows[1], rows[0], rows[2])
    return np.asarray(Image.fromarray(pixels).transform(pixels.shape[1::-1], Image.Transform.AFFINE, data, Image.Resampling.BILINEAR))


def recipe_scipy(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    matrix = recipe_matrix(rng, len(pixels))
    planes = [ndimage.affine_transform(pixels[..., c], matrix[:, :2], matrix[:, 2], order=1, mode='nearest') for c in range(3)]
    return np.stack(planes, -1)


def crop_pillow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    side = len(pixels)
    while True:
        area, ratio = side**2 * rng.uniform(0.08, 1), np.exp(rng.uniform(*np.log([3 / 4, 4 / 3])))
        width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if width <= side and height <= side:
            break
    left, top = rng.integers(0, side - width + 1), rng.integers(0, side - height + 1)
    picture = Image.fromarray(pixels).resize((side // 2, side // 2), Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    return np.asarray(ImageOps.mirror(picture) if rng.random() < 0.5 else picture)


def colours_pillow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = Image.fromarray(pixels)
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        picture = enhance(picture).enhance(rng.uniform(0.6, 1.4))
    hue, saturation, value = picture.convert('HSV').split()
    turn = int(255 * rng.uniform(-0.1, 0.1))
    hue = Image.fromarray(np.asarray(hue) + np.uint8(turn % 256))
    return np.asarray(Image.merge('HSV', (hue, saturation, value)).convert('RGB'))


def randaugment_pillow(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    picture = Image.fromarray(pixels)
    for _ in range(2):
        k, sign = rng.integers(14), rng.choice([-1, 1])
        lean, move = 0.27 * sign, int(0.9 * 150 / 331 * len(pixels)) * sign
        if k < 4:
            data = [(1, lean, 0, 0, 1, 0), (1, 0, 0, lean, 1, 0), (1, 0, move, 0, 1, 0), (1, 0, 0, 0, 1, move)][k]
            picture = picture.transform(picture.size, Image.Transform.AFFINE, data, Image.Resampling.BILINEAR)
        elif k < 8:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, ImageEnhance.Sharpness)[k - 4]
            picture = enhance(picture).enhance(1 + 0.81 * sign)
        elif k < 13:
            change = (
                lambda x, angle=27 * sign: x.rotate(angle, Image.Resampling.BILINEAR),
                lambda x: ImageOps.posterize(x, 4),
                lambda x: ImageOps.solarize(x, 26),
                ImageOps.autocontrast,
                ImageOps.equalize,
            )[k - 8]
            picture = change(picture)
    return np.asarray(picture)


RECIPE = {'rotation': 20.0, 'width_shift': 0.2, 'height_shift': 0.2, 'shear': 0.2, 'zoom': 0.2, 'flip': True}
CASES: tuple[tuple[str, dict, str, Host], ...] = (
    ('VGG recipe', RECIPE, 'Pillow', recipe_pillow),
    ('VGG recipe', RECIPE, 'scipy', recipe_scipy),
    ('resized crop and flip', {'crop': 0.5, 'resized_crop': (0.08, 1.0), 'flip': True}, 'Pillow', crop_pillow),
    ('colours', {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1}, 'Pillow', colours_pillow),
    ('RandAugment (2, 9)', {'randaugment': (2, 9), 'fill': 'constant'}, 'Pillow', randaugment_pillow),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=5)
    options = parser.parse_args()
    cores, size, batch = os.cpu_count() or 1, options.size, options.batch
    print(f'{jax.devices()[0].device_kind}, {cores} cores, {size} px, batches of {batch}; images/s, best of {options.rounds}, A B A B')
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(cores) as pool:
        for name, section, host_name, host in CASES:
            settings = settings_of(section)
            images = rng.integers(0, 256, (batch, *padded_size((size, size), settings.crop), 3), np.uint8)
            run = jax.jit(lambda images, key, settings=settings: augment(images, key, settings, size=(size, size)))
            on_device = jax.device_put(images)
            jax.block_until_ready(run(on_device, jax.random.key(0)))
            ours, theirs = [], []
            for k in range(options.rounds):
                key = jax.random.key(k)
                start = time.perf_counter()
                jax.block_until_ready(run(on_device, key))
                ours.append(time.perf_counter() - start)
                generators = [np.random.default_rng((k, i)) for i in range(batch)]
                start = time.perf_counter()
                np.stack(list(pool.map(host, images, generators)))
                theirs.append(time.perf_counter() - start)
            ratio = statistics.median(theirs) / statistics.median(ours)
            print(f'{name:22} jtl {batch / min(ours):6.0f}   {host_name} {batch / min(theirs):6.0f}   ratio of medians {ratio:.2f}')


if __name__ == '__main__':
    main()
