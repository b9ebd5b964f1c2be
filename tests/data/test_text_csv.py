import csv
import io

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError

CSV = """text,label,split
"Where is my card, please?",card,train
Naïve  question ,"other; more",train
"He said ""no"".
Twice.",card,dev
Where?,card,test
"""


@pytest.fixture
def load(tmp_path):
    """Writes a file and loads it as it is, without further splits."""

    def load(text, name='texts.csv', encoding='utf-8', **fields):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
        return load_data({'name': 'text_csv', 'root': str(tmp_path / name), 'validation': 0.0, 'test': 0.0, **fields})

    return load


def refuse(load, message, text, **fields):
    with pytest.raises(UserError, match=message):
        load(text, **fields)


def test_classes_with_a_split_column(load):
    data = load(CSV)
    assert data.labels == ('card', 'other; more')
    assert {name: split.targets.tolist() for name, split in data.splits.items()} == {'train': [0, 1], 'validation': [0], 'test': [0]}
    train, validation = data.splits['train'], data.splits['validation']
    assert train.targets.dtype == np.int32
    assert [train.examples[k] for k in range(2)] == [
        {'text': 'Where is my card, please?', 'label': 0},
        {'text': 'Naïve  question', 'label': 1},
    ]
    assert validation.examples[0]['text'] == 'He said "no".\nTwice.'
    assert [train.name_of(1), validation.name_of(0), data.splits['test'].name_of(0)] == [f'texts.csv, line {k}' for k in (3, 4, 6)]
    assert data.notes == ("1 class names hold ';' or '|', such as 'other; more'; for several labels a text set data.targets='labels'.",)


def test_the_same_text_in_other_files(load, tmp_path):
    """Tabs, another encoding, a byte order mark, other line ends: the same examples."""
    expected = load(CSV)
    tabs = io.StringIO()
    csv.writer(tabs, delimiter='\t', lineterminator='\n').writerows(csv.reader(io.StringIO(CSV, newline='')))
    assert '\t' in tabs.getvalue()
    others = [
        load(tabs.getvalue(), name='texts.tsv'),
        load(CSV, encoding='utf-8-sig'),
        load(CSV.replace('\n', '\r\n').replace('".\r\nT', '".\nT')),
    ]
    for encoding in ('utf-16', 'cp1252'):
        (tmp_path / 'other.csv').write_text(CSV, encoding=encoding)
        others.append(load_data({'name': 'text_csv', 'root': str(tmp_path / 'other.csv'), 'encoding': encoding}))
    for data in others:
        assert list(data.splits) == ['train', 'validation', 'test']
        for split in expected.splits:
            assert data.splits[split].examples.texts == expected.splits[split].examples.texts
            assert data.splits[split].targets.tolist() == expected.splits[split].targets.tolist()


def test_pairs_and_columns_by_name(load):
    data = load(
        'id,premise,hypothesis,gold\n1,A dog runs.,An animal runs.,yes\n2,A dog runs.,It sleeps.,no\n',
        text_key='premise',
        pair_key='hypothesis',
        label_key='gold',
    )
    assert data.splits['train'].examples[1] == {'text': 'A dog runs.', 'pair': 'It sleeps.', 'label': 0}
    refuse(load, r"data.pair_key: .*texts.csv, line 1 has no column 'b'\. Known: a, label\.", 'a,label\nx,y\n', text_key='a', pair_key='b')
    assert load('a,b,label\nx,y,z\n', text_key='a').splits['train'].examples[0] == {'text': 'x', 'label': 0}


