"""npz archives against NumPy, and what NumPy would unpickle."""

import dataclasses
import io
import os
import tracemalloc
import zipfile

import ml_dtypes
import numpy as np
import pytest
from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.blob import open_blob, read_member, zip_members
from jtl.checkpoint.npz_file import open_npz
from jtl.checkpoint.sources import open_checkpoint

ARRAYS = {
    'params/dense/kernel': np.arange(12, dtype=np.float32).reshape(3, 4),
    'fortran': np.asfortranarray(np.arange(6).reshape(2, 3)),
    'scalar': np.array(2.5),
    'empty': np.zeros((0, 3), np.float16),
    'mask': np.array([True, False]),
    'complex': np.array([1 + 2j], np.complex64),
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_equal_to_numpy(tmp_path, save):
    save(tmp_path / 'm.npz', **ARRAYS)
    found = open_checkpoint(str(tmp_path / 'm.npz'))
    assert found.format == 'npz'
    assert list(found.specs) == list(ARRAYS)
    for key, want in ARRAYS.items():
        array = found.read(key)
        assert (array.dtype, array.shape) == (want.dtype, want.shape) == (found.specs[key].dtype, found.specs[key].shape)
        assert np.array_equal(array, want)


def test_what_numpy_says_otherwise(tmp_path):
    bf16 = np.arange(4).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / 'm', bf16=bf16, big=np.arange(3, dtype='>f4'), note=np.array('hello'), labels=np.array(['a', 'b']))
    found = open_checkpoint(str(tmp_path / 'm.npz'))
    assert np.load(tmp_path / 'm.npz')['bf16'].dtype == np.dtype('V2')
    assert found.specs['bf16'].dtype == bf16.dtype
    assert np.array_equal(found.read('bf16'), bf16)
    assert found.specs['big'].dtype == found.read('big').dtype == np.float32
    assert found.read('big').tolist() == [0, 1, 2]
    assert found.metadata == {'note': 'hello', 'labels': ['a', 'b']}
    assert set(found.specs) == {'bf16', 'big'}


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f'touch {self.marker}',)


def test_objects_are_refused_and_not_unpickled(tmp_path):
    marker = tmp_path / 'ran'
    np.savez(tmp_path / 'm', good=np.ones(2), bad=np.array([Bomb(marker)], dtype=object))
    with pytest.raises(CheckpointError, match=r"'bad\.npy' holds Python objects"):
        open_checkpoint(str(tmp_path / 'm.npz'))
    assert not marker.exists()
    np.load(tmp_path / 'm.npz', allow_pickle=True)['bad']
    assert marker.exists()  # the bomb was live


def npy(header: str, data: bytes) -> bytes:
    text = header.encode() + b'\n'
    return b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little') + text + data


BAD = {
    'more than there is': npy("{'descr': '<f4', 'fortran_order': False, 'shape': (5,)}", b'\0' * 16),
    '1 TB': npy("{'descr': '<f4', 'fortran_order': False, 'shape': (274877906944,)}", b'\0' * 16),
    'structured': npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,)}", b'\0' * 16),
    'a call in the header': npy("{'descr': __import__('os').getcwd(), 'fortran_order': False, 'shape': (4,)}", b'\0' * 16),
    'dates': npy("{'descr': '<M8[s]', 'fortran_order': False, 'shape': (2,)}", b'\0' * 16),
    'no header': b'hello',
    'nothing': b'',
}


@pytest.mark.parametrize('kind', list(BAD))
def test_bad_members_are_refused(tmp_path, kind):
    with zipfile.ZipFile(tmp_path / 'bad.npz', 'w') as archive:
        archive.writestr('w.npy', BAD[kind])
    with pytest.raises(CheckpointError, match=r'bad\.npz'):
        open_checkpoint(str(tmp_path / 'bad.npz'))


def test_damage(tmp_path):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, w=np.arange(1000))
    whole = buffer.getvalue()
    for length in range(0, len(whole), 13):
        (tmp_path / 'cut').write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='cut'):
            open_checkpoint(str(tmp_path / 'cut'))
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    (tmp_path / 'changed').write_bytes(changed)
    with pytest.raises(CheckpointError, match='changed'):
        open_checkpoint(str(tmp_path / 'changed')).read('w')


def test_a_member_cannot_unfold_further_than_it_says(tmp_path):
    np.savez_compressed(tmp_path / 'm', w=np.zeros(8 << 20))
    whole = bytearray((tmp_path / 'm.npz').read_bytes())
    entry = whole.index(b'PK\x01\x02')
    whole[entry + 24 : entry + 28] = bytes(4)  # its size in the directory: nothing
    (tmp_path / 'm.npz').write_bytes(whole)
    blob = open_blob(epath.Path(tmp_path / 'm.npz'), 'm')
    tracemalloc.start()
    with pytest.raises(CheckpointError, match='checksum'):
        read_member(blob, zip_members(blob)['w.npy'])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_listing_does_not_read_the_data(tmp_path):
    np.savez(tmp_path / 'm', a=np.zeros(1 << 20), b=np.zeros(3))
    blob = open_blob(epath.Path(tmp_path / 'm.npz'), 'm')
    lengths = []

    def read(offset, length):
        lengths.append(length)
        return blob.read(offset, length)

    assert open_npz(dataclasses.replace(blob, read=read), 'm').specs['a'].shape == (1 << 20,)
    assert sum(lengths) < 300_000
