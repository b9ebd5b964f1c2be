"""Stock TFDS builders, fed archives in their published layout, are prepared and read without TensorFlow.

What was found with TFDS 4.9.10, TensorFlow absent: beans (pictures, three .zip), ag_news_subset, imdb_reviews (.tar.gz) and glue (.zip,
.tsv) need it only to open the archive, which jtl does itself. mnist cannot be prepared: its definition opens files with tf.io.gfile (and gives its
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
from PIL import Image
from tensorflow_datasets.core.download import checksums

from jtl.data import load_data
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

    section = {'name': 'ag_news_subset', 'root': str(tmp_path), 'validation': 0.0}
    pairs = load_data({**section, 'text_key': 'title', 'pair_key': 'description', 'download': True})

    assert pairs.labels == ('World', 'Sports', 'Business', 'Sci/Tech')
    for split, lines in rows.items():
        read = [pairs.splits[split].examples[k] for k in range(len(lines))]
        assert {(str(r['label'] + 1), r['text'], r['pair']) for r in read} == set(lines)
    alone = load_data(section)  # the supervised keys: description and label
    assert {alone.splits['train'].examples[k]['text'] for k in range(2)} == {'Stocks rose, "widely".', 'They met.'}
    assert 'pair' not in alone.splits['train'].examples[0] and alone.fingerprint != pairs.fingerprint


def test_text_imdb_reviews(tmp_path, monkeypatch):
    reviews = {'train/pos/0_9': 'Great.', 'train/neg/1_2': 'Naïve<br />film.', 'train/unsup/0_0': 'Unread.', 'test/neg/0_1': 'No.'}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz') as archive:
        for name, text in reviews.items():
            member = tarfile.TarInfo(f'aclImdb/{name}.txt')
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    place(monkeypatch, tfds.builder('imdb_reviews', data_dir=tmp_path), tmp_path, {'aclImdb_v1.tar.gz': file.getvalue()})

    data = load_data({'name': 'imdb_reviews', 'root': str(tmp_path), 'download': True, 'validation': 0.0})

    assert data.labels == ('neg', 'pos') and 'splits of imdb_reviews/plain_text/1.0.0 that are left out: unsupervised.' in data.notes
    train, test = data.splits['train'], data.splits['test']
    assert {(train.examples[k]['text'], int(train.targets[k])) for k in range(2)} == {('Great.', 1), ('Naïve<br />film.', 0)}
    assert test.examples[0] == {'text': 'No.', 'label': 0} and test.name_of(0) == 'test[0]'


def test_text_pairs_of_glue_mrpc(tmp_path, monkeypatch):
    head = 'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n'
    archives = {
        'msr_paraphrase_train.txt': f'\ufeff{head}1\t7\t8\tHe "spoke .\tHe said so .\n0\t5\t6\tOne .\tTwo .\n'.encode(),
        'msr_paraphrase_test.txt': f'\ufeff{head}1\t1\t2\tA .\tB .\n'.encode(),
        'data_mrpc_dev_ids.tsv': b'5\t6\n',
    }
    place(monkeypatch, tfds.builder('glue/mrpc', data_dir=tmp_path), tmp_path, archives)
    section = {'name': 'glue/mrpc', 'root': str(tmp_path), 'test': 0.0}
    data = load_data({**section, 'text_key': 'sentence1', 'pair_key': 'sentence2', 'download': True})
    assert data.splits['train'].examples[0] == {'text': 'He "spoke .', 'pair': 'He said so .', 'label': 1}
    assert data.splits['validation'].examples[0] == {'text': 'One .', 'pair': 'Two .', 'label': 0}
    assert data.labels == ('not_equivalent', 'equivalent') and list(data.splits) == ['train', 'validation']
    with pytest.raises(
        UserError, match=r'data.text_key: glue/mrpc/2.0.0 has 2 features that could be the text; name one .* sentence1 \(Text\)'
    ):
        load_data(section)
    with pytest.raises(UserError, match=r"data.pair_key: the feature 'idx' of glue/mrpc/2.0.0 is no text but Tensor\."):
        load_data({**section, 'text_key': 'sentence1', 'pair_key': 'idx'})


def test_text_glue_sst2(tmp_path, monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr('SST-2/train.tsv', 'sentence\tlabel\nhide "new secretions \t0\ncontains wit\t1\n')
        archive.writestr('SST-2/dev.tsv', 'sentence\tlabel\na charm\t1\n')
        archive.writestr('SST-2/test.tsv', 'index\tsentence\n0\tunknown\n')
    place(monkeypatch, tfds.builder('glue/sst2', data_dir=tmp_path), tmp_path, {'SST-2.zip': file.getvalue()})
    data = load_data({'name': 'glue/sst2', 'root': str(tmp_path), 'download': True, 'test': 0.0})
    read = {
        split: [(e['text'], int(e['label'])) for e in map(found.examples.__getitem__, range(len(found)))]
        for split, found in data.splits.items()
    }
    assert sorted(read['train']) == [('contains wit', 1), ('hide "new secretions', 0)] and read['validation'] == [('a charm', 1)]
    assert data.labels == ('negative', 'positive') and data.notes == ('test: 1 of 1 examples have no label and are left out.',)


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
