"""Stock TFDS builders, fed archives in their published layout, are prepared and read without TensorFlow.

What was found with TFDS 4.9.10, TensorFlow absent: beans (pictures, three .zip) and ag_news_subset (text, a .tar.gz) need it only to
open the archive, which jtl does itself. mnist cannot be prepared: its definition opens files with tf.io.gfile (and gives its
pictures as arrays, which TFDS encodes with tf.image).
"""

import gzip
import io
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image
from tensorflow_datasets.core.download import checksums

from jtl.data import load_data
from jtl.data.tfds_prepare import prepare
from jtl.errors import UserError


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (500, 500, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'jpeg')
    return file.getvalue()


def place(monkeypatch, builder, root, archives):
    """Put {file name: content} where TFDS looks for files fetched by hand, and register what they hold as their checksums."""
    manual = root / 'downloads' / 'manual'
    manual.mkdir(parents=True)
    infos = {}
    for url, info in builder.url_infos.items():
        if info.filename in archives:
            (manual / info.filename).write_bytes(archives[info.filename])
            infos[url] = checksums.compute_url_info(manual / info.filename)
    assert len(infos) == len(archives)
    monkeypatch.setattr(type(builder), 'url_infos', infos)


def test_images_beans(tmp_path, monkeypatch):
    published, archives = {}, {}
    for k, split in enumerate(('train', 'validation', 'test')):
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w') as archive:
            for c, label in enumerate(('angular_leaf_spot', 'bean_rust', 'healthy')):
                name = f'{split}/{label}/{label}_{split}.{k}.jpg'
                published[split, c] = jpeg(10 * k + c)
                archive.writestr(name, published[split, c])
        archives[f'{split}.zip'] = file.getvalue()
    place(monkeypatch, tfds.builder('beans', data_dir=tmp_path), tmp_path, archives)

    data = load_data({'name': 'beans', 'root': str(tmp_path), 'download': True})

    assert data.labels == ('angular_leaf_spot', 'bean_rust', 'healthy')
    assert {name: sorted(split.targets) for name, split in data.splits.items()} == {
        name: [0, 1, 2] for name in ('train', 'validation', 'test')
    }
    for name, split in data.splits.items():
        for k in range(3):
            expected = np.asarray(Image.open(io.BytesIO(published[name, int(split.targets[k])])))
            np.testing.assert_array_equal(split.examples[k]['image'], expected)
    again = load_data({'name': 'beans:0.1.0', 'root': str(tmp_path)})  # prepared now
    assert again.fingerprint == data.fingerprint


def test_text_ag_news(tmp_path, monkeypatch):
    rows = {
        'train': [('3', 'Markets up', 'Stocks rose, "widely".'), ('1', 'Talks', 'They met.')],
        'test': [('4', 'Chips', 'Smaller still.')],
    }
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for split, lines in rows.items():
            text = '\n'.join(','.join('"' + cell.replace('"', '""') + '"' for cell in row) for row in lines).encode()
            member = tarfile.TarInfo(f'ag_news_csv/{split}.csv')
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    builder = tfds.builder('ag_news_subset', data_dir=tmp_path)
    place(monkeypatch, builder, tmp_path, {'ag_news_csv.tar.gz': file.getvalue()})

    prepare('ag_news_subset', epath.Path(tmp_path))

    for split, lines in rows.items():
        source = tfds.data_source('ag_news_subset', split=split, data_dir=tmp_path)
        found = {(str(r['label'] + 1), r['title'].decode(), r['description'].decode()) for r in source}
        assert found == set(lines)
    assert builder.info.features['label'].names == ['World', 'Sports', 'Business', 'Sci/Tech']
    with pytest.raises(UserError, match=r'data.image_key: ag_news_subset/1.0.0 has 0 features .* description \(Text\)'):
        load_data({'name': 'ag_news_subset', 'root': str(tmp_path)})


def test_mnist_needs_tensorflow_to_encode_its_arrays(tmp_path, monkeypatch):
    images = gzip.compress(struct.pack('>4i', 2051, 1, 28, 28) + bytes(784))
    labels = gzip.compress(struct.pack('>2i', 2049, 1) + bytes(1))
    archives = {
        f'{split}-{part}-ubyte.gz': images if part[0] == 'i' else labels
        for split in ('train', 't10k')
        for part in ('images-idx3', 'labels-idx1')
    }
    place(monkeypatch, tfds.builder('mnist', data_dir=tmp_path), tmp_path, archives)
    monkeypatch.setitem(sys.modules, 'tensorflow', None)  # absent, wherever this runs
    with pytest.raises(
        UserError,
        match=r'preparing mnist needs TensorFlow \(in image_classification\.mnist, _extract_mnist_images\).* python -c .*builder\(.mnist., data_dir=.DIR., file_format=.array_record.\)',
    ):
        load_data({'name': 'mnist', 'root': str(tmp_path), 'download': True})


def test_reading_imports_no_tensorflow(tmp_path):
    code = f"""
import sys
from jtl.data import load_data
from jtl.data.tfds_prepare import prepare
load_data({{'name': 'digits', 'root': {str(tmp_path)!r}}}).splits['train'].examples[0]
data = load_data({{'name': 'sklearn_digits', 'root': {str(tmp_path)!r}}})
assert data.splits['test'].examples[3]['image'].shape == (8, 8, 1)
assert not {{'tensorflow', 'torch'}} & set(sys.modules)
"""
    subprocess.run([sys.executable, '-c', code], check=True)
