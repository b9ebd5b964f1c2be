import jax
import numpy as np
import pytest

from jtl.data.images import padded_size, prepare
from jtl.data.views import Views, views_of
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing
from jtl.tasks.classification import mean_probabilities as mean_of_classes
from jtl.tasks.multi_label import mean_probabilities as mean_of_labels

CROPPED = Preprocessing(size=(12, 16), crop=0.8)


def pictures(height, width, b=3):
    return np.random.default_rng(0).integers(0, 256, (b, height, width, 3), np.uint8)


def test_flip_is_the_picture_and_its_mirror_image():
    views, images = views_of(('flip',), CROPPED), pictures(12, 16)
    assert (views.count, views.crop) == (2, None)
    np.testing.assert_array_equal(views(images), [images, images[:, :, ::-1]])


@pytest.mark.parametrize('names', [('crops',), ('flip', 'crops'), ('crops', 'flip')])
def test_crops_are_the_corners_and_the_middle_then_their_mirror_images(names):
    views, images = views_of(names, CROPPED), pictures(15, 20)
    assert views.crop == 0.8 and padded_size(CROPPED.size, 0.8) == (15, 20)
    wanted = [images[:, :12, :16], images[:, :12, 4:], images[:, 3:, :16], images[:, 3:, 4:], images[:, 2:14, 2:18]]
    wanted += [view[:, :, ::-1] for view in wanted] if 'flip' in names else []
    found = np.asarray(jax.jit(views)(images))
    assert found.dtype == np.uint8 and len(found) == views.count
    np.testing.assert_array_equal(found, wanted)


def test_the_middle_is_what_evaluation_sees():
    image = np.add.outer(np.arange(60) * 3, np.arange(70)).astype(np.uint8)[..., None].repeat(3, axis=2)
    preprocessing = Preprocessing(size=(24, 24), crop=0.75)
    views = views_of(('crops',), preprocessing)
    middle = views(prepare(image, preprocessing, views.crop)[None])[4, 0]
    np.testing.assert_allclose(np.int32(middle), np.int32(prepare(image, preprocessing)), atol=1)


def test_weights_that_crop_nothing_are_shown_crops_of_a_fixed_size():
    assert views_of(('crops',), Preprocessing(size=(8, 8))) == Views(False, (8, 8), 0.875)
    assert views_of((), CROPPED) is None
    with pytest.raises(UserError, match=r"^config\.tta: there is no view 'flop'\. Did you mean 'flip'"):
        views_of(('crops', 'flop'), CROPPED)


def test_pictures_of_another_size_are_no_views():
    for names, size in ((('flip',), (15, 20)), (('crops',), (12, 16)), (('crops',), (11, 20))):
        with pytest.raises(ValueError, match='cannot be taken'):
            views_of(names, CROPPED)(pictures(*size))


def test_probabilities_are_averaged_not_logits():
    outputs = np.random.default_rng(1).normal(0, 4, (5, 7, 3)).astype(np.float32)
    outputs[0, 0] = (200, -200, 0)  # far beyond what exp() can hold
    z = np.float64(outputs)
    p = np.exp(z - z.max(axis=2, keepdims=True))
    p = (p / p.sum(axis=2, keepdims=True)).mean(axis=0)
    found = np.float64(mean_of_classes(outputs))
    np.testing.assert_allclose(np.exp(found), p, rtol=1e-5)
    assert np.abs(found - z.mean(axis=0)).max() > 1
    q = (1 / (1 + np.exp(-z))).mean(axis=0)
    np.testing.assert_allclose(mean_of_labels(outputs), np.log(q) - np.log1p(-q), rtol=1e-4, atol=1e-4)
