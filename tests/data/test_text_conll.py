import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.preflight import preflight
from jtl.data.sampling import class_counts
from jtl.errors import UserError

CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O
German JJ B-NP I-MISC

# # I-NP O
Peter NNP B-NP I-PER

-DOCSTART- -X- -X- O

BRUSSELS NNP B-NP I-LOC
"""


@pytest.fixture
def load(tmp_path):
    """Writes a file of columns and loads it as it is, without further splits."""

    def load(text, name='words.conll', **fields):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_data({'name': 'conll', 'root': str(tmp_path / name), 'validation': 0.0, 'test': 0.0, **fields})

    return load


def read(split):
    """Each sentence as (word, tag number) pairs."""
    return [list(zip(e['words'], e['label'].tolist(), strict=True)) for e in map(split.examples.__getitem__, range(len(split)))]


def test_columns_separated_by_spaces(load):
    data = load(CONLL_2003)
    train = data.splits['train']
    assert data.labels == ('O', 'I-LOC', 'I-MISC', 'I-ORG', 'I-PER')
    assert train.targets.tolist() == [[3, 0, 2], [0, 4, -1], [1, -1, -1]] and train.targets.dtype == np.int32
    assert train.examples[1]['words'] == ('#', 'Peter') and train.examples[1]['label'].tolist() == [0, 4]
    assert [train.name_of(k) for k in range(3)] == [f'words.conll, line {k}' for k in (3, 7, 12)]
    assert preflight(data).counts == {'train': (2, 1, 1, 1, 1)} and class_counts(data) == (2, 1, 1, 1, 1)
    assert [line.split() for line in preflight(data).text().splitlines()][-1] == ['sentences', '3']


def test_other_columns(load):
    parts = load(CONLL_2003, columns=(0, 1))
    assert parts.labels == ('#', 'JJ', 'NNP', 'VBZ') and read(parts.splits['train'])[0] == [('EU', 2), ('rejects', 3), ('German', 1)]
    assert read(load(CONLL_2003, columns=(-4, 3)).splits['train']) == read(load(CONLL_2003).splits['train'])
    turned = load('O\tthe\nB-x\tcat\n', columns=[1, 0])
    assert turned.splits['train'].examples[0]['words'] == ('the', 'cat')


def test_tabs_keep_other_white_space_and_lines_of_tabs_end_sentences(load):
    data = load('New York\tB-place\r\n\xa0\tO\r\n\t\r\n#\tO\r\n#hash\tO\r\n')
    assert read(data.splits['train']) == [[('New York', 1), ('\xa0', 0)], [('#', 0), ('#hash', 0)]]
    assert data.splits['train'].name_of(1) == 'words.conll, line 4'


def test_comments(load):
    text = '# newdoc\n# sent_id = 1\tand more\na\tO\n# \tB-x\n\n# text = 17\nb\tB-x\n'
    assert read(load(text).splits['train']) == [[('a', 0), ('#', 1)], [('b', 1)]]
    spaces = '# id 1\n# O\na O\n\n# 17\nb B-x\n'  # "# O" is a token: others have its tag; "# 17" has none
    assert read(load(spaces).splits['train']) == [[('#', 0), ('a', 0)], [('b', 1)]]
    ids = '# id 0-1\tdomain=en\nthe _ _ O\nco _ _ B-x\n\n\n# id 0-2\tdomain=en\na _ \t_ O\n'
    assert read(load(ids).splits['train']) == [[('the', 0), ('co', 1)], [('a', 0)]]


def test_a_folder_of_files_and_tags_that_only_a_prefix_sets_apart(tmp_path):
    (tmp_path / 'train.bio').write_text('a B-x\nb O\n\nc O\nd O\n')
    (tmp_path / 'dev.txt').write_text('e B-x\nf I-x\ng O\n')
    (tmp_path / 'test.conll').write_text('h U-x')
    section = {'name': 'conll', 'root': str(tmp_path)}
    data = load_data(section)
    assert data.labels == ('O', 'B-x', 'I-x', 'U-x')
    assert {name: split.targets.tolist() for name, split in data.splits.items()} == {
        'train': [[1, 0, -1], [0, 0, -1]],
        'validation': [[1, 2, 0]],
        'test': [[3, -1, -1]],
    }
    found = preflight(data)
    assert found.counts == {'train': (3, 1, 0, 0), 'validation': (1, 1, 1, 0), 'test': (0, 0, 0, 1)}
    assert found.warnings[0] == 'train has no example of I-x, U-x: what is absent cannot be learnt.'
    (tmp_path / 'test.conll').write_text('h O\ni B-X\n')
    with pytest.raises(UserError, match=r"test.conll, line 2: 'B-X' is of no type that training sentences have. Did you mean 'B-x' or"):
        load_data(section)
    (tmp_path / 'test.conll').write_text('# nothing\n')
    with pytest.raises(UserError, match=r'test.conll holds no rows'):
        load_data(section)
    (tmp_path / 'train.bio').rename(tmp_path / 'words.bio')
    with pytest.raises(UserError, match=r'no train.conll or train.txt .* only dev.txt, test.conll, words.bio'):
        load_data(section)


@pytest.mark.parametrize(
    ('message', 'text', 'fields'),
    [
        (r"words.conll, line 3: 1 column \(c\), but line 1 has 2 columns \(a \| O\)\. Every token needs its tag \('O' outside", 'a O\n\nc\nd O\n', {}),
        (r'line 2: 1 column \(b O\), but line 1 has 2', 'a\tO\nb O\n', {}),
        (r'line 2: 1 column \(# b = O\), but line 1 has 4', 'a\tb\tc\tO\n# b = O\n', {}),
        (r'line 2: 3 columns \(b \| c \| O\), but line 1 has 2 columns', 'a O\nb c O\n', {}),
        (r"line 2: the tag is missing \(column 1, data.columns\)\. Write it; a tag outside of entities is 'O'", 'a\tO\nb\t\n', {}),
        (r'line 2: the token is missing \(column 0', 'a\tO\n \tO\n', {}),
        (r'line 1: 1 column \(a\), and data.columns=\(0, -1\) finds token and tag in the same one', 'a\nb\n', {}),
        (r'data.columns: there is no column 3 in .*words.conll, line 2: 2 columns \(a \| O\), numbered from 0', '\na O\n', {'columns': (0, 3)}),
        (r'data.columns: there is no column -3 in', 'a O\n', {'columns': (-3, 1)}),
        (r'line 2: 2 columns \(# \| b\), but line 1 has 3', 'a b O\n# b\n', {}),
        (r'line 2: no UTF-8 \(byte 0xef\)', 'a O\nnaïve O\n'.encode('latin-1'), {}),
        (r'words.conll has no rows of train', '\n-DOCSTART- O\n\n# only this\n', {}),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(load, message, text, fields):
    with pytest.raises(UserError, match=message):
        load(text, **fields)


@pytest.mark.parametrize('columns', [(0,), 'ab', 0, (0, True), (0, 1.0), (0, 1, 2), None])
def test_columns_that_are_none(columns):
    with pytest.raises(UserError, match=r'data\.columns must be two whole numbers'):
        load_data({'name': 'conll', 'root': 'x', 'columns': columns})


def test_a_place_is_needed():
    with pytest.raises(UserError, match=r"data\.name='conll' needs a file of columns"):
        load_data({'name': 'conll'})


def test_what_needs_classes_of_examples_is_refused_and_splits_are_random(load):
    text = ''.join(f'w{k} {"B-x" if k % 3 else "O"}\n\n' for k in range(20))
    for field, value in (('shots', 2), ('classes', ('O',)), ('sampling', 'balanced')):
        with pytest.raises(UserError, match=rf'data.{field}.*these data have no classes \(every word has a tag\)'):
            load(text, **{field: value})
    data = load(text, validation=0.25, examples=16)
    assert {name: len(split) for name, split in data.splits.items()} == {'train': 12, 'validation': 4}
    for split in data.splits.values():
        for k, sentence in enumerate(read(split)):
            number = int(sentence[0][0][1:])
            assert sentence[0][1] == bool(number % 3) == split.targets[k, 0] and split.name_of(k) == f'words.conll, line {2 * number + 1}'
    assert 'validation: the data bring none; 4 examples (25%, random, seed 0) are taken from train.' in data.notes
    with pytest.raises(UserError, match=r'data.orientations: these data have no classes'):
        load(text, orientations=4)


TAGS = ('O', 'B-x', 'I-x', 'B-y-z')
TOKEN = st.text(st.sampled_from('ab#-é語\xa0\u2028'), min_size=1, max_size=4).filter(lambda word: not word.startswith('-D'))
SENTENCE = st.lists(st.tuples(TOKEN, st.sampled_from(TAGS)), min_size=1, max_size=5)


@settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(SENTENCE, min_size=1, max_size=5), st.sampled_from(['\t', ' ', '  ']), st.integers(1, 3))
def test_what_is_written_is_read_back(tmp_path, sentences, separator, blank):
    sentences = [*sentences, [('all', tag) for tag in TAGS]]  # for '# O' to be a token, the tag must be that of another
    lines = ['\n'.join(separator.join((word, '_', tag)) for word, tag in sentence) + '\n' for sentence in sentences]
    (tmp_path / 'x').write_text(('\n' * blank).join(lines), encoding='utf-8', newline='\n')
    data = load_data({'name': 'conll', 'root': str(tmp_path / 'x'), 'validation': 0.0, 'test': 0.0})
    found = [[(word, data.labels[tag]) for word, tag in sentence] for sentence in read(data.splits['train'])]
    assert found == sentences
