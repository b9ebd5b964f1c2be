"""safetensors files against the reference library, and headers that lie."""

import dataclasses
import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.blob import open_blob
from jtl.checkpoint.safetensors_file import open_safetensors
from jtl.checkpoint.sources import open_checkpoint

ARRAYS = {
    'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
    'b': np.arange(5).astype(ml_dtypes.bfloat16),
    'c': np.array([True, False]),
    'd': np.array(3, np.int64),
    'e': np.zeros((0, 2), np.float16),
    'größe': np.arange(3, dtype=np.uint8),
}


def raw(header: dict | bytes, data: bytes = b'\0' * 16) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, 'little') + text + data


def entry(shape=(4,), offsets=(0, 16), dtype='F32') -> dict:
    return {'dtype': dtype, 'shape': list(shape), 'data_offsets': list(offsets)}


def test_equal_to_the_library(tmp_path):
    safetensors.numpy.save_file(ARRAYS, tmp_path / 'm', metadata={'format': 'np'})
    found = open_checkpoint(str(tmp_path / 'm'))
    assert found.format == 'safetensors'
    assert found.metadata == {'format': 'np'}
    assert set(found.specs) == set(ARRAYS)
    for key, want in ARRAYS.items():
        array = found.read(key)
        assert (array.dtype, array.shape) == (want.dtype, want.shape) == (found.specs[key].dtype, found.specs[key].shape)
        assert np.array_equal(array, want)


def test_listing_does_not_read_the_data(tmp_path):
    safetensors.numpy.save_file({'w': np.zeros(1 << 20)}, tmp_path / 'm')
    blob = open_blob(epath.Path(tmp_path / 'm'), 'm')
    lengths = []

    def read(offset, length):
        lengths.append(length)
        return blob.read(offset, length)

    found = open_safetensors(dataclasses.replace(blob, read=read), 'm')
    assert sum(lengths) < 1000
    assert np.shares_memory(found.read('w'), blob.read(0, blob.size))


LIES = {
    'truncated': (raw({'w': entry()}, b'\0' * 10), '16 bytes of data, but 10'),
    'too long': (raw({'w': entry()}, b'\0' * 20), '16 bytes of data, but 20'),
    'header longer than the file': ((10_000).to_bytes(8, 'little') + b'{"w": 1}', '10000 bytes, but the file has 16'),
    '1 TB': (raw({'w': entry((1 << 38,), (0, 1 << 40))}), str(1 << 40)),
    'shape': (raw({'w': entry((5,))}), '20 bytes, but the header gives it 16'),
    'overlap': (raw({'a': entry(), 'b': entry()}), 'begin at 0'),
    'hole': (raw({'a': entry((1,), (0, 4)), 'b': entry((2,), (8, 16))}), 'begin at 8'),
    'negative': (raw({'w': entry((-4,), (0, -16))}), 'not dtype, shape'),
    'fraction': (raw({'w': entry((4.0,))}), 'not dtype, shape'),
    'dtype': (raw({'w': entry(dtype='F31')}), "dtype 'F31'"),
    'dtype list': (raw({'w': entry(dtype=['F32'])}), 'dtype'),
    'no entry': (raw({'w': 3}), 'not dtype, shape'),
    'no JSON': (raw(b'{"w": '), 'no JSON'),
    'a key twice': (raw(b'{"w": 1, "w": 2}'), 'a key twice'),
    'deep': (raw(b'{"w": ' + b'[' * 100_000), 'no JSON'),
    'metadata': (raw({'__metadata__': 3, 'w': entry()}), '__metadata__'),
    'no array': (raw({}, b''), 'without any array'),
}


@pytest.mark.parametrize('kind', list(LIES))
def test_headers_that_lie_are_refused(tmp_path, kind):
    content, message = LIES[kind]
    (tmp_path / 'bad.safetensors').write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(tmp_path / 'bad.safetensors'))
    assert message in str(caught.value)
    assert 'bad.safetensors' in str(caught.value)


def test_every_truncation_is_one_message(tmp_path):
    whole = safetensors.numpy.save(ARRAYS)
    for length in range(len(whole)):
        (tmp_path / 'cut').write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='cut'):
            open_checkpoint(str(tmp_path / 'cut'))


def shards(folder, places=None):
    safetensors.numpy.save_file({'a': ARRAYS['a.weight']}, folder / 'model-1.safetensors')
    safetensors.numpy.save_file({'b': ARRAYS['b'], 'c': ARRAYS['c']}, folder / 'model-2.safetensors')
    places = places or {'a': 'model-1.safetensors', 'b': 'model-2.safetensors', 'c': 'model-2.safetensors'}
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'metadata': {'total_size': 60}, 'weight_map': places}))


@pytest.mark.parametrize('target', ['', 'model.safetensors.index.json'])
def test_shards(tmp_path, target):
    shards(tmp_path)
    found = open_checkpoint(str(tmp_path / target))
    assert found.format == 'safetensors in 2 shards'
    assert list(found.specs) == ['a', 'b', 'c']
    assert found.metadata == {'total_size': 60}
    for key, name in (('a', 'a.weight'), ('b', 'b'), ('c', 'c')):
        assert np.array_equal(found.read(key), ARRAYS[name])


def test_shards_that_are_not_right(tmp_path):
    shards(tmp_path, {'a': 'model-3.safetensors'})
    with pytest.raises(CheckpointError, match=r'model-3\.safetensors, which is not beside it'):
        open_checkpoint(str(tmp_path))
    shards(tmp_path, {'a': 'model-2.safetensors'})
    with pytest.raises(CheckpointError, match=r"'a' in model-2\.safetensors, which does not hold it"):
        open_checkpoint(str(tmp_path))
    shards(tmp_path, {'a': '../secret.safetensors'})
    with pytest.raises(CheckpointError, match='not a file beside the index'):
        open_checkpoint(str(tmp_path))
    (tmp_path / 'model.safetensors.index.json').write_text('{"weights": 1}')
    with pytest.raises(CheckpointError, match='weight_map'):
        open_checkpoint(str(tmp_path))
    shards(tmp_path)
    whole = (tmp_path / 'model-2.safetensors').read_bytes()
    (tmp_path / 'model-2.safetensors').write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=r'model-2\.safetensors.*truncated'):
        open_checkpoint(str(tmp_path))
