import numpy as np
import pytest
from PIL import Image

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError
from jtl.tasks import build_task


def pixels(k):
    return np.random.default_rng(k).integers(0, 256, (6, 8, 3), np.uint8)


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """A folder of pictures a0.png ... a9.png, and one in a folder whose name holds a comma."""
    root = tmp_path_factory.mktemp('pictures')
    for k in range(10):
        Image.fromarray(pixels(k)).save(root / f'a{k}.png')
    (root / 'old, worn').mkdir()
    Image.fromarray(pixels(10)).save(root / 'old, worn' / '"b".png')
    return root


@pytest.fixture
def load(pictures):
    """Writes a CSV beside the pictures and loads it."""

    def load(text, name='labels.csv', encoding='utf-8', **fields):
        (pictures / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return load_data({'name': 'csv', 'root': str(pictures / name), 'validation': 0.0, 'test': 0.0, **fields})

    return load


def refuse(load, message, text, **fields):
    with pytest.raises(UserError, match=message):
        load(text, **fields)


def test_classes_with_a_split_column(load, pictures):
    data = load('path,label,split\na0.png,dog,train\na1.png,cat,train\na2.png,dog,Val\na3.png,cat,test\n')
    assert data.labels == ('cat', 'dog') and data.notes == ()
    assert {name: split.targets.tolist() for name, split in data.splits.items()} == {'train': [1, 0], 'validation': [1], 'test': [0]}
    train = data.splits['train']
    assert train.targets.dtype == np.int32 and train.name_of(1) == 'a1.png'
    example = train.examples[1]
    np.testing.assert_array_equal(example['image'], pixels(1))
    assert example['label'] == 0 and preflight(data).counts == {'train': (1, 1), 'validation': (0, 1), 'test': (1, 0)}


def test_quotes_spaces_line_ends_and_a_byte_order_mark_as_spreadsheets_write_them(load, pictures):
    text = (
        'id, label ,path\r\n1,"cat, small", a0.png\r\n\r\n2,"two\nlines","old, worn/""b"".png"\r\n3,  naïve  ,' + f'{pictures}/a1.png\r\n'
    )
    data = load(text, encoding='utf-8-sig')
    assert data.labels == ('cat, small', 'naïve', 'two\nlines')
    train = data.splits['train']
    assert train.targets.tolist() == [0, 2, 1]
    for k, source in enumerate((0, 10, 1)):
        np.testing.assert_array_equal(train.examples[k]['image'], pixels(source))
    assert load(text).fingerprint == data.fingerprint  # the mark is no part of it


def test_labels_several_a_picture(load):
    text = 'path,label\na0.png,cat;dog\na1.png,ant | cat\na2.png,;\na3.png,dog\n'
    data = load(text, targets='labels')
    assert data.labels == ('ant', 'cat', 'dog')
    targets = data.splits['train'].targets
    assert targets.tolist() == [[0, 1, 1], [1, 1, 0], [0, 0, 0], [0, 0, 1]] and targets.dtype == np.float32
    assert build_task({'name': 'multi_label'}, data.labels, targets.shape[1:]).labels == ('ant', 'cat', 'dog')
    refuse(load, r'data.shots: these data have no classes \(an example may have several labels\)', text, targets='labels', shots=1)
    whole = load(text)
    assert whole.labels == (';', 'ant | cat', 'cat;dog', 'dog')
    assert whole.notes == ("3 class names hold ';' or '|', such as ';'; for several labels a picture set data.targets='labels'.",)
    refuse(load, r"line 2: an empty name among the labels 'cat;'", 'path,label\na0.png,cat;\n', targets='labels')


def test_values_one_or_several(load):
    one = load('path,age\na0.png,3\na1.png,-0.25\na2.png,1e3\n', targets='values', label_key='age')
    assert one.labels == () and one.splits['train'].targets.tolist() == [3, -0.25, 1000] and one.splits['train'].targets.dtype == np.float32
    two = load('path,label\na0.png,1;2\na1.png,3|4.5\n', targets='values')
    assert two.splits['train'].targets.tolist() == [[1, 2], [3, 4.5]]
    for bad in ('old', 'nan', 'inf', '1,5', '1;'):
        refuse(load, r'labels.csv, line 3: label must be a number', f'path,label\na0.png,1\na1.png,"{bad}"\n', targets='values')
    refuse(load, r'line 4: 2 values, but labels.csv, line 2 has 1\.', 'path,label\na0.png,1\na1.png,2\na2.png,3;4\n', targets='values')


def test_a_folder_of_split_files_and_splits_made_of_one_file(load, pictures, tmp_path):
    rows = [f'{pictures}/a{k}.png,{"cat" if k % 2 else "dog"}\n' for k in range(10)]
    for name, part in (('train', rows[:6]), ('val', rows[6:8]), ('test', rows[8:])):
        (tmp_path / f'{name}.csv').write_text('path,label\n' + ''.join(part))
    data = load_data({'name': 'csv', 'root': str(tmp_path)})
    assert {name: len(split) for name, split in data.splits.items()} == {'train': 6, 'validation': 2, 'test': 2}
    made = load('path,label\n' + ''.join(rows), validation=0.2, test=0.2, shots=2)
    assert {name: np.bincount(split.targets).tolist() for name, split in made.splits.items()} == {
        'train': [2, 2],
        'validation': [1, 1],
        'test': [1, 1],
    }
    assert made.notes[-1] == 'shots: 2 a class, 4 of 6 training examples, seed 0.'
    with pytest.raises(UserError, match=r'line 8: .*/a9.png has a row already, train.csv, line 2'):
        (tmp_path / 'test.csv').write_text('path,label\n\n\n\n\n\n\n' + rows[9])
        (tmp_path / 'train.csv').write_text('path,label\n' + rows[9])
        load_data({'name': 'csv', 'root': str(tmp_path)})
    (tmp_path / 'test.csv').write_text(f'path,label,split\n{pictures}/a0.png,cat,train\n')
    with pytest.raises(UserError, match=r"test.csv, line 2: the split is 'train', but the file is that of test"):
        load_data({'name': 'csv', 'root': str(tmp_path)})
    (tmp_path / 'valid.csv').write_text('')
    with pytest.raises(UserError, match=r'has val.csv and valid.csv, which both mean validation'):
        load_data({'name': 'csv', 'root': str(tmp_path)})
    for path in tmp_path.glob('*.csv'):
        path.unlink()
    with pytest.raises(UserError, match=r'has no train.csv, no CSV file'):
        load_data({'name': 'csv', 'root': str(tmp_path)})


@pytest.mark.parametrize(
    ('message', 'text'),
    [
        (r"labels.csv, line 1 has no column 'label'. Did you mean 'labels'\?", 'path,labels\na0.png,cat\n'),
        (r"no column 'path'. It seems to be separated by ';': save it with commas", 'path;label\na0.png;cat\n'),
        (r"line 1 names the column 'label' twice", 'path,label,label\na0.png,cat,dog\n'),
        (r"labels.csv, line 3: the column 'label' is empty", 'path,label\na0.png,cat\na1.png, \n'),
        (r"labels.csv, line 2: the column 'path' is empty", 'path,label\n,cat\n'),
        (r"labels.csv, line 3: 3 fields, but the first line names 2 \(path, label\)", 'path,label\na0.png,cat\na1.png,cat,small\n'),
        (r'labels.csv, line 4: 1 fields', 'path,label\na0.png,cat\n\na1.png\n'),
        (r'names 2 pictures that are not there .*:\n  line 3: a11.png\n  line 5: nowhere/a0.png$', 'path,label\na0.png,c\na11.png,c\na1.png,c\nnowhere/a0.png,c\n'),
        (r'labels.csv, line 4: ./a0.png has a row already, line 2', 'path,label\na0.png,cat\na1.png,cat\n./a0.png,cat\n'),
        (r"line 3: 'cats' is no label of any training row. Did you mean 'cat'\?", 'path,label,split\na0.png,cat,train\na1.png,cats,test\n'),
        (r"line 2: there is no split 'tran'. Did you mean 'train'", 'path,label,split\na0.png,cat,tran\n'),
        (r"line 2: the column 'split' is empty", 'path,label,split\na0.png,cat,\n'),
        (r'labels.csv, line 3: no UTF-8 \(byte 0xef\). Save the file as UTF-8', 'path,label\na0.png,cat\na1.png,naïve\n'.encode('latin-1')),
        (r'labels.csv, line 1: no UTF-8 \(byte 0xff\)', 'path,label\n'.encode('utf-16')),
        (r'labels.csv, line 2: bad quoting or line end \(unexpected end of data\)', 'path,label\na0.png,"cat\n'),
        (r'labels.csv has no rows of train', 'path,label\n'),
        (r'labels.csv has no rows of train', ''),
        (r'labels.csv has no rows of train', 'path,label,split\na0.png,cat,test\n'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(load, message, text):
    refuse(load, message, text)


def test_fields_that_do_not_fit(load, tmp_path):
    text = 'path,label\na0.png,cat\n'
    refuse(load, r"data.image_key: .*labels.csv, line 1 has no column 'paths'. Did you mean 'path'", text, image_key='paths')
    refuse(load, r"data.targets must be one of classes, labels, values, found 'class'", text, targets='class')
    with pytest.raises(UserError, match=r"data.targets='labels': only data.name='csv', 'text_csv', 'text_jsonl' reads it"):
        load_data({'name': 'digits', 'targets': 'labels'})
    with pytest.raises(UserError, match='there is no file or folder'):
        load_data({'name': 'csv', 'root': str(tmp_path / 'no.csv')})
    with pytest.raises(UserError, match=r"data.root: data.name='csv' needs a CSV file here"):
        load_data({'name': 'csv'})
    with pytest.raises(UserError, match=r'numbers of a CSV: data.targets='):
        data = load(text + 'a1.png,dog\n')
        build_task({'name': 'regression'}, data.labels, data.splits['train'].targets.shape[1:])


def test_a_damaged_picture_is_found_by_the_preflight(load, pictures):
    (pictures / 'broken.png').write_bytes(b'no')
    data = load('path,label\na0.png,cat\nbroken.png,dog\na1.png,dog\n')
    with pytest.raises(UserError, match=r'1 of the 3 examples opened cannot be read.*\n  .*/broken.png cannot be read: it is no picture'):
        preflight(data)
    assert len(preflight(data, max_unreadable=1).data.splits['train']) == 2