def test_several_labels_and_values(load):
    data = load('text,label\na,joy;love\nb,;\nc,anger|joy\n', targets='labels')
    assert data.labels == ('anger', 'joy', 'love')
    assert data.splits['train'].targets.tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]] and data.splits['train'].targets.dtype == np.float32
    data = load('text,label\na,3.5\nb,-1e2\n', targets='values')
    assert data.labels == () and data.splits['train'].targets.tolist() == [3.5, -100]
    assert data.splits['train'].examples[1] == {'text': 'b', 'label': -100.0}
    refuse(load, r"line 3: label must be a number .* found 'good'", 'text,label\na,3.5\nb,good\n', targets='values')
    refuse(load, r'these data have no classes \(an example may have several labels\)', 'text,label\na,x;y\n', targets='labels', shots=1)


def test_a_folder_of_files(tmp_path):
    (tmp_path / 'train.tsv').write_text('text\tlabel\na, b\tx\nc\ty\n')
    (tmp_path / 'valid.csv').write_text('text,label\nd,y\n')
    section = {'name': 'text_csv', 'root': str(tmp_path), 'test': 0.0}
    data = load_data(section)
    assert data.splits['train'].examples.texts == ('a, b', 'c') and data.splits['validation'].targets.tolist() == [1]
    assert data.splits['validation'].name_of(0) == 'valid.csv, line 2'
    moved = tmp_path / 'moved'
    moved.mkdir()
    for name in ('train.tsv', 'valid.csv'):
        (tmp_path / name).rename(moved / name)
    assert load_data({**section, 'root': str(moved)}).fingerprint == data.fingerprint
    (moved / 'valid.csv').write_text('text,label\ne,y\n')
    assert load_data({**section, 'root': str(moved)}).fingerprint != data.fingerprint
    (moved / 'valid.csv').write_text('text,label\n')
    with pytest.raises(UserError, match=r'valid.csv holds no rows\. Fill it, or remove it: validation is taken from train'):
        load_data({**section, 'root': str(moved)})
    (moved / 'train.csv').write_text('text,label\na,x\n')
    with pytest.raises(UserError, match=r'has train\.csv and train\.tsv, which both mean train'):
        load_data({**section, 'root': str(moved)})
    for name in ('train.csv', 'train.tsv'):
        (moved / name).unlink()
    with pytest.raises(UserError, match=r'has no train.csv or train.tsv, only valid.csv'):
        load_data({**section, 'root': str(moved)})


def test_splits_are_made_of_each_class_and_shots_are_chosen(load):
    data = load('text,label\n' + ''.join(f't{k},{"x" if k < 20 else "y"}\n' for k in range(30)), validation=0.1, test=0.2, shots=3)
    assert {name: np.bincount(split.targets).tolist() for name, split in data.splits.items()} == {
        'train': [3, 3],
        'validation': [2, 1],  # a tenth of the 16 and 8 that are not test's
        'test': [4, 2],
    }
    texts = [split.examples[k]['text'] for split in data.splits.values() for k in range(len(split))]
    assert len(set(texts)) == len(texts)
    for split in data.splits.values():
        for k in range(len(split)):
            number = int(split.examples[k]['text'][1:])
            assert split.name_of(k) == f'texts.csv, line {number + 2}' and split.targets[k] == (number >= 20)
    kept = load('text,label\na,x\nb,y\nc,z\n', classes=('z', 'x'))
    assert kept.labels == ('z', 'x') and kept.splits['train'].targets.tolist() == [1, 0]
    assert [kept.splits['train'].examples[k]['text'] for k in range(2)] == ['a', 'c']


