"""`jtl predict` on raw text: from standard input and from files, in order, whatever some lines hold."""

import io
import json
import subprocess
import sys

import pytest
import text_bundle as tiny

from jtl.bundle import load_bundle
from jtl.cli.main import main
from jtl.cli.predict import line
from jtl.cli.sentences import Reader


@pytest.fixture(scope='module')
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp('text')
    made = tiny.experiment(folder)
    tiny.write(made, tiny.leaves_of(made), folder / 'bundle')
    return folder / 'bundle'


@pytest.fixture
def predict(bundle, capsys, monkeypatch):
    def predict(*arguments, stdin=b''):
        """Exit status, lines and what stands on stderr."""
        monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BytesIO(stdin)))
        status = main(['predict', str(bundle), *map(str, arguments), '--batch-size=2'])
        said = capsys.readouterr()
        assert 'Traceback' not in said.err
        return status, said.out.splitlines(), said.err

    return predict


def test_lines_of_standard_input(bundle, predict):
    texts = ['bad', 'the dog sings a good song', 'good film'] * 12  # more than one reading of 16 batches
    status, lines, error = predict('-', stdin='\n'.join(texts).encode())
    assert (status, error) == (0, '')
    said = load_bundle(str(bundle)).predict(texts, batch_size=2)
    assert lines == [f'stdin:{k}\t{s["label"]}\t{s["probability"]:.4f}' for k, s in enumerate(said, 1)]
    assert len({lines[i].split('\t')[2] for i in range(3)}) == 3


def test_what_cannot_be_read_is_named_and_the_rest_is_predicted(predict):
    status, lines, error = predict('-', stdin=b'\xef\xbb\xbfgood film\r\n\n  \ncaf\xe9\nbad\n')
    assert status == 2
    assert [row.split('\t')[0] for row in lines] == ['stdin:1', 'stdin:5']
    assert error == (
        'jtl predict: stdin:2: the text is empty.\njtl predict: stdin:3: the text is empty.\njtl predict: stdin:4: no UTF-8 (byte 0xe9).\n'
    )
    assert lines[0].split('\t')[1:] == predict('-', stdin=b'good film')[1][0].split('\t')[1:]


def test_files_of_every_kind_say_the_same(predict, tmp_path):
    texts = ['good film', 'the dog, a good song', 'bad']
    (tmp_path / 'a.txt').write_text('\n'.join(texts))
    (tmp_path / 'a.csv').write_text('id,sentence\n' + '\n'.join(f'{k},"{text}"' for k, text in enumerate(texts)))
    (tmp_path / 'a.tsv').write_text('sentence\tid\n' + '\n'.join(f'{text}\t{k}' for k, text in enumerate(texts)))
    (tmp_path / 'a.jsonl').write_text('\n'.join(json.dumps({'sentence': text}) for text in texts))
    files = [tmp_path / f'a.{suffix}' for suffix in ('txt', 'csv', 'tsv', 'jsonl')]
    status, lines, _ = predict(*files)
    assert status == 0
    rows = [row.split('\t') for row in lines]
    assert [row[0] for row in rows] == [f'{path}:{k + first}' for path, first in zip(files, (1, 2, 2, 1), strict=True) for k in range(3)]
    assert all(rows[k][1:] == rows[k % 3][1:] for k in range(12))
    (tmp_path / 'b.csv').write_text((tmp_path / 'a.csv').read_text().replace('sentence', 'words'))
    status, lines, error = predict(tmp_path / 'b.csv')
    assert (status, lines) == (2, []) and '--text-key: ' in error and "has no column 'sentence'" in error
    status, lines, _ = predict(tmp_path / 'b.csv', '--text-key=words', '--json')
    said = [json.loads(row) for row in lines]
    assert [s['text'] for s in said] == texts and [s['file'] for s in said] == [f'{tmp_path}/b.csv:{k}' for k in (2, 3, 4)]
    assert [f'{s["probability"]:.4f}' for s in said] == [row[2] for row in rows[:3]] and {'label', 'top'} <= set(said[0])


