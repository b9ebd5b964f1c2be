import numpy as np
import pytest
from PIL import Image

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.data.base import content_digest
from jtl.data.orientations import NAMES, orient, with_orientations
from jtl.errors import UserError

TRANSPOSES = (None, 'ROTATE_90', 'ROTATE_180', 'ROTATE_270')


@pytest.mark.parametrize('orientation', range(8))
def test_an_orientation_is_what_pillow_makes(orientation):
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 1), np.uint8)
    picture = Image.fromarray(image[..., 0])
    if orientation >= 4:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if orientation % 4:
        picture = picture.transpose(Image.Transpose[TRANSPOSES[orientation % 4]])
    assert np.array_equal(orient(image, orientation)[..., 0], np.asarray(picture))


def test_the_eight_orientations_are_eight_different_pictures():
    image = np.arange(9).reshape(3, 3, 1)
    assert len({orient(image, k).tobytes() for k in range(8)}) == len(NAMES) == 8


@pytest.mark.parametrize('count', [4, 8])
def test_every_example_in_every_orientation_with_its_own_class(count):
    images = np.random.default_rng(1).integers(0, 256, (3, 4, 4, 1), np.uint8)
    data = from_arrays({'train': images, 'test': images[:1]}, {'train': [1, 0, 1], 'test': [1]}, ('cat', 'dog'))
    more = with_orientations(data, count)
    assert more.labels == tuple(label + name for label in ('cat', 'dog') for name in NAMES[:count])
    assert {name: len(split) for name, split in more.splits.items()} == {'train': 3 * count, 'test': count}
    assert np.bincount(more.splits['train'].targets).tolist() == [1] * count + [2] * count
    for split in more.splits.values():
        for k in range(len(split)):
            example = split.examples[k]
            assert np.array_equal(example['image'], orient(images[k // count], k % count))
            assert example['label'] == split.targets[k]
            assert more.labels[split.targets[k]].endswith(NAMES[k % count])
    assert more.splits['train'].name_of(count + 1) == 'train[1] turned 90'
    assert more.fingerprint != data.fingerprint
    assert 'orientations' in more.notes[-1]


def test_digests_tell_orientations_apart_and_find_the_same_picture_again():
    images = np.zeros((2, 2, 2, 1), np.uint8)
    split = with_orientations(from_arrays({'train': images}, {'train': [0, 1]}), 4).splits['train']
    digests = [content_digest(split.examples, k) for k in range(8)]
    assert digests[:4] == digests[4:]
    assert len(set(digests)) == 4


def test_splits_are_made_before_orientations(tmp_path):
    data = load_data({'name': 'digits', 'root': str(tmp_path), 'shots': 5, 'orientations': 8, 'validation': 0.2})
    originals = {name: {split.name_of(k).partition(' ')[0] for k in range(len(split))} for name, split in data.splits.items()}
    assert len(data.splits['train']) == 5 * 10 * 8
    assert {name: len(names) * 8 for name, names in originals.items()} == {name: len(split) for name, split in data.splits.items()}


def test_what_cannot_be_is_said():
    values = from_arrays({'train': np.zeros((2, 2, 2))}, {'train': [0.1, 0.2]})
    assert with_orientations(values, 1) is values
    with pytest.raises(UserError, match='have no classes'):
        with_orientations(values, 4)
    with pytest.raises(UserError, match='one of 1, 4, 8, found 3'):
        with_orientations(values, 3)
