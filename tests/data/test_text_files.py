"""Plain text: one class a file, and lines without labels."""

import numpy as np
import pytest

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError


def write(root, files, encoding='utf-8'):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode(encoding))
    return root


def load(root, name='text_files', **fields):
    return load_data({'name': name, 'root': str(root), 'validation': 0.0, 'test': 0.0, **fields})


def test_a_file_a_class(tmp_path):
    data = load(
        write(tmp_path, {'pos.txt': 'Great .\r\n\r\n  Fun\u2028, too . \nGood', 'neg.txt': 'Bad .\n', '.hidden.txt': 'x', 'notes.md': 'x'})
    )
    train = data.splits['train']
    assert data.labels == ('neg', 'pos') and train.examples.texts == ('Bad .', 'Great .', 'Fun\u2028, too .', 'Good')
    assert train.targets.tolist() == [0, 1, 1, 1] and train.targets.dtype == np.int32
    assert [train.name_of(k) for k in range(4)] == ['neg.txt, line 1', 'pos.txt, line 1', 'pos.txt, line 3', 'pos.txt, line 4']
    assert data.notes == ('1 blank lines are left out.',)


def test_split_folders(tmp_path):
    files = {'train/a.txt': 'x\ny\n', 'train/b.txt': 'z\n', 'dev/b.txt': 'w\n', 'testing/a.txt': 'v\n', 'images/c.png': ''}
    data = load(write(tmp_path, files))
    assert {name: (split.examples.texts, split.targets.tolist()) for name, split in data.splits.items()} == {
        'train': (('x', 'y', 'z'), [0, 0, 1]),
        'validation': (('w',), [1]),
        'test': (('v',), [0]),
    }
    assert data.splits['test'].name_of(0) == 'testing/a.txt, line 1' and data.notes == ()


def test_an_encoding(tmp_path):
    write(tmp_path, {'a.txt': 'café\nnaïve\n', 'b.txt': 'c\n'}, 'latin-1')
    assert load(tmp_path, encoding='latin-1').splits['train'].examples.texts == ('café', 'naïve', 'c')
    with pytest.raises(UserError, match=r'a.txt, line 1: no UTF-8 \(byte 0xe9\)'):
        load(tmp_path)


@pytest.mark.parametrize(
    ('message', 'files'),
    [
        (r'holds no .txt files, but neg, pos\.', {'pos/1.md': 'x', 'neg/1.md': 'x'}),
        (r'the class file .*b.txt holds no text', {'a.txt': 'x', 'b.txt': ' \n'}),
        (r"has a class file 'c.txt' that .*train lacks.* Every class needs training examples", {'train/a.txt': 'x', 'train/b.txt': 'x', 'test/c.txt': 'x'}),
        (r'has test but no folder "train" with class files in it', {'test/a.txt': 'x'}),
        (r'has val and dev, which both mean validation', {'train/a.txt': 'x', 'val/a.txt': 'x', 'dev/a.txt': 'x'}),
        (r'holds a.txt beside train/', {'a.txt': 'x', 'train/a.txt': 'x'}),
        (r"holds train.txt, which would be a class 'train'\. .* data.name='text_lines'", {'train.txt': 'x', 'test.txt': 'y'}),
    ],
)  # fmt: skip
def test_what_is_wrong_with_class_files_is_said(tmp_path, message, files):
    with pytest.raises(UserError, match=message):
        load(write(tmp_path, files))


def test_a_folder_is_needed(tmp_path):
    write(tmp_path, {'a.txt': 'x'})
    for root, message in (
        (tmp_path / 'a.txt', 'it is a file'),
        (tmp_path / 'b', 'there is no folder'),
        ('', 'needs a folder with <class>.txt'),
    ):
        with pytest.raises(UserError, match=message):
            load(root)


def test_lines_without_labels(tmp_path):
    text = write(tmp_path, {'corpus.text': 'One.\n\n  Two. \n \nThree.\n'}) / 'corpus.text'
    data = load(text, 'text_lines')
    train = data.splits['train']
    assert data.labels == () and train.examples.texts == ('One.', 'Two.', 'Three.')
    assert train.targets.tolist() == [0, 0, 0] and train.targets.dtype == np.int32
    assert train.name_of(1) == 'corpus.text, line 3' and preflight(data).counts == {'train': (3,)}
    for field, value in (('shots', 1), ('classes', ('a',)), ('sampling', 'balanced')):
        with pytest.raises(UserError, match=rf'data.{field}.*these data have no classes \(nothing is labelled\)'):
            load(text, 'text_lines', **{field: value})
    with pytest.raises(UserError, match=r"data.name='text_lines' needs a text file"):
        load('', 'text_lines')


def test_lines_of_a_folder_and_splits_made_of_lines(tmp_path):
    write(tmp_path, {'train.txt': ''.join(f'line {k}\n' for k in range(10)), 'valid.txt': 'v\n', 'other.txt': 'o\n'})
    data = load(tmp_path, 'text_lines', test=0.3)
    assert {name: len(split) for name, split in data.splits.items()} == {'train': 7, 'validation': 1, 'test': 3}
    read = [split.examples[k]['text'] for name, split in data.splits.items() for k in range(len(split)) if name != 'validation']
    assert sorted(read) == [f'line {k}' for k in range(10)]
    assert data.notes == ('test: the data bring none; 3 examples (30%, random, seed 0) are taken from train.',)
    write(tmp_path, {'valid.txt': '\n\n'})
    with pytest.raises(UserError, match=r'valid\.txt holds no rows'):
        load(tmp_path, 'text_lines')
    write(tmp_path, {'train.txt': '\n'})
    with pytest.raises(UserError, match='has no rows of train'):
        load(tmp_path, 'text_lines')
