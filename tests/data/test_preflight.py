import numpy as np
import pytest
from PIL import Image

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.data.preflight import preflight
from jtl.errors import UserError


@pytest.fixture
def root(tmp_path):
    for k, place in enumerate(('train/cat', 'train/dog', 'test/cat', 'test/dog')):
        (tmp_path / place).mkdir(parents=True)
        for j in range(4):
            pixels = np.random.default_rng([k, j]).integers(0, 256, (32, 32, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / place / f'{j}.jpg')
    return tmp_path


def load(root, **fields):
    return load_data({'name': 'folder', 'root': str(root), 'validation': 0.0, **fields})


def test_clean_data(root):
    found = preflight(load(root))
    assert found.counts == {'train': (4, 4), 'test': (4, 4)} and found.warnings == () and found.duplicates == ()
    assert [line.split() for line in found.text().splitlines()] == [
        ['class', 'train', 'test'],
        ['cat', '4', '4'],
        ['dog', '4', '4'],
        ['all', '8', '8'],
    ]


def test_duplicates_across_splits_are_named(root):
    (root / 'test/dog/9.jpg').write_bytes((root / 'train/cat/2.jpg').read_bytes())
    (root / 'train/cat/8.jpg').write_bytes((root / 'train/cat/1.jpg').read_bytes())  # within a split: not a leak
    found = preflight(load(root))
    assert found.duplicates == (('train/cat/2.jpg', 'test/dog/9.jpg'),)
    assert 'train/cat/2.jpg = test/dog/9.jpg' in found.text()


def test_duplicates_of_arrays_are_those_of_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
    data = from_arrays({'train': images, 'test': images[3:4]}, {'train': [0, 1, 0, 1, 0], 'test': [1]})
    assert preflight(data).duplicates == (('train[3]', 'test[0]'),)


def test_unreadable_files_are_named_and_dropped_when_allowed(root):
    whole = (root / 'train/dog/1.jpg').read_bytes()
    (root / 'train/dog/1.jpg').write_bytes(whole[: len(whole) // 2])
    (root / 'test/cat/3.jpg').write_bytes(b'')
    data = load(root)
    with pytest.raises(UserError) as error:
        preflight(data, max_unreadable=1)
    message = str(error.value)
    assert '2 of the 16 examples opened cannot be read, and data.max_unreadable is 1' in message
    assert 'train/dog/1.jpg' in message and 'test/cat/3.jpg' in message and 'data.max_unreadable=2' in message
    found = preflight(data, max_unreadable=2)
    assert found.counts == {'train': (4, 3), 'test': (3, 4)} and len(found.unreadable) == 2
    names = [split.name_of(k) for split in found.data.splits.values() for k in range(len(split))]
    assert len(names) == 14 and not {'train/dog/1.jpg', 'test/cat/3.jpg'} & set(names)
    assert all(split.examples[k]['image'].shape == (32, 32, 3) for split in found.data.splits.values() for k in range(len(split)))
    assert found.data.fingerprint != data.fingerprint


def test_absent_classes_are_said():
    images = np.random.default_rng(0).integers(0, 256, (4, 4, 4), np.uint8)
    data = from_arrays({'train': images[:2], 'test': images[2:]}, {'train': [0, 1], 'test': [0, 2]}, ('ant', 'bee', 'cow'))
    warnings = preflight(data).warnings
    assert warnings == (
        'train has no example of cow: what is absent cannot be learnt.',
        'test has no example of bee: what is absent is not measured there.',
    )


def test_the_cost_is_bounded_and_said():
    images = np.random.default_rng(0).integers(0, 256, (50, 2, 2), np.uint8)
    found = preflight(from_arrays({'train': images}, {'train': [0.5] * 50}), limit=7)
    assert found.checked == {'train': 7} and 'only 7 of 50 examples were opened' in found.warnings[0]
    assert ['opened', '7'] in [line.split() for line in found.text().splitlines()]
    assert preflight(from_arrays({'train': images}, {'train': [0.5] * 50}), limit=7, max_unreadable=1).checked == {'train': 50}


def test_shots_are_what_is_counted(root):
    found = preflight(load(root, shots=2))
    assert found.counts['train'] == (2, 2) and 'note: shots: 2 a class' in found.text()
