"""What is written must be read by the formats' own libraries, and nothing half-written may stay."""

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from flax import serialization

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.sources import open_checkpoint
from jtl.checkpoint.write import FORMATS, Leaves, format_for, write_checkpoint
from jtl.errors import UserError

LEAVES = {
    'backbone/stem/kernel': np.arange(12, dtype=np.float32).reshape(3, 4),
    'backbone/stem/transposed': np.arange(6, dtype=np.float32).reshape(2, 3).T,
    'backbone/bf16': np.arange(5).astype(ml_dtypes.bfloat16),
    'backbone/half': np.arange(3, dtype=np.float16),
    'mask': np.array([True, False, True]),
    'step': np.array(3, np.int64),
    'big_endian': np.arange(3, dtype='>i4'),
    'file': np.ones(1, np.uint8),  # an argument's name in numpy.savez
}


@pytest.mark.parametrize('form', FORMATS)
def test_round_trip(tmp_path, form):
    path = tmp_path / 'deep' / f'm.{form}'
    write_checkpoint(path, LEAVES, form)
    found = open_checkpoint(str(path))
    assert set(found.specs) == set(LEAVES)
    for key, want in LEAVES.items():
        array = found.read(key)
        assert (array.dtype, array.shape) == (want.dtype.newbyteorder('='), want.shape), key
        assert np.array_equal(array, want), key
    # Written again, from a checkpoint read on demand: replaced, and nothing else is left beside it.
    write_checkpoint(path, Leaves(found), form)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert np.array_equal(open_checkpoint(str(path)).read('backbone/stem/kernel'), LEAVES['backbone/stem/kernel'])


def test_the_libraries_read_it(tmp_path):
    kernel, half = LEAVES['backbone/stem/transposed'], LEAVES['backbone/half']
    write_checkpoint(tmp_path / 's', LEAVES, 'safetensors')
    library = safetensors.numpy.load_file(tmp_path / 's')
    assert set(library) == set(LEAVES)
    assert all(np.array_equal(library[key], LEAVES[key]) for key in LEAVES)
    write_checkpoint(tmp_path / 'n.npz', LEAVES, 'npz')
    with np.load(tmp_path / 'n.npz', allow_pickle=False) as archive:
        assert np.array_equal(archive['backbone/stem/transposed'], kernel)
    write_checkpoint(tmp_path / 'm', LEAVES, 'msgpack')
    restored = serialization.msgpack_restore((tmp_path / 'm').read_bytes())
    assert np.array_equal(restored['backbone']['stem']['transposed'], kernel)
    write_checkpoint(tmp_path / 'o', LEAVES, 'orbax')
    restored = ocp.PyTreeCheckpointer().restore(tmp_path / 'o')
    assert np.array_equal(restored['backbone']['stem']['transposed'], kernel)
    assert np.array_equal(restored['backbone']['half'], half)


def test_safetensors_are_the_librarys_bytes(tmp_path):
    leaves = {f'layer_{i}/größe': np.full((3, i), i, np.float32) for i in range(12)}
    write_checkpoint(tmp_path / 'm', leaves, 'safetensors')
    assert (tmp_path / 'm').read_bytes() == safetensors.numpy.save(leaves)


@pytest.mark.parametrize('form', ['safetensors', 'npz', 'msgpack'])
def test_same_leaves_same_bytes(tmp_path, form):
    write_checkpoint(tmp_path / 'a', LEAVES, form)
    again = dict(reversed(LEAVES.items())) if form == 'safetensors' else LEAVES  # whatever order the leaves come in
    write_checkpoint(tmp_path / 'b', again, form)
    assert (tmp_path / 'a').read_bytes() == (tmp_path / 'b').read_bytes()


def test_empty_arrays(tmp_path):
    leaves = {'w': np.zeros((0, 3), np.float32), 'v': np.ones(2, np.float32)}
    for form in ('safetensors', 'npz', 'msgpack'):
        write_checkpoint(tmp_path / form, leaves, form)
        assert open_checkpoint(str(tmp_path / form)).read('w').shape == (0, 3)
    with pytest.raises(CheckpointError, match='without elements: w'):
        write_checkpoint(tmp_path / 'o', leaves, 'orbax')


def test_a_failed_write_leaves_what_was_there(tmp_path):
    for form in ('safetensors', 'npz'):
        write_checkpoint(tmp_path / form, LEAVES, form)
        before = (tmp_path / form).read_bytes()
        for bad in (np.array(['text']), np.zeros(1, ml_dtypes.int4)):
            with pytest.raises(CheckpointError, match=r"cannot hold 'z'"):
                write_checkpoint(tmp_path / form, {**LEAVES, 'z': bad}, form)
        assert (tmp_path / form).read_bytes() == before

    class Failing(dict):
        def __getitem__(self, key):
            raise CheckpointError('damaged')

    for form in FORMATS:
        with pytest.raises(CheckpointError, match='damaged'):
            write_checkpoint(tmp_path / f'x.{form}', Failing(LEAVES), form)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['npz', 'safetensors']


@pytest.mark.parametrize('keys', [('a', 'a/b'), ('a/b', 'a'), ('a//b',), ('/a',)])
def test_keys_that_cannot_be_nested(tmp_path, keys):
    leaves = dict.fromkeys(keys, np.ones(1))
    for form in ('msgpack', 'orbax'):
        with pytest.raises(CheckpointError, match='cannot be a place in a tree'):
            write_checkpoint(tmp_path / 'm', leaves, form)
    assert not list(tmp_path.iterdir())


def test_a_directory_is_never_replaced_by_mistake(tmp_path):
    (tmp_path / 'precious').mkdir()
    (tmp_path / 'precious' / 'thesis.tex').write_text('x')
    for form in FORMATS:
        with pytest.raises(UserError, match='is a directory'):
            write_checkpoint(tmp_path / 'precious', LEAVES, form)
    assert (tmp_path / 'precious' / 'thesis.tex').exists()


def test_formats_by_suffix():
    assert [format_for(f'x/y.{f}') for f in FORMATS] == list(FORMATS)
    with pytest.raises(UserError, match="suffix 'pth' says no format"):
        format_for('x.pth')
    with pytest.raises(UserError, match="'hdf5' is unknown"):
        write_checkpoint('x', LEAVES, 'hdf5')
