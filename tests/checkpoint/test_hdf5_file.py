"""HDF5 files in the layouts that Keras writes (compared with Keras itself in tests/parity), plain ones, and hostile ones."""

import io
import itertools
import random
import zipfile
import zlib

import h5py
import ml_dtypes
import numpy as np
import pytest
from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.blob import Blob, open_blob
from jtl.checkpoint.hdf5_file import open_hdf5
from jtl.checkpoint.sources import open_checkpoint


def leaf(i: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(i).standard_normal(shape or (2,)).astype(np.float32)


def by_name(group: h5py.Group, layers: dict[str, list[str]], names='layer_names') -> dict[str, np.ndarray]:
    """Writes a layer's weights below its group, as Keras does; returns the arrays by their paths."""
    arrays = {f'{layer}/{weight}': leaf(i) for i, (layer, weight) in enumerate((la, w) for la, ws in layers.items() for w in ws)}
    for path, array in arrays.items():
        group[path] = array
    group.attrs[names] = [layer.encode() for layer in layers]
    group.attrs['keras_version'], group.attrs['backend'] = b'2.1.4', b'tensorflow'
    return arrays


def layer(key: str) -> str:
    return key.rpartition('/')[0]


def opened(path, arrays):
    """The checkpoint, after comparing every key, shape, dtype and value with `arrays`, and the order of the layers."""
    found = open_checkpoint(str(path))
    assert found.specs.keys() == arrays.keys()
    assert [key for key, _ in itertools.groupby(found.specs, layer)] == [key for key, _ in itertools.groupby(arrays, layer)]
    for key, want in arrays.items():
        got = found.read(key)
        assert (got.shape, got.dtype) == (found.specs[key].shape, found.specs[key].dtype) == (want.shape, want.dtype.newbyteorder('=')), key
        assert np.array_equal(got, want), key
    return found


NAMINGS = {
    'keras 3': ({'conv': ['conv/kernel', 'conv/bias']}, ['conv/kernel', 'conv/bias']),
    'keras 2': ({'conv': ['conv/kernel:0', 'conv/bias:0']}, ['conv/kernel', 'conv/bias']),
    'keras 2 in a used session': ({'conv': ['conv_3/kernel:0']}, ['conv/kernel']),
    'keras 1': (
        {'conv1': ['conv1_W_1:0', 'conv1_b_1:0'], 'bn1': ['bn1_gamma_1:0', 'bn1_running_mean:0', 'bn1_running_std_2:0']},
        ['conv1/kernel', 'conv1/bias', 'bn1/gamma', 'bn1/moving_mean', 'bn1/moving_variance'],
    ),
    'depthwise': (
        {'dw': ['dw/depthwise_kernel:0', 'dw/bias:0'], 'sep': ['sep/depthwise_kernel:0', 'sep/pointwise_kernel:0']},
        ['dw/kernel', 'dw/bias', 'sep/depthwise_kernel', 'sep/pointwise_kernel'],
    ),
    'a model inside, keras 2': ({'vgg16': ['block1_conv1/kernel:0'], 'dense': []}, ['vgg16/block1_conv1/kernel']),
    'a model inside, keras 3': ({'vgg16': ['vgg16/block1_conv1/kernel']}, ['vgg16/block1_conv1/kernel']),
    'below a model that is a class': ({'conv': ['net/conv/kernel']}, ['conv/kernel']),
    'automatic names are counted anew, in order': (
        {'conv2d_95': ['conv2d_95/kernel:0'], 'stem': ['stem/kernel:0'], 'conv2d_9': ['conv2d_9/kernel:0'], 'dense_2': ['dense_2/bias:0']},
        ['conv2d/kernel', 'stem/kernel', 'conv2d_1/kernel', 'dense/bias'],
    ),
    "a layer's name with a slash": ({'a': ['a/x:0'], 'a/b': ['a/b/x:0']}, ['a/x', 'a/b/x']),
    'weights of no layer': ({'top_level_model_weights': ['token:0']}, ['top_level_model_weights/token']),
}


@pytest.mark.parametrize('naming', list(NAMINGS))
def test_layers_by_name(tmp_path, naming):
    layers, keys = NAMINGS[naming]
    with h5py.File(tmp_path / 'm.h5', 'w') as file:
        arrays = by_name(file, layers)
    found = opened(tmp_path / 'm.h5', dict(zip(keys, arrays.values(), strict=True)))
    assert found.format == 'keras h5'
    assert found.metadata == {'keras_version': '2.1.4', 'backend': 'tensorflow'}


def test_a_whole_model_with_its_optimizer(tmp_path):
    with h5py.File(tmp_path / 'm.h5', 'w') as file:
        arrays = by_name(file.create_group('model_weights'), {'dense_7': ['dense_7/kernel:0']})
        file['optimizer_weights/adam/iteration'] = np.int64(3)
        file.attrs['model_config'] = b'{"class_name": "Sequential"}'
    found = opened(tmp_path / 'm.h5', {'dense/kernel': arrays['dense_7/dense_7/kernel:0']})
    assert found.metadata['not listed'] == {'optimizer': '1 arrays'}
    assert found.metadata['model_config'] == {'class_name': 'Sequential'}
    assert found.metadata['keras_version'] == '2.1.4'


@pytest.mark.parametrize('libver', ['earliest', 'latest'])
@pytest.mark.parametrize('form', ['S', h5py.string_dtype(), h5py.string_dtype('ascii', 20)])
def test_names_of_layers_as_any_kind_of_text_and_in_pieces(tmp_path, libver, form):
    layers = [f'layer_{i}' for i in range(7)]
    with h5py.File(tmp_path / 'm.h5', 'w', libver=libver) as file:
        for i, layer in enumerate(layers):
            file[f'{layer}/{layer}/kernel:0'] = leaf(i)
        file.attrs['layer_names0'] = np.array([layer.encode() for layer in layers[4:]], form)
        file.attrs['layer_names1'] = np.array([layer.encode() for layer in layers[:4]], form)
    opened(tmp_path / 'm.h5', {f'layer_{i}/kernel': leaf(i) for i in (4, 5, 6, 0, 1, 2, 3)})


def by_place(file: h5py.File) -> dict[str, np.ndarray]:
    arrays = {f'layers/conv2d{f"_{i}" if i else ""}/vars/0': leaf(i) for i in range(12)}
    for path, array in arrays.items():
        file[path] = array
    file['layers/conv2d_2/vars'].attrs['name'] = 'block2_conv1'
    file['layers/dropout/seed_generator/vars/0'] = np.zeros(2, np.uint32)
    file['optimizer/vars/0'] = np.int32(5)
    return arrays


def test_layers_by_place(tmp_path):
    with h5py.File(tmp_path / 'm.weights.h5', 'w') as file:
        arrays = by_place(file)
        file['layers/sequential/layers/dense/vars/0'] = arrays['layers/sequential/layers/dense/vars/0'] = leaf(20, 3, 4)
        file['_layer_checkpoint_dependencies/dense/vars/1'] = arrays['layers/dense/vars/1'] = leaf(21)
        file['_layer_checkpoint_dependencies/conv2d/vars/0'] = leaf(99)  # what `layers` has, too
    arrays = {key: arrays[key] for key in ('layers/dense/vars/1', *(key for key in arrays if key != 'layers/dense/vars/1'))}
    found = opened(tmp_path / 'm.weights.h5', arrays)
    assert found.format == 'keras weights.h5'
    assert found.metadata == {
        'layer_names': {'layers/conv2d_2': 'block2_conv1'},
        'not listed': {'optimizer': '1 arrays', 'others': '1 arrays', 'random generators': '1 arrays'},
    }


@pytest.mark.parametrize('compression', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_keras_archives(tmp_path, compression):
    inner = io.BytesIO()
    with h5py.File(inner, 'w') as file:
        arrays = by_place(file)
    with zipfile.ZipFile(tmp_path / 'm.keras', 'w', compression) as archive:
        archive.writestr('metadata.json', '{"keras_version": "3.15.1"}')
        archive.writestr('config.json', '{"class_name": "Functional"}')
        archive.writestr('model.weights.h5', inner.getvalue())
    found = opened(tmp_path / 'm.keras', arrays)
    assert found.format == 'keras zip'
    assert found.metadata['keras_version'] == '3.15.1'
    assert found.metadata['model_config'] == {'class_name': 'Functional'}

    raw = bytearray((tmp_path / 'm.keras').read_bytes())
    at = raw.find(arrays['layers/conv2d_5/vars/0'].tobytes())
    if compression == zipfile.ZIP_STORED:
        raw[at] ^= 1
        (tmp_path / 'm.keras').write_bytes(raw)
        changed = open_checkpoint(str(tmp_path / 'm.keras'))  # listing does not read the data
        with pytest.raises(CheckpointError, match='CRC-32'):
            changed.read('layers/conv2d_5/vars/0')


PLAIN = {
    'a/f2': np.arange(5).astype(np.float16),
    'a/big endian': np.arange(3, dtype='>f8'),
    'bf16': np.arange(4).astype(ml_dtypes.bfloat16),
    'bool': np.array([True, False]),
    'complex': np.array([1 + 2j], np.complex64),
    'empty': np.zeros((0, 3), np.float32),
    'int': np.arange(6).reshape(2, 3),
    'scalar': np.array(2.5),
}


@pytest.mark.parametrize('libver', ['earliest', 'latest'])
def test_plain_files(tmp_path, libver):
    with h5py.File(tmp_path / 'm.hdf5', 'w', libver=libver) as file:
        for key, array in PLAIN.items():
            file[key] = array
        file['nothing'] = h5py.Empty('f4')
        file['a type'] = np.dtype('f4')
    assert opened(tmp_path / 'm.hdf5', PLAIN).format == 'hdf5'


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'compression': 'gzip'},
        {'compression': 'gzip', 'shuffle': True, 'fletcher32': True},
        {'compression': 'lzf'},
        {'fletcher32': True},
    ],
)
def test_arrays_in_chunks(tmp_path, options):
    arrays = {'bf16': leaf(0, 20, 7).astype(ml_dtypes.bfloat16), 'big': leaf(1, 9).astype('>f4'), 'w': leaf(2, 20, 7)}
    with h5py.File(tmp_path / 'm.h5', 'w') as file:
        for key, array in arrays.items():
            file.create_dataset(key, data=array, chunks=(6, 5)[: array.ndim], **options)
    opened(tmp_path / 'm.h5', arrays)


