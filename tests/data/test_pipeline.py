import sys
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.data.base import UnreadableError
from jtl.data.pipeline import epoch_steps, eval_batches, order, train_batches
from jtl.models.preprocessing import Preprocessing

GREY = Preprocessing((4, 4), mean=(0.0,), std=(1.0,), channels='L')
N = 11


@pytest.fixture(scope='module')
def split():
    images = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 1), np.uint8)
    return from_arrays({'train': images}, {'train': np.arange(N) % 3}).splits['train']


def take(batches, count):
    batches = list(islice(batches, count))
    assert len(batches) == count
    return batches


def same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].dtype == b[key].dtype
            np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_holds_the_examples_of_its_indices(split):
    for batch in take(train_batches(split, batch_size=4, seed=1, preprocessing=GREY), 5):
        assert batch.keys() == {'image', 'label', 'index'}
        assert batch['index'].dtype == np.int32 and batch['label'].dtype == np.int32 and batch['image'].dtype == np.uint8
        np.testing.assert_array_equal(batch['image'], split.examples.images[batch['index']])
        np.testing.assert_array_equal(batch['label'], split.targets[batch['index']])


def test_a_batch_depends_on_its_step_alone(split):
    options = {'batch_size': 4, 'seed': 5, 'preprocessing': GREY}
    whole = take(train_batches(split, **options), 12)
    for first in (1, 7):
        same(take(train_batches(split, first_step=first, **options), 12 - first), whole[first:])
    other = take(train_batches(split, **{**options, 'seed': 6}), 12)
    assert any((a['index'] != b['index']).any() for a, b in zip(whole, other, strict=True))


def test_worker_processes_change_nothing(split):
    options = {'batch_size': 4, 'seed': 5, 'preprocessing': GREY, 'first_step': 2}
    same(take(train_batches(split, workers=2, **options), 9), take(train_batches(split, **options), 9))


def test_hosts_together_read_the_global_batch(split):
    options = {'batch_size': 6, 'preprocessing': GREY}
    whole = take(train_batches(split, seed=2, **options), 8)
    parts = [take(train_batches(split, seed=2, rows=rows, **options), 8) for rows in (range(0, 2), range(2, 6))]
    same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)], whole)
    whole = list(eval_batches(split, **options))
    parts = [list(eval_batches(split, rows=rows, **options)) for rows in (range(0, 2), range(2, 6))]
    same([{k: np.concatenate([a[k], b[k]]) for k in a} for a, b in zip(*parts, strict=True)], whole)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(-3, 2**40), st.integers(0, 5))
def test_every_epoch_is_a_permutation(n, seed, epoch):
    epochs = [order(n, seed, e * n, n) for e in (epoch, epoch + 1)]
    for found in epochs:
        assert sorted(found) == list(range(n))
    if n > 12:
        assert (epochs[0] != epochs[1]).any()
    np.testing.assert_array_equal(order(n, seed, epoch * n + 1, 2 * n - 1), np.concatenate(epochs)[1:])


def test_epochs_follow_each_other_across_batches(split):
    indices = np.concatenate([b['index'] for b in take(train_batches(split, batch_size=4, seed=0, preprocessing=GREY), N)])
    for k in range(4):
        assert sorted(indices[k * N : (k + 1) * N]) == list(range(N))


@pytest.mark.parametrize('batch_size', [1, 4, 11, 16])
def test_evaluation_sees_each_example_once_in_order(split, batch_size):
    batches = list(eval_batches(split, batch_size=batch_size, preprocessing=GREY))
    assert len(batches) == epoch_steps(N, batch_size)
    assert {b['image'].shape for b in batches} == {(batch_size, 4, 4, 1)}
    assert {b['real'].dtype for b in batches} == {np.dtype(np.float32)}
    seen = np.concatenate([b['index'][b['real'] == 1] for b in batches])
    np.testing.assert_array_equal(seen, np.arange(N))
    for b in batches:
        np.testing.assert_array_equal(b['image'], split.examples.images[b['index']])


def test_float_images_and_random_crops_have_their_size():
    images = np.random.default_rng(0).random((3, 10, 20, 3))
    split = from_arrays({'train': images}, {'train': [0.5, 1.5, 2.5]}).splits['train']
    batch = next(train_batches(split, batch_size=2, seed=0, size=(8, 6), crop=0.5, preprocessing=Preprocessing((4, 4))))
    assert batch['image'].shape == (2, 16, 12, 3) and batch['image'].dtype == np.float32 and batch['label'].dtype == np.float32
    batch = next(eval_batches(split, batch_size=2, size=(8, 6), preprocessing=Preprocessing((4, 4))))
    assert batch['image'].shape == (2, 8, 6, 3)


def test_a_picture_that_breaks_later_is_named(tmp_path):
    from PIL import Image

    for label in 'ab':
        (tmp_path / label).mkdir()
        for k in range(4):
            Image.fromarray(np.full((9, 9, 3), k, np.uint8)).save(tmp_path / label / f'{k}.png')
    data = load_data({'name': 'folder', 'root': str(tmp_path), 'validation': 0.0, 'test': 0.0})
    (tmp_path / 'a' / '2.png').write_bytes(b'no')
    with pytest.raises(UnreadableError, match=r'a/2.png cannot be read'):
        list(eval_batches(data.splits['train'], batch_size=4, preprocessing=Preprocessing((8, 8))))


def test_a_users_own_file_reaches_worker_processes(tmp_path):
    (tmp_path / 'mine.py').write_text("""
import numpy as np
from jtl.data.base import Data, Split

class Squares:
    def __len__(self):
        return 6
    def __getitem__(self, index):
        return {'image': np.full((4, 4, 1), index ** 2, np.uint8), 'label': index % 2}

def squares(section):
    targets = np.arange(6, dtype=np.int32) % 2
    return Data({'train': Split(Squares(), targets, str)}, ('even', 'odd'))
""")
    data = load_data({'name': f'{tmp_path}/mine.py:squares', 'validation': 0.0, 'test': 0.0})
    batch = next(eval_batches(data.splits['train'], batch_size=6, preprocessing=GREY, workers=1))
    np.testing.assert_array_equal(batch['image'][:, 0, 0, 0], np.arange(6) ** 2)
    assert any(name.startswith('jtl_file_') for name in sys.modules)