def test_files_that_hold_no_text(predict, tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"sentence": "good"}\n{"text": 3}\n[]\n{"sentence": ["good"]}\n{"sentence": "\\ud800"}\nx\n')
    status, lines, error = predict(tmp_path / 'a.jsonl')
    assert status == 2 and len(lines) == 1
    for number, what in ((2, "no 'sentence'"), (3, 'no JSON object'), (4, 'no text'), (5, 'no Unicode'), (6, 'no JSON (')):
        assert f'a.jsonl:{number}: ' in error and what in error.splitlines()[number - 2]
    (tmp_path / 'a.csv').write_text('sentence,x\ngood,1\nbad\n')
    status, _, error = predict(tmp_path / 'a.csv')
    assert status == 2 and error.startswith(f'jtl predict: {tmp_path}/a.csv, line 3: 1 fields')
    for place, said in (('none.txt', 'there is no such file'), ('a.png', 'a.png: no file of text by its name'), ('', 'a folder')):
        (tmp_path / 'a.png').touch()
        status, lines, error = predict(tmp_path / 'a.jsonl', tmp_path / place)
        assert (status, lines) == (2, []) and said in error
    assert 'views are taken of pictures' in predict('-', '--tta=flip')[2]


def test_pairs_and_words(tmp_path, monkeypatch):
    (tmp_path / 'a.txt').write_text('a b\tc\nalone\n\nx\ty\tz\n\tc\n')
    read = list(Reader('text', 'second', 'utf-8', words=False).read([str(tmp_path / 'a.txt')]))
    assert [s.text for s in read] == [('a b', 'c'), '', '', '', '']
    assert [s.problem.partition(';')[2] or s.problem for s in read[1:]] == [
        ' here are 0 tabs.',
        'the text is empty.',
        ' here are 2 tabs.',
        'a text of the pair is empty.',
    ]
    (tmp_path / 'b.jsonl').write_text('{"text": "A b.", "second": "c"}\n{"text": ["A", "b."]}\n{"text": []}\n')
    assert next(Reader('text', 'second', 'utf-8', words=False).read([str(tmp_path / 'b.jsonl')])).text == ('A b.', 'c')
    read = list(Reader('text', '', 'utf-8', words=True).read([str(tmp_path / 'b.jsonl')]))
    assert [s.text for s in read] == ['A b.', ('A', 'b.'), '']
    assert read[2].problem == "'text' is neither a text nor a list of words."


def test_standard_input_is_read_as_it_is_asked_for(monkeypatch):
    class Endless(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, buffer):
            buffer[:4] = b'bad\n'
            return 4

    monkeypatch.setattr('sys.stdin', io.TextIOWrapper(io.BufferedReader(Endless())))
    sentences = Reader('text', '', 'utf-8', words=False).read(['-'])
    assert [next(sentences).name for _ in range(3)] == ['stdin:1', 'stdin:2', 'stdin:3']


def test_a_line_of_entities():
    entities = [
        {'text': 'New York', 'type': 'location', 'start': 2, 'end': 4, 'probability': 0.98765},
        {'text': 'Ada', 'type': 'person', 'probability': 1.0},
    ]
    assert line('stdin:1', {'words': [], 'entities': entities}) == 'stdin:1\tlocation New York 0.9877\tperson Ada 1.0000'
    assert line('stdin:1', {'words': [], 'entities': []}) == 'stdin:1'


def test_a_pipe_that_closes_is_no_error(bundle):
    with subprocess.Popen(
        [sys.executable, '-m', 'jtl.cli.main', 'predict', str(bundle), '-', '--batch-size=2'], stdin=-1, stdout=-1, stderr=-1
    ) as process:
        process.stdin.write(b'good film\n' * 32)
        process.stdin.flush()
        assert process.stdout.readline().startswith(b'stdin:1\t')  # before the end of what is asked is known
        process.stdout.close()
        process.stdin.write(b'good film\n' * 64)
        process.stdin.close()
        assert process.stderr.read() == b''
    assert process.returncode == 0