def test_listing_reads_no_data_and_arrays_are_mapped(tmp_path):
    with h5py.File(tmp_path / 'm.h5', 'w') as file:
        file['w'], file['v'] = np.zeros(1 << 20, np.float32), leaf(0)
    blob = open_blob(epath.Path(tmp_path / 'm.h5'), 'm')
    reads = []

    def read(offset, length):
        reads.append(length)
        return blob.read(offset, length)

    found = open_hdf5(Blob('m', blob.size, read), 'm')  # by ranges, as from a bucket
    assert found.specs['w'].shape == (1 << 20,)
    assert sum(reads) < 400_000
    assert np.array_equal(found.read('v'), leaf(0))
    assert not open_checkpoint(str(tmp_path / 'm.h5')).read('w').flags.owndata


def write_hostile(kind: str, path) -> None:
    with h5py.File(path.with_name('secret.h5'), 'w') as file:
        file['w'] = leaf(0)
    with h5py.File(path, 'w') as file:
        file['good'] = leaf(1)
        group = file.create_group('group')
        if kind == 'soft link':
            group['w'] = h5py.SoftLink('/good')
        elif kind == 'dangling soft link':
            group['w'] = h5py.SoftLink('/none')
        elif kind == 'external link':
            group['w'] = h5py.ExternalLink('secret.h5', '/w')
        elif kind == 'external storage':
            group.create_dataset('w', (8,), 'f4', external=[(str(path.with_name('secret.h5')), 0, 32)])
        elif kind == 'virtual':
            layout = h5py.VirtualLayout((2,), 'f4')
            layout[:] = h5py.VirtualSource('secret.h5', 'w', (2,))
            group.create_virtual_dataset('w', layout)
        elif kind == 'cycle':
            group.create_group('deeper')['up'] = group
        elif kind == 'root inside':
            group['root'] = file['/']
        elif kind == 'two names':
            file['other'] = group
        elif kind == 'deep':
            file.create_group('/'.join('g' * 150))
        elif kind == 'never written':
            group.create_dataset('w', (1 << 40,), 'f4')
        elif kind == 'never written, in chunks':
            group.create_dataset('w', (1 << 40,), 'f4', chunks=(1 << 20,), compression='gzip')
        elif kind == 'a chunk larger than all':
            group.create_dataset('w', (1,), 'f4', maxshape=(None,), chunks=(1 << 28,))
        elif kind == 'strings':
            group.create_dataset('w', data=['a', 'b'], dtype=h5py.string_dtype())
        elif kind == 'fixed strings':
            group['w'] = np.array([b'ab', b'cd'])
        elif kind == 'ragged':
            group.create_dataset('w', (2,), h5py.vlen_dtype(np.float32))
        elif kind == 'references':
            group.create_dataset('w', (2,), h5py.ref_dtype)
        elif kind == 'records':
            group['w'] = np.zeros(2, [('a', 'f4'), ('b', 'i8')])
        elif kind == 'filter':
            group.create_dataset('w', (4,), 'i4', scaleoffset=0, data=np.arange(4))
        elif kind == 'deflated twice':
            plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plist.set_chunk((4,))
            plist.set_deflate()
            plist.set_filter(h5py.h5z.FILTER_DEFLATE, 0, (9,))
            h5py.h5d.create(group.id, b'w', h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4,)), plist)
        elif kind == 'name':
            group['line\nfeed'] = leaf(2)


