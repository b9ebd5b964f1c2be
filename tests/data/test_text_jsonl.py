import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.errors import UserError


@pytest.fixture
def load(tmp_path):
    """Writes lines and loads them as they are, without further splits."""

    def load(text, **fields):
        (tmp_path / 'texts.jsonl').write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_data({'name': 'text_jsonl', 'root': str(tmp_path / 'texts.jsonl'), 'validation': 0.0, 'test': 0.0, **fields})

    return load


def test_classes_with_splits_and_members_that_mean_nothing(load):
    data = load(
        '{"text": " Na\\u00efve \\ud83d\\ude42 ", "label": "good", "split": "train", "id": {"a": [1]}}\r\n'
        '\r\n'
        '{"label": "bad", "split": "training", "text": "Two\\nlines"}\r\n'
        '{"text": "c", "label": "good", "split": "Test"}'
    )
    assert data.labels == ('bad', 'good') and data.notes == ()
    train, test = data.splits['train'], data.splits['test']
    assert [train.examples[k] for k in range(2)] == [{'text': 'Naïve 🙂', 'label': 1}, {'text': 'Two\nlines', 'label': 0}]
    assert train.name_of(1) == 'texts.jsonl, line 3' and test.name_of(0) == 'texts.jsonl, line 4'
    assert train.targets.dtype == np.int32


def test_kinds_of_labels(load):
    data = load('{"text": "a", "label": 1}\n{"text": "b", "label": 0}\n{"text": "c", "label": true}\n')
    assert data.labels == ('0', '1', 'true') and data.splits['train'].targets.tolist() == [1, 0, 2]
    data = load('{"text": "a", "label": ["x", 3]}\n{"text": "b", "label": []}\n', targets='labels')
    assert data.labels == ('3', 'x') and data.splits['train'].targets.tolist() == [[1, 1], [0, 0]]
    data = load('{"text": "a", "label": 2}\n{"text": "b", "label": -0.5}\n', targets='values')
    assert data.labels == () and data.splits['train'].targets.tolist() == [2, -0.5] and data.splits['train'].targets.dtype == np.float32
    data = load('{"text": "a", "label": [1, 2]}\n{"text": "b", "label": [3, 4]}\n', targets='values')
    assert data.splits['train'].targets.tolist() == [[1, 2], [3, 4]]


def test_pairs_and_members_by_name(load):
    data = load('{"q": "Who?", "a": "She.", "ok": "yes"}', text_key='q', pair_key='a', label_key='ok')
    assert data.splits['train'].examples[0] == {'text': 'Who?', 'pair': 'She.', 'label': 0}


def test_a_folder_of_files(tmp_path):
    (tmp_path / 'train.jsonl').write_text('{"text": "a", "label": "x"}\n')
    (tmp_path / 'dev.json').write_text('{"text": "b", "label": "x"}\n')
    data = load_data({'name': 'text_jsonl', 'root': str(tmp_path), 'test': 0.0})
    assert {name: split.examples.texts for name, split in data.splits.items()} == {'train': ('a',), 'validation': ('b',)}
    with pytest.raises(UserError, match=r"data\.name='text_jsonl' needs a .jsonl file"):
        load_data({'name': 'text_jsonl'})


A = '{"text": "a", "label": "x"}\n'


