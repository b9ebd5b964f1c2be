import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jtl.data.base import UnreadableError
from jtl.data.images import decode, normalize, padded_size, prepare, verify
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing


def noise(height, width, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), np.uint8)


def encoded(picture, kind='png', **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def triangle_halving(row):
    """A row halved by the triangle filter (radius 2 source pixels), by its definition: weights 1 - |x - centre| / 2, normalised, cut at the border."""
    out = []
    for k in range(len(row) // 2):
        centre = 2 * k + 1  # in source pixels; pixel j covers [j, j + 1), its middle is j + 0.5
        weights = np.clip(1 - np.abs(np.arange(len(row)) + 0.5 - centre) / 2, 0, None)
        out.append((weights * row).sum() / weights.sum())
    return np.array(out)


def test_bilinear_resize_is_antialiased():
    image = np.random.default_rng(1).random((8, 8, 1)).astype(np.float32) * 255
    half = np.apply_along_axis(triangle_halving, 0, np.apply_along_axis(triangle_halving, 1, image))
    np.testing.assert_allclose(prepare(image, Preprocessing((4, 4), (0.0,), (1.0,), channels='L')), half, rtol=1e-5)
    whole = prepare(np.rint(image).astype(np.uint8), Preprocessing((4, 4), (0.0,), (1.0,), channels='L'))
    assert whole.dtype == np.uint8
    np.testing.assert_allclose(whole, half, atol=1.6)  # rounding of the input, of the pass between, and of the result


@pytest.mark.parametrize('interpolation', ['nearest', 'bilinear', 'bicubic', 'lanczos'])
@pytest.mark.parametrize('shape', [(40, 60), (61, 37), (20, 20), (7, 50)])
@pytest.mark.parametrize('crop', [1.0, 0.875])
def test_resize_to_the_short_side_then_centre_crop(shape, interpolation, crop):
    """Against the two steps done whole, as torchvision's Resize(short side) and CenterCrop do them."""
    image, size = noise(*shape), 14
    side = int(size / crop)
    height, width = shape
    resized = (side, int(side * width / height)) if height <= width else (int(side * height / width), side)
    method = getattr(Image.Resampling, interpolation.upper())
    picture = np.asarray(Image.fromarray(image).resize(resized[::-1], method))
    top, left = round((resized[0] - size) / 2), round((resized[1] - size) / 2)
    expected = picture[top : top + size, left : left + size]
    found = prepare(image, Preprocessing((size, size), interpolation=interpolation, crop=crop))
    assert found.shape == (size, size, 3) and found.dtype == np.uint8
    off = np.abs(found.astype(int) - expected)
    if interpolation == 'nearest':
        assert (off > 0).mean() < 0.1  # where a source pixel's middle is hit exactly, either neighbour may be taken
    else:
        assert off.max() <= 2 and off.mean() < 0.3  # rounding in Pillow's two passes
        planes = [np.asarray(Image.fromarray(image[..., k].astype(np.float32)).resize(resized[::-1], method)) for k in range(3)]
        exact = np.stack(planes, -1)[top : top + size, left : left + size]
        found = prepare(image.astype(np.float32), Preprocessing((size, size), interpolation=interpolation, crop=crop))
        np.testing.assert_allclose(found, exact, atol=1e-3)


def test_sizes_that_are_no_squares_are_covered():
    for shape in ((10, 100), (100, 10), (30, 30), (1, 300)):
        for size in ((8, 12), (12, 8)):
            assert prepare(noise(*shape), Preprocessing(size, crop=0.9)).shape == (*size, 3)
            assert prepare(noise(*shape), Preprocessing(size), 0.5).shape == (2 * size[0], 2 * size[1], 3)


def test_nothing_happens_to_a_picture_of_the_right_size():
    image = noise(8, 8)
    np.testing.assert_array_equal(prepare(image, Preprocessing((8, 8))), image)
    np.testing.assert_array_equal(prepare(image, Preprocessing((4, 4), crop=0.5)), image[2:6, 2:6])
    np.testing.assert_array_equal(prepare(image, Preprocessing((4, 4)), 0.5), image)


def test_padded_size_has_no_rounding_surprise():
    assert padded_size((224, 224), 0.875) == (256, 256)
    assert [padded_size((s, s), s / (s + 32))[0] for s in (240, 260, 280, 300)] == [272, 292, 312, 332]


def test_channels():
    grey, colour = Preprocessing((4, 4), (0.0,), (1.0,), channels='L'), Preprocessing((4, 4))
    image = noise(4, 4)
    np.testing.assert_allclose(prepare(image, grey)[..., 0], np.asarray(Image.fromarray(image).convert('L')), atol=1)
    np.testing.assert_array_equal(prepare(image[..., :1], colour), np.repeat(image[..., :1], 3, -1))
    np.testing.assert_array_equal(prepare(noise(4, 4, 4), colour), noise(4, 4, 4)[..., :3])
    with pytest.raises(UserError, match='have 5 channels, the model reads RGB'):
        prepare(noise(4, 4, 5), colour)
    bands = Preprocessing((4, 4), (0.0,) * 5, (1.0,) * 5, channels='5')
    np.testing.assert_array_equal(prepare(noise(4, 4, 5), bands), noise(4, 4, 5))
    resized = prepare(noise(8, 6, 5), bands)
    np.testing.assert_array_equal(resized[..., :3], prepare(noise(8, 6, 5)[..., :3], colour))
    assert resized.shape == (4, 4, 5) and resized.dtype == np.uint8
    with pytest.raises(UserError, match='have 3 channels, the model reads 5'):
        prepare(noise(4, 4, 3), bands)


def test_decode_turns_every_file_into_grey_or_rgb():
    red = Image.new('RGB', (6, 4), (200, 10, 20))
    for picture in (red, red.convert('RGBA'), red.quantize(4)):
        np.testing.assert_array_equal(decode(encoded(picture)), np.broadcast_to([200, 10, 20], (4, 6, 3)))
    assert np.abs(decode(encoded(red.convert('CMYK'), 'jpeg')).astype(int) - [200, 10, 20]).max() < 6
    assert decode(encoded(Image.new('L', (6, 4), 7))).tolist() == np.full((4, 6, 1), 7).tolist()
    assert decode(encoded(Image.fromarray(np.full((4, 6), 0x8080, np.uint16)))).tolist() == np.full((4, 6, 1), 0x80).tolist()


def test_decode_applies_the_orientation():
    image = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(image), exif=exif)), np.rot90(image, -1))