HOSTILE = {
    'soft link': "'group/w' is a link",
    'dangling soft link': "'group/w' is a link",
    'external link': r"'group/w' is a link.*ExternalLink",
    'external storage': "'group/w' is put together from other data or lies in another file",
    'virtual': "'group/w' is put together",
    'cycle': "'group/deeper/up' contains itself",
    'root inside': "'group/root' contains itself",
    'two names': 'under two names',
    'deep': 'more than 100 groups deep',
    'never written': r"'group/w' is float32 \(1099511627776,\), which needs 4398046511104 bytes",
    'never written, in chunks': 'needs 4398046511104 bytes',
    'a chunk larger than all': 'needs 1073741824 bytes',
    'strings': "'group/w' holds object",
    'fixed strings': r"'group/w' holds \|S2",
    'ragged': "'group/w' holds object",
    'references': "'group/w' holds object",
    'records': "'group/w' holds .*'a'",
    'filter': 'filters',
    'deflated twice': 'filters',
    'name': 'no part of a path',
}


@pytest.mark.parametrize('kind', list(HOSTILE))
def test_hostile_files_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_hostile(kind, tmp_path / 'bad.h5')
    (tmp_path / 'secret.h5').unlink()  # whoever went there would find nothing and say something else
    with pytest.raises(CheckpointError, match=HOSTILE[kind]) as caught:
        open_checkpoint(str(tmp_path / 'bad.h5'))
    assert 'bad.h5' in str(caught.value)


