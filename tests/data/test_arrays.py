import numpy as np
import pytest

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.errors import UserError

IMAGES = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)


def test_kinds_of_targets():
    classes = from_arrays({'train': IMAGES}, {'train': [2, 0, 1, 2]})
    assert classes.labels == ('0', '1', '2') and classes.splits['train'].targets.dtype == np.int32
    assert classes.splits['train'].examples[1]['image'].shape == (3, 3, 1)
    values = from_arrays({'train': IMAGES}, {'train': np.ones((4, 2))}, ('x', 'y'))
    assert values.labels == ('x', 'y') and values.splits['train'].targets.dtype == np.float32
    assert from_arrays({'train': IMAGES / 255.0}, {'train': [0.0, 1.5, 2, 3]}).splits['train'].examples[0]['image'].dtype == np.float32


def test_the_fingerprint_feels_every_part():
    def of(images=IMAGES, targets=(0, 1, 0, 1), labels=('a', 'b')):
        return from_arrays({'train': images}, {'train': list(targets)}, labels).fingerprint

    changed = IMAGES.copy()
    changed[2, 1, 1] += 1
    assert of() == of()
    assert len({of(), of(changed), of(targets=(0, 1, 1, 0)), of(labels=('b', 'a')), of(images=IMAGES.astype(np.float32))}) == 5


@pytest.mark.parametrize(
    ('images', 'targets', 'labels', 'message'),
    [
        ({'test': IMAGES}, {'test': [0] * 4}, (), "no 'train' split, found test"),
        ({'train': IMAGES}, {'train': [0] * 3}, (), 'train has 4 images but 3 targets'),
        ({'train': IMAGES}, {}, (), 'train has images but no targets'),
        ({'train': IMAGES}, {'train': [0, 1, 2, 3]}, ('a', 'b'), r'must lie in 0..1 .* found 3'),
        ({'train': IMAGES[0, 0]}, {'train': [0] * 3}, (), r'must be \(N, H, W\)'),
        ({'train': IMAGES, 'tset': IMAGES}, {'train': [0] * 4, 'tset': [0] * 4}, (), "no split 'tset'. Did you mean 'test'"),
        ({'train': IMAGES}, {'train': [0.0, np.nan, 1, 1]}, (), 'not finite'),
        ({'train': IMAGES}, {'train': ['a'] * 4}, (), r'class numbers or'),
        ({'train': IMAGES, 'test': IMAGES}, {'train': [0] * 4, 'test': [0.5] * 4}, (), 'differ in kind'),
    ],
)
def test_what_does_not_fit_is_said(images, targets, labels, message):
    with pytest.raises(UserError, match=message):
        from_arrays(images, targets, labels)


def test_an_npz_file(tmp_path):
    path = tmp_path / 'data.npz'
    np.savez(path, train_images=IMAGES, train_labels=[0, 1, 0, 1], test_images=IMAGES[:2], test_labels=[1, 0], label_names=['no', 'yes'])
    data = load_data({'name': 'arrays', 'root': str(path), 'validation': 0.0})
    assert data.labels == ('no', 'yes') and data.splits['test'].targets.tolist() == [1, 0] and list(data.splits) == ['train', 'test']


def test_npz_files_that_are_refused(tmp_path):
    def refuse(path, message):
        with pytest.raises(UserError, match=message):
            load_data({'name': 'arrays', 'root': str(path)})

    refuse('', 'needs the path of an .npz file')
    refuse(tmp_path / 'none.npz', 'there is no file')
    np.savez(tmp_path / 'pickle.npz', train_images=np.array([object()] * 2), train_labels=[0, 1])
    refuse(tmp_path / 'pickle.npz', 'no .npz file of plain arrays')
    np.savez(tmp_path / 'typo.npz', train_image=IMAGES, train_labels=[0] * 4)
    refuse(tmp_path / 'typo.npz', "array 'train_image' that means nothing here. Did you mean 'train_images'")
    np.savez(tmp_path / 'half.npz', train_images=IMAGES, train_labels=[0] * 4, test_labels=[0])
    refuse(tmp_path / 'half.npz', 'test_labels but no test_images')
    (tmp_path / 'text.npz').write_text('hello')
    refuse(tmp_path / 'text.npz', 'no .npz file')
    whole = (tmp_path / 'half.npz').read_bytes()
    (tmp_path / 'cut.npz').write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / 'cut.npz', 'damaged|no .npz file')
    np.save(tmp_path / 'one.npy', IMAGES)
    refuse(tmp_path / 'one.npy', 'no .npz file')