@pytest.mark.parametrize(
    ('message', 'text'),
    [
        (r"data.text_key: .*texts.csv, line 1 has no column 'text'\. Did you mean 'texts'\?", 'texts,label\na,x\n'),
        (r"data.label_key: .*texts.csv, line 1 has no column 'label'\. Known: category, text\.", 'text,category\na,x\n'),
        (r"line 1 has no column 'text'. It seems to be separated by '\\t': save it with commas", 'text\tlabel\na\tx\n'),
        (r'texts.csv, line 4: 3 fields, but the first line names 2 \(text, label\)\. A field that holds a comma', 'text,label\n"a\nb",x\nc, d,x\n'),
        (r"texts.csv, line 3: the column 'label' is empty", 'text,label\na,x\nb,\n'),
        (r"texts.csv, line 4: 'Y' is no label of any training row. Did you mean 'y'\?", 'text,label,split\na,x,train\nb,y,train\nc,Y,test\n'),
        (r"texts.csv, line 3: there is no split 'tset'. Did you mean 'test'", 'text,label,split\na,x,train\nb,x,tset\n'),
        (r"texts.csv, line 3: no UTF-8 \(byte 0xef\)\. Save the file as UTF-8, .* data.encoding='latin-1'", 'text,label\na,x\nnaïve,x\n'.encode('latin-1')),
        (r'texts.csv, line 3: bad quoting', 'text,label\na,x\n"b" c,x\n'),
        (r'texts.csv has no rows of train', 'text,label\n'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(load, message, text):
    refuse(load, message, text)


def test_a_place_is_needed(tmp_path):
    for root, message in (
        ('', "data.name='text_csv' needs a .csv or .tsv file"),
        (tmp_path / 'no.csv', 'there is no file or folder'),
        (tmp_path, 'no CSV file'),
    ):
        with pytest.raises(UserError, match=message):
            load_data({'name': 'text_csv', 'root': str(root)})
    with pytest.raises(UserError, match=r"data.targets='values': only data.name='csv', 'text_csv', 'text_jsonl' reads it"):
        load_data({'name': 'text_lines', 'targets': 'values'})


def test_empty_texts_are_found_by_the_preflight_and_may_be_left_out(load):
    data = load('text,pair,label,split\na,b,x,train\n"  ",b,x,train\nc,,y,train\nd,e,y,test\n', pair_key='pair')
    with pytest.raises(UserError) as error:
        preflight(data, max_unreadable=1)
    assert str(error.value).splitlines() == [
        'data: 2 of the 4 examples opened cannot be read, and data.max_unreadable is 1:',
        '  texts.csv, line 3: the text is empty.',
        '  texts.csv, line 4: the second text is empty.',
        'Mend or remove them, or set data.max_unreadable=2 to leave them out.',
    ]
    found = preflight(data, max_unreadable=2)
    assert found.counts == {'train': (1, 0), 'test': (0, 1)} and len(found.unreadable) == 2
    assert found.data.splits['train'].examples[0]['text'] == 'a'


def test_duplicates_across_splits_are_warned_of(load):
    data = load('text,label,split\nsame,x,train\nsame,y,train\nother,y,train\n same ,x,test\n')
    assert [len(split) for split in data.splits.values()] == [3, 1]
    assert preflight(data).duplicates == (('texts.csv, line 2', 'texts.csv, line 5'),)


TEXT = st.text(st.sampled_from('abc ,;"\'\n\r\té語🙂\u2028\x85\xa0|#'), max_size=12)
NAME = st.text(st.sampled_from('xyz ,"é'), min_size=1, max_size=4).filter(str.strip)


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(TEXT, TEXT, NAME), min_size=1, max_size=6), st.sampled_from(['csv', 'tsv']), st.sampled_from(['\n', '\r\n']))
def test_what_a_csv_writer_writes_is_read_back(tmp_path, rows, suffix, end):
    place = tmp_path / f'round.{suffix}'
    with place.open('w', encoding='utf-8', newline='') as file:
        writer = csv.writer(file, delimiter=',' if suffix == 'csv' else '\t', lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([('text', 'b', 'label'), *rows])
    data = load_data({'name': 'text_csv', 'root': str(place), 'pair_key': 'b', 'validation': 0.0, 'test': 0.0})
    examples = data.splits['train'].examples
    assert list(zip(examples.texts, examples.pairs, strict=True)) == [(a.strip(), b.strip()) for a, b, _ in rows]
    assert [data.labels[k] for k in data.splits['train'].targets] == [label.strip() for _, _, label in rows]