def with_text(path) -> None:
    with h5py.File(path, 'w') as file:
        by_name(file, {'some_layer': ['some_layer/kernel:0']})


def test_text_that_claims_to_be_longer_than_it_is(tmp_path):
    """The HDF5 library would allocate the 4 GiB before it looks."""
    with_text(tmp_path / 'm.h5')
    raw = (tmp_path / 'm.h5').read_bytes()
    heap = raw.index(b'GCOL')
    place = raw.index((10).to_bytes(4, 'little') + heap.to_bytes(8, 'little'))  # 'some_layer' has 10 letters
    for claim, message in ((0xFFFFFFFF, 'claims more than'), (11, 'claims 11 bytes, 10 are there')):
        (tmp_path / 'm.h5').write_bytes(raw[:place] + claim.to_bytes(4, 'little') + raw[place + 4 :])
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(str(tmp_path / 'm.h5'))


def test_a_collection_of_text_with_an_entry_of_no_size(tmp_path):
    """The HDF5 library would never return."""
    with_text(tmp_path / 'm.h5')
    raw = bytearray((tmp_path / 'm.h5').read_bytes())
    heap = raw.index(b'GCOL')
    raw[heap + 16 : heap + 18] = bytes(2)  # the first entry becomes the free space, of 10 bytes
    raw[heap + 24 : heap + 32] = bytes(8)
    (tmp_path / 'm.h5').write_bytes(raw)
    with pytest.raises(CheckpointError, match='0 are there'):
        open_checkpoint(str(tmp_path / 'm.h5'))


