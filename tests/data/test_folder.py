import numpy as np
import pytest
from PIL import Image

from jtl.data import load_data
from jtl.errors import UserError


def write(root, **counts):
    """`write(root, **{'train/cat': 3})`: so many different pictures in that folder."""
    for place, count in counts.items():
        folder = root / place
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(count):
            pixels = np.random.default_rng([len(place), sum(map(ord, place)), k]).integers(0, 256, (6, 8, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f'{k}.png')


def load(root, **fields):
    return load_data({'name': 'folder', 'root': str(root), **fields})


def test_split_folders_are_taken_as_they_are(tmp_path):
    write(tmp_path, **{'train/cat': 3, 'train/ant': 2, 'val/ant': 1, 'val/cat': 1, 'test/cat': 2})
    data = load(tmp_path)
    assert data.labels == ('ant', 'cat') and list(data.splits) == ['train', 'validation', 'test']
    assert [split.targets.tolist() for split in data.splits.values()] == [[0, 0, 1, 1, 1], [0, 1], [1, 1]]
    train = data.splits['train']
    assert train.name_of(4) == 'train/cat/2.png'
    np.testing.assert_array_equal(train.examples[4]['image'], np.asarray(Image.open(tmp_path / 'train/cat/2.png')))
    assert train.targets.dtype == np.int32 and data.notes == ()


def test_class_folders_alone_are_split(tmp_path):
    write(tmp_path, cat=20, ant=10)
    data = load(tmp_path, test=0.2, validation=0.25)
    assert {name: np.bincount(split.targets).tolist() for name, split in data.splits.items()} == {
        'train': [6, 12],
        'validation': [2, 4],
        'test': [2, 4],
    }
    names = [split.name_of(k) for split in data.splits.values() for k in range(len(split))]
    assert len(set(names)) == 30
    assert load(tmp_path, test=0.2, validation=0.25).fingerprint == data.fingerprint
    assert load(tmp_path, test=0.2, validation=0.25, seed=1).fingerprint != data.fingerprint
    assert list(load(tmp_path, test=0.0, validation=0.0).splits) == ['train']
    # The share of validation does not change what test holds.
    other = load(tmp_path, test=0.2, validation=0.5).splits['test']
    assert [other.name_of(k) for k in range(6)] == [data.splits['test'].name_of(k) for k in range(6)]


def test_a_class_may_be_called_train(tmp_path):
    write(tmp_path, train=3, bus=3)
    assert load(tmp_path, test=0.0).labels == ('bus', 'train')


def test_pictures_may_lie_deeper_and_other_files_are_noted(tmp_path):
    write(tmp_path, **{'cat/one': 2, 'cat': 1, 'dog': 2, '.git/x': 1})
    (tmp_path / 'cat' / 'readme.txt').write_text('hello')
    (tmp_path / 'cat' / '.DS_Store').write_text('hidden')
    data = load(tmp_path, test=0.0, validation=0.0)
    assert data.labels == ('cat', 'dog') and data.splits['train'].targets.tolist() == [0, 0, 0, 1, 1]
    assert len(data.notes) == 1 and '1 files that are no pictures are left out, such as readme.txt' in data.notes[0]


def test_the_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    for place in ('here', 'there'):
        write(tmp_path / place, cat=3, dog=3)
    first = load(tmp_path / 'here').fingerprint
    assert load(tmp_path / 'there').fingerprint == first
    path = tmp_path / 'there' / 'cat' / '0.png'
    path.write_bytes(path.read_bytes() + b'0')
    assert load(tmp_path / 'there').fingerprint != first


def test_what_is_wrong_is_said(tmp_path):
    def refuse(message, **counts):
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        root.mkdir()
        write(root, **counts)
        with pytest.raises(UserError, match=message):
            load(root)

    with pytest.raises(UserError, match=r'data.root: there is no folder .*/nowhere\.$'):
        load(tmp_path / 'nowhere')
    with pytest.raises(UserError, match=r"data.root: data.name='folder' needs the folder"):
        load('')
    refuse(r'it holds no folders')
    refuse(r'it holds 2 pictures outside of class folders', **{'.': 2})
    refuse(r'class folder .*/train/dog holds no pictures \(it is empty\)', **{'train/cat': 1, 'train/dog': 0})
    refuse(r"test has a class folder 'cats' that .*/train lacks. Did you mean 'cat'", **{'train/cat': 2, 'test/cats': 1})
    refuse(r'has test but no folder "train"', **{'test/cat': 2})
    refuse(r'has val and valid, which both mean validation', **{'train/cat': 2, 'val/cat': 1, 'valid/cat': 1})
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'no folder .*, it is a file'):
        load(tmp_path / 'file')
    (tmp_path / 'odd' / 'cat').mkdir(parents=True)
    (tmp_path / 'odd' / 'cat' / 'a.heic').write_text('')
    with pytest.raises(UserError, match=r'holds no pictures \(it holds 1 other files, such as a.heic\)'):
        load(tmp_path / 'odd')
