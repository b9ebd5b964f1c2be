import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from jtl.data import load_data
from jtl.data.digits import is_test
from jtl.errors import UserError


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return str(tmp_path_factory.mktemp('tfds'))


def test_the_pictures_are_scikit_learns(root):
    data = load_data({'name': 'digits', 'root': root, 'validation': 0.0})
    images, targets = load_digits(return_X_y=True)
    rebuilt = np.concatenate([data.splits[name].examples.images for name in ('train', 'test')])
    wanted = np.concatenate([images[~is_test(targets)], images[is_test(targets)]])
    np.testing.assert_allclose(rebuilt.reshape(-1, 64), wanted * 255 / 16, atol=0.51)
    assert rebuilt.dtype == np.uint8 and rebuilt.shape == (1797, 8, 8, 1) and data.labels == tuple('0123456789')
    np.testing.assert_array_equal(data.splits['test'].targets, targets[is_test(targets)])


def test_the_split_is_fixed_and_stratified(root):
    splits = [load_data({'name': 'digits', 'root': root, 'seed': seed, 'validation': 0.1}).splits for seed in (0, 1)]
    assert [len(split) for split in splits[0].values()] == [1299, 143, 355]
    np.testing.assert_array_equal(splits[0]['test'].examples.images, splits[1]['test'].examples.images)
    assert np.bincount(splits[0]['test'].targets).tolist() == [35, 36, 35, 36, 36, 36, 36, 35, 34, 36]


def test_classes_and_shots(root):
    data = load_data({'name': 'digits', 'root': root, 'classes': ('5', '6', '7', '8', '9'), 'shots': 10})
    assert data.labels == tuple('56789') and np.bincount(data.splits['train'].targets).tolist() == [10] * 5
    with pytest.raises(UserError, match="there is no class 'five'"):
        load_data({'name': 'digits', 'root': root, 'classes': ('five',)})


@pytest.mark.slow
def test_two_processes_prepare_at_once(tmp_path):
    code = f'from jtl.data import load_data; print(load_data({{"name": "digits", "root": {str(tmp_path)!r}}}).fingerprint)'
    running = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert printed[0] == printed[1] and len(printed[0].split()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['sklearn_digits']


def test_the_cache_directory_is_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    load_data({'name': 'digits'})
    assert (tmp_path / 'jtl' / 'tfds' / 'sklearn_digits').is_dir()
    with pytest.raises(UserError, match='cannot write /proc/nowhere'):
        load_data({'name': 'digits', 'root': '/proc/nowhere'})