def test_a_chunk_cannot_inflate_further_than_it_says(tmp_path):
    with h5py.File(tmp_path / 'm.h5', 'w') as file:
        data = file.create_dataset('w', (64,), 'f4', chunks=(64,), compression='gzip')
        data.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 24), 9))
    with pytest.raises(CheckpointError, match="a chunk of 'w' inflates to more than its 256 bytes"):
        open_checkpoint(str(tmp_path / 'm.h5')).read('w')


def whole_files(tmp_path) -> list[bytes]:
    with h5py.File(tmp_path / 'a.h5', 'w') as file:
        by_name(file, {'conv': ['conv/kernel:0'], 'dense': ['dense/kernel:0', 'dense/bias:0']})
    with h5py.File(tmp_path / 'b.h5', 'w') as file:
        by_place(file)
    with h5py.File(tmp_path / 'c.h5', 'w', libver='latest') as file:
        file.create_dataset('w', data=leaf(0, 8, 8), chunks=(4, 4), compression='gzip')
    return [(tmp_path / name).read_bytes() for name in ('a.h5', 'b.h5', 'c.h5')]


def test_a_truncated_file_gives_one_message(tmp_path):
    for raw in whole_files(tmp_path):
        for length in range(8, len(raw), len(raw) // 20):
            (tmp_path / 'cut.h5').write_bytes(raw[:length])
            with pytest.raises(CheckpointError, match=r'cut\.h5: .*(truncated|damaged)'):
                open_checkpoint(str(tmp_path / 'cut.h5'))


def test_damage_gives_a_message_or_the_shapes_that_were_told(tmp_path):
    draw = random.Random(0)
    refused = 0
    for raw in whole_files(tmp_path):
        for _ in range(60):
            changed = np.frombuffer(raw, np.uint8).copy()
            changed[draw.randrange(min(len(raw), 4000))] = draw.choice((0, 255, draw.randrange(256)))
            (tmp_path / 'changed.h5').write_bytes(changed.tobytes())
            try:
                found = open_checkpoint(str(tmp_path / 'changed.h5'))
                assert all(found.read(key).shape == spec.shape for key, spec in found.specs.items())
            except CheckpointError:
                refused += 1
    assert refused > 10


def test_found_in_folders(tmp_path):
    with_text(tmp_path / 'm.h5')
    assert open_checkpoint(str(tmp_path)).specs.keys() == {'some_layer/kernel'}
    with h5py.File(tmp_path / 'm.h5', 'w'):
        pass
    with pytest.raises(CheckpointError, match='without any array'):
        open_checkpoint(str(tmp_path))
