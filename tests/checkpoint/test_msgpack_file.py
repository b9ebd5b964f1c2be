"""Flax msgpack against flax.serialization itself, and damaged files."""

import dataclasses

import ml_dtypes
import msgpack
import numpy as np
import pytest
from etils import epath
from flax import serialization

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.blob import open_blob
from jtl.checkpoint.msgpack_file import open_msgpack
from jtl.checkpoint.sources import open_checkpoint

TREE = {
    'params': {
        'dense': {'kernel': np.arange(12, dtype=np.float32).reshape(3, 4), 'bias': np.arange(4).astype(ml_dtypes.bfloat16)},
        **{f'layer_{i}': {'scale': np.full(2, i, np.float16)} for i in range(20)},
    },
    'scalar': np.array(5, np.int32),
    'numpy_scalar': np.float64(0.5),
    'empty': np.zeros((0, 2)),
    'mask': np.array([True, False]),
    'list': [np.ones(2), np.zeros(3)],
    'step': 70_000,
    'negative': -3,
    'very_negative': -70_000,
    'rate': 0.125,
    'note': 'hello' * 20,
    'nothing': None,
    'yes': True,
    'complex': 1 + 2j,
}


def test_equal_to_flax(tmp_path):
    (tmp_path / 'm').write_bytes(serialization.to_bytes(TREE))
    found = open_checkpoint(str(tmp_path / 'm'))
    assert found.format == 'flax msgpack'
    assert found.metadata == {'step': 70_000, 'negative': -3, 'very_negative': -70_000, 'rate': 0.125, 'note': 'hello' * 20, 'yes': True}
    want = serialization.msgpack_restore((tmp_path / 'm').read_bytes())
    assert len(found.specs) == 22 + 4 + 2
    for key, spec in found.specs.items():
        node = want
        for part in key.split('/'):
            node = node[part]
        array = found.read(key)
        assert (array.dtype, array.shape) == (node.dtype, node.shape) == (spec.dtype, spec.shape), key
        assert np.array_equal(array, node), key


def test_arrays_in_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(serialization, 'MAX_CHUNK_SIZE', 64)
    kernel = np.arange(100, dtype=np.float32).reshape(4, 25)
    content = serialization.to_bytes({'kernel': kernel, 'bias': np.ones(3, np.float32)})
    assert b'__msgpack_chunked_array__' in content
    (tmp_path / 'm').write_bytes(content)
    found = open_checkpoint(str(tmp_path / 'm'))
    assert {key: spec.shape for key, spec in found.specs.items()} == {'kernel': (4, 25), 'bias': (3,)}
    assert np.array_equal(found.read('kernel'), kernel)
    lying = content.replace(b'\xa11\x19', b'\xa11\x1a')  # the shape's '1': 25 -> 26
    assert lying != content
    (tmp_path / 'm').write_bytes(lying)
    with pytest.raises(CheckpointError, match='needs 416 bytes, its chunks have 400'):
        open_checkpoint(str(tmp_path / 'm'))


def test_listing_does_not_read_the_data(tmp_path):
    (tmp_path / 'm').write_bytes(serialization.to_bytes({'w': np.zeros(1 << 20), 'b': np.zeros(3)}))
    blob = open_blob(epath.Path(tmp_path / 'm'), 'm')
    touched = []

    class Touched(np.ndarray):
        def tobytes(self, *args):
            touched.append(self.nbytes)
            return super().tobytes(*args)

    found = open_msgpack(dataclasses.replace(blob, read=lambda at, n: blob.read(at, n).view(Touched)), 'm')
    assert found.specs['w'].shape == (1 << 20,)
    assert 0 < sum(touched) < 200


def array(shape, name, data, code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, name, data)))


BAD = {
    'one number': msgpack.packb(3),
    'list': msgpack.packb([1, 2]),
    'size': msgpack.packb({'w': array([3], 'float32', b'\0' * 8)}),
    '1 TB': msgpack.packb({'w': array([1 << 38], 'float32', b'\0' * 8)}),
    'negative shape': msgpack.packb({'w': array([-1], 'float32', b'')}),
    'object dtype': msgpack.packb({'w': array([1], 'object', b'\0' * 8)}),
    'unknown dtype': msgpack.packb({'w': array([1], 'float31', b'\0' * 8)}),
    'dtype with fields': msgpack.packb({'w': array([1], 'i4,i4', b'\0' * 8)}),
    'other extension': msgpack.packb({'w': array([1], 'int8', b'\0', code=42)}),
    'not an array': msgpack.packb({'w': msgpack.ExtType(1, b'\x01')}),
    'two ways to a key': msgpack.packb({'a/b': array([1], 'int8', b'\0'), 'a': {'b': array([1], 'int8', b'\0')}}),
    'many entries': b'\xdf\xff\xff\xff\xff\xa1a\x01',
    'long string': b'\x81\xa1a\xdb\xff\xff\xff\xff',
    'deep': b'\x81\xa1a' * 5000,
    'key twice': b'\x82\xa1a\x01\xa1a\x02',
    'map as key': b'\x81\x81\xa1a\x01\x02',
    'something after': msgpack.packb({'w': array([1], 'int8', b'\0')}) + b'\0',
    'chunks of nothing': msgpack.packb({'w': {'__msgpack_chunked_array__': True}}),
    'no array': msgpack.packb({'a': 1}),
}


@pytest.mark.parametrize('kind', list(BAD))
def test_bad_files_are_refused(tmp_path, kind):
    (tmp_path / 'bad.msgpack').write_bytes(BAD[kind])
    with pytest.raises(CheckpointError, match=r'bad\.msgpack'):
        open_checkpoint(str(tmp_path / 'bad.msgpack'))


def test_every_truncation_is_one_message(tmp_path):
    whole = serialization.to_bytes(TREE)
    for length in range(0, len(whole), 7):
        (tmp_path / 'cut').write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='cut'):
            open_checkpoint(str(tmp_path / 'cut'))


def test_changed_bytes_never_give_anything_but_arrays_or_one_message(tmp_path):
    whole = bytearray(serialization.to_bytes(TREE))
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 300):
        changed = whole.copy()
        changed[place] ^= int(rng.integers(1, 256))
        (tmp_path / 'f').write_bytes(changed)
        try:
            found = open_checkpoint(str(tmp_path / 'f'))
            for key in found.specs:
                found.read(key)
        except CheckpointError as error:
            assert '/f' in str(error)