@pytest.mark.parametrize(
    ('message', 'text', 'fields'),
    [
        (r'texts.jsonl, line 2: no JSON \(Expecting value.*\)\. Every line must hold one whole object\.$', A + 'text,label\n', {}),
        (r'line 1: no JSON .* one JSON array must be turned into lines: jq', '[\n  {"text": "a", "label": "x"}\n]\n', {}),
        (r'line 1: no JSON \(maximum recursion', '[' * 100_000 + ']' * 100_000, {}),
        (r'line 2: an object was expected, .* found \["a", "x"\]', A + '["a", "x"]\n', {}),
        (r"line 2: the object has no 'text' \(data.text_key\)\. Did you mean 'texts'\?", A + '{"texts": "a", "label": "x"}\n', {}),
        (r"line 2: the object has no 'label' \(data.label_key\)\. Known: text\.", A + '{"text": "a"}\n', {}),
        (r"line 2: 'text' must be a string, found null", A + '{"text": null, "label": "x"}\n', {}),
        (r"line 2: a name was expected as 'label', found \[\"x\", \"y\"\]\. For several labels set data.targets='labels'", A + '{"text": "a", "label": ["x", "y"]}\n', {}),
        (r"line 2: a name was expected as 'label', found 0\.5\. .* for numbers 'values'", A + '{"text": "a", "label": 0.5}\n', {}),
        (r"line 2: a name was expected as 'label', found \"\"", A + '{"text": "a", "label": ""}\n', {}),
        (r"line 1: 'label' must be a list of names, found \"x\"", A, {'targets': 'labels'}),
        (r"line 1: a name was expected as 'label', found null\. It stands in the list", '{"text": "a", "label": ["x", null]}', {'targets': 'labels'}),
        (r"line 1: 'label' must be a number or a list of numbers, found \"x\"", A, {'targets': 'values'}),
        (r"line 1: 'label' must be a number .* found true", '{"text": "a", "label": true}', {'targets': 'values'}),
        (r"line 1: 'label' must be a number .* found NaN", '{"text": "a", "label": NaN}', {'targets': 'values'}),
        (r"line 1: 'label' must be a number .* found \[\]", '{"text": "a", "label": []}', {'targets': 'values'}),
        (r"line 1: 'label' must be a number .* found 1000", '{"text": "a", "label": 1' + '0' * 400 + '}', {'targets': 'values'}),
        (r'line 2: 2 values, but texts.jsonl, line 1 has 1', '{"text": "a", "label": 1}\n{"text": "a", "label": [1, 2]}', {'targets': 'values'}),
        (r"line 2: 'y' is no label of any training row", A + '{"text": "a", "label": "y", "split": "test"}\n', {}),
        (r"line 2: there is no split 'tset'. Did you mean 'test'", A + '{"text": "a", "label": "x", "split": "tset"}\n', {}),
        (r"line 2: 'split' must be a string, found 1", A + '{"text": "a", "label": "x", "split": 1}\n', {}),
        (r'line 2: no UTF-8 \(byte 0xef\)', A.encode() + '{"text": "naïve", "label": "x"}\n'.encode('latin-1'), {}),
        (r'texts.jsonl has no rows of train', '\n', {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(load, message, text, fields):
    with pytest.raises(UserError, match=message):
        load(text, **fields)


def test_texts_that_are_none_are_found_by_the_preflight(load):
    data = load(A + '{"text": "", "label": "x"}\n{"text": "half \\ud83d", "label": "x"}\n')
    with pytest.raises(UserError, match=r'(?s)2 of the 3 .*line 2: the text is empty\..*line 3: no Unicode text, it holds .\\ud83d.\.'):
        preflight(data)
    assert len(preflight(data, max_unreadable=2).data.splits['train']) == 1


ROW = st.fixed_dictionaries({'text': st.text(max_size=12), 'label': st.text(min_size=1, max_size=4).filter(str.strip)})


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROW, min_size=1, max_size=6), st.booleans())
def test_what_a_json_writer_writes_is_read_back(tmp_path, rows, ascii_only):
    place = tmp_path / 'round.jsonl'
    place.write_text(''.join(json.dumps(row, ensure_ascii=ascii_only) + '\n' for row in rows), encoding='utf-8', newline='\n')
    data = load_data({'name': 'text_jsonl', 'root': str(place), 'validation': 0.0, 'test': 0.0})
    assert list(data.splits['train'].examples.texts) == [row['text'].strip() for row in rows]
    assert [data.labels[k] for k in data.splits['train'].targets] == [row['label'].strip() for row in rows]