def test_damaged_files_are_named(tmp_path):
    whole = encoded(Image.fromarray(noise(64, 64)), 'jpeg')
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    (tmp_path / 'text.jpg').write_bytes(b'hello')
    for action in (decode, verify):
        with pytest.raises(UnreadableError, match=r'cut\.jpg cannot be read: .*truncated'):
            action(tmp_path / 'cut.jpg')
        with pytest.raises(UnreadableError, match=r'text\.jpg cannot be read: it is no picture'):
            action(tmp_path / 'text.jpg')
        with pytest.raises(UnreadableError, match=r'gone\.jpg cannot be read'):
            action(tmp_path / 'gone.jpg')
    png = encoded(Image.fromarray(noise(64, 64)))
    with pytest.raises(UnreadableError, match='the picture cannot be read'):
        verify(png[:2000], 'the picture')
    verify(whole)
    verify(png)


def test_normalize():
    image = noise(5, 5)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (image / 255 - mean) / std
    rgb = Preprocessing((5, 5), mean, std, scale=1 / 255)
    found = jax.jit(lambda x: normalize(x, rgb))(image[None])
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    bgr = Preprocessing((5, 5), mean[::-1], std[::-1], scale=1 / 255, channels='BGR')
    np.testing.assert_allclose(normalize(image, bgr), expected[..., ::-1], atol=1e-5)
    assert normalize(image, rgb, jnp.bfloat16).dtype == jnp.bfloat16
