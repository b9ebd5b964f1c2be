"""Word vectors in files that the tests write by hand, format by format."""

import gzip
import json
import tracemalloc

import huggingface_hub
import ml_dtypes
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import errors
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.word_vectors import looks_like_word_vectors, open_word_vectors
from jtl.errors import UserError

VECTORS = {
    'the': [0.5, -0.25, 1e-3],
    'Apple': [1.0, 2.0, 3.0],
    'apple': [-1.0, -2.0, -3.0],
    '7': [7.0, 7.5, -7.5],
    'über': [0.125, 0.0, 4.0],
}


def rows_of(vectors):
    return np.array(list(vectors.values()), np.float32)


def text_of(vectors, header=False, between=' ', end='\n'):
    lines = [between.join([word, *(repr(float(np.float32(x))) for x in row)]) for word, row in vectors.items()]
    top = [f'{len(vectors)} {len(next(iter(vectors.values())))}'] if header else []
    return ''.join(line + end for line in [*top, *lines]).encode()


def binary_of(vectors, newline=b'\n'):
    top = f'{len(vectors)} {len(next(iter(vectors.values())))}\n'.encode()
    return top + b''.join(word.encode() + b' ' + np.array(row, '<f4').tobytes() + newline for word, row in vectors.items())


BY_HAND = {
    'glove': (text_of(VECTORS), 'GloVe text'),
    'glove with crlf': (text_of(VECTORS, end='\r\n'), 'GloVe text'),
    'glove with a byte order mark': (b'\xef\xbb\xbf' + text_of(VECTORS), 'GloVe text'),
    'glove with tabs, and no last newline': (text_of(VECTORS, between='\t').rstrip(b'\n'), 'GloVe text'),
    'glove, gzip': (gzip.compress(text_of(VECTORS)), 'GloVe text'),
    'word2vec text': (text_of(VECTORS, header=True), 'word2vec text'),
    'fasttext': (text_of(VECTORS, header=True, end=' \n'), 'word2vec text'),
    'word2vec binary': (binary_of(VECTORS), 'word2vec binary'),
    'word2vec binary without newlines': (binary_of(VECTORS, b''), 'word2vec binary'),
    'word2vec binary, gzip': (gzip.compress(binary_of(VECTORS)), 'word2vec binary'),
}


@pytest.mark.parametrize('kind', BY_HAND)
def test_every_format_gives_the_rows_in_the_order_of_the_vocabulary(tmp_path, kind):
    content, form = BY_HAND[kind]
    path = tmp_path / 'vectors'  # the name says nothing
    path.write_bytes(content)
    assert looks_like_word_vectors(str(path))
    words = ('7', 'über', 'the', 'Apple')
    found = open_word_vectors(str(path), words)
    assert (found.format, found.origin, list(found.specs)) == (form, str(path), ['embedding'])
    assert (found.specs['embedding'].shape, found.specs['embedding'].dtype) == ((4, 3), np.float32)
    table = found.read('embedding')
    assert table.dtype == np.float32
    np.testing.assert_array_equal(table, rows_of({word: VECTORS[word] for word in words}))


INDEXES = {
    'v.txt': ''.join(f'{word}\n' for word in VECTORS).encode(),
    'v.vocab': '\r\n'.join(VECTORS).encode(),
    'v.json': json.dumps(list(VECTORS)).encode(),
    'words.json': json.dumps({word: row for row, word in enumerate(VECTORS)}, ensure_ascii=False).encode(),
    'other.parquet': None,
}
ARRAYS = {
    'float32': np.array,
    'big-endian': lambda rows: np.array(rows, '>f4'),
    'float64': lambda rows: np.array(rows, np.float64),
    'column-major': np.asfortranarray,
    'float16': lambda rows: np.array(rows, np.float16),
    'bfloat16': lambda rows: np.array(rows, ml_dtypes.bfloat16).view('V2'),
}


def write_npy(folder, index='v.txt', array='float32', words=VECTORS):
    np.save(folder / 'v.npy', ARRAYS[array](rows_of(VECTORS)))
    if index.endswith('.parquet'):
        pyarrow.parquet.write_table(pyarrow.table({'index': list(words)}), folder / index)
    else:
        (folder / index).write_bytes(INDEXES[index])
    return str(folder / 'v.npy')


@pytest.mark.parametrize(('index', 'array'), [*((index, 'float32') for index in INDEXES), *(('v.txt', array) for array in ARRAYS)])
def test_an_array_with_its_index(tmp_path, index, array):
    where = write_npy(tmp_path, index, array)
    assert looks_like_word_vectors(where)
    found = open_word_vectors(where, ['über', 'the'])
    assert found.format == 'npy with index'
    wanted = rows_of({word: VECTORS[word] for word in ('über', 'the')})
    np.testing.assert_allclose(found.read('embedding'), wanted, rtol=4e-3 if array.endswith('16') else 0)


LETTERS = st.characters(exclude_categories=['Cs', 'Cc', 'Zs', 'Zl', 'Zp'])
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def vectors(draw, spaces=False):
    word = st.text(LETTERS, min_size=1, max_size=6)
    if spaces:  # its last part is no number, which would be one of the row's
        word = st.tuples(st.text(LETTERS, min_size=1, max_size=3), word.filter(lambda w: not is_number(w))).map(' '.join) | word
    words = draw(st.lists(word, min_size=1, max_size=6, unique=True))
    dim = draw(st.integers(2, 5))
    return {word: draw(st.lists(NUMBERS, min_size=dim, max_size=dim)) for word in words}


def is_number(word):
    try:
        float(word.encode())
    except ValueError:
        return False
    return True


FORMS = {
    'glove': text_of,
    'word2vec text': lambda v: text_of(v, header=True),
    'fasttext': lambda v: text_of(v, header=True, end=' \n'),
    'binary': binary_of,
    'binary without newlines': lambda v: binary_of(v, b''),
}


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.sampled_from(list(FORMS)), st.data())
def test_round_trip_of_any_words_and_numbers(tmp_path_factory, form, data):
    drawn = data.draw(vectors(spaces=form in ('glove', 'word2vec text')))
    path = tmp_path_factory.getbasetemp() / 'round'
    path.write_bytes(FORMS[form](drawn))
    words = data.draw(st.permutations([word for word in drawn if word not in ('<pad>', '[PAD]')]))
    found = open_word_vectors(str(path), words).read('embedding')
    np.testing.assert_array_equal(found, rows_of({word: drawn[word] for word in words}))


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    content = b', 0.1 0.2 0.3\n. . . 0.4 0.5 0.6\nat name@domain.com 0.7 0.8 0.9\nto infinity 1.0 1.1 1.2\n'
    (tmp_path / 'glove').write_bytes(content)
    found = open_word_vectors(str(tmp_path / 'glove'), ['at name@domain.com', 'to infinity', '. . .']).read('embedding')
    np.testing.assert_allclose(found, [[0.7, 0.8, 0.9], [1.0, 1.1, 1.2], [0.4, 0.5, 0.6]], rtol=1e-6)


def test_words_that_are_no_utf_8_do_no_harm(tmp_path):
    rows = b'\xff\xfe 1 2 3\nthe 4 5 6\n\xc3 7 8 9\n'
    for name, content in {'text': b'3 3\n' + rows, 'glove': rows}.items():
        (tmp_path / name).write_bytes(content)
        assert open_word_vectors(str(tmp_path / name), ['the', 'Ã']).read('embedding')[0].tolist() == [4, 5, 6]


@pytest.fixture
def glove(tmp_path):
    path = tmp_path / 'glove.txt'
    path.write_bytes(text_of(VECTORS))
    return str(path)


def test_a_word_then_its_lower_case_and_padding_is_zero(glove):
    found = open_word_vectors(glove, ['<pad>', 'THE', 'Apple', 'APPLE', '[PAD]', '']).read('embedding')
    wanted = [[0, 0, 0], VECTORS['the'], VECTORS['Apple'], VECTORS['apple'], [0, 0, 0], [0, 0, 0]]
    np.testing.assert_array_equal(found, np.array(wanted, np.float32))


def test_of_a_word_that_is_there_twice_the_first_counts(tmp_path):
    content = {'glove': b'a 1 2\nb 3 4\na 5 6\n', 'text': b'3 2\na 1 2\nb 3 4\na 5 6\n'}
    content['binary'] = b'3 2\n' + b''.join(
        w + b' ' + np.array(row, '<f4').tobytes() for w, row in ((b'a', [1, 2]), (b'b', [3, 4]), (b'a', [5, 6]))
    )
    for name, raw in content.items():
        (tmp_path / name).write_bytes(raw)
        assert open_word_vectors(str(tmp_path / name), ['b', 'a']).read('embedding').tolist() == [[3, 4], [1, 2]]
    np.save(tmp_path / 'v.npy', np.float32([[1, 2], [3, 4], [5, 6]]))
    (tmp_path / 'v.txt').write_text('a\nb\na\n')
    assert open_word_vectors(str(tmp_path / 'v.npy'), ['a']).read('embedding').tolist() == [[1, 2]]


def test_what_the_file_lacks_is_drawn_by_the_word_alone(tmp_path):
    draw = np.random.default_rng(0)
    path = tmp_path / 'glove'
    path.write_bytes(text_of({f'w{i}': draw.normal(3, 0.4, 300) for i in range(40)}))
    known, new = [f'w{i}' for i in range(40)], [f'new{i}' for i in range(60)]
    words = ['<pad>', *known, *new]
    table = open_word_vectors(str(path), words).read('embedding')
    drawn = table[41:]
    assert drawn.std() == pytest.approx(table[1:41].std(), rel=0.02) and abs(drawn.mean()) < 0.01
    assert np.abs(np.corrcoef(drawn) - np.eye(60)).max() < 0.3, 'each word has a draw of its own'

    for other in (words[::-1], [*new[:3], *known], [*known[::-1], new[59]]):
        again = open_word_vectors(str(path), other).read('embedding')
        for word, row in zip(other, again, strict=True):
            np.testing.assert_array_equal(row, table[words.index(word)], f'{word} in {len(other)} words')
    assert not np.isclose(open_word_vectors(str(path), words, seed=1).read('embedding')[41:], drawn).any(axis=1).all()
    np.testing.assert_array_equal(open_word_vectors(str(path), words, seed=1).read('embedding')[:41], table[:41])
    assert not open_word_vectors(str(path), words, missing='zeros').read('embedding')[41:].any()


@pytest.mark.parametrize(
    ('words', 'missing', 'says'),
    [
        (['the', 'apple'], 'normal', ': 2 of 2 words have vectors (exact 2, lower-cased 0)'),
        (
            ['<pad>', 'The', 'apple', 'x', 'y'],
            'zeros',
            ': 2 of 4 words have vectors (exact 1, lower-cased 1); the other 2 are zero; padding is zero',
        ),
        (
            ['[PAD]', '[UNK]', 'apple'],
            'normal',
            ': 1 of 2 words have vectors (exact 1, lower-cased 0); the other 1 is drawn from a normal distribution with the deviation of '
            'the found vectors, 0.82; padding is zero',
        ),
    ],
)
def test_the_note_says_how_many_were_found_and_what_the_others_got(glove, words, missing, says):
    assert open_word_vectors(glove, words, missing=missing).metadata['note'] == glove + says


def peak_of(where, words):
    open_word_vectors(where, words)  # imports and caches
    tracemalloc.start()
    found = open_word_vectors(where, words).read('embedding')
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape[0] == len(words)
    return peak


@pytest.mark.parametrize('form', ['glove', 'gzip', 'binary'])
def test_only_the_rows_that_are_needed_are_kept(tmp_path, form):
    row = np.random.default_rng(0).normal(size=300)
    few = {f'w{i}': row for i in range(100)}
    text = text_of(few)
    blocks = {'glove': text * 25, 'gzip': text * 25, 'binary': binary_of(few).partition(b'\n')[2] * 100}
    raw = (b'10000 300\n' if form == 'binary' else b'') + blocks[form]
    assert len(raw) > 11 << 20
    (tmp_path / form).write_bytes(gzip.compress(raw, 1) if form == 'gzip' else raw)
    words = [f'w{i}' for i in range(50)]
    assert peak_of(str(tmp_path / form), words) < 4 << 20


def test_an_array_is_not_read_but_for_its_rows(tmp_path):
    array = np.lib.format.open_memmap(tmp_path / 'v.npy', 'w+', np.float32, (8192, 65_536))  # 2 GiB, of which the disk holds two rows
    array[5], array[8191] = 1, 2
    del array
    words = [f'w{i}' for i in range(8192)]
    (tmp_path / 'v.txt').write_text('\n'.join(words))
    where = str(tmp_path / 'v.npy')
    assert peak_of(where, ['w8191', 'w5']) < 8 << 20
    assert open_word_vectors(where, ['w8191', 'w5']).read('embedding').mean(axis=1).tolist() == [2, 1]


BINARY = binary_of(VECTORS)
BAD = {
    'too few numbers': (b'a 1 2 3\nb 4 5 6\nc 7 8\n', r'bad, line 3: 2 numbers behind the word, but 3'),
    'too many numbers': (b'a 1 2 3\nb 4 5 6\nc 7 8 9 10\n', r'bad, line 3: 4 numbers behind the word, but 3'),
    'too few in the first line': (b'a 1 2\nb 4 5 6\n', r'bad, line 2: 3 numbers'),
    'a line of one word': (b'a 1 2 3\nb 4 5 6\nc\n', r'line 3: 0 numbers'),
    'no number': (b'a 1 2 3\nb 4 five 6\na 1 2 3\n', None),
    'no number in a row that is kept': (b'x 1 2 3\ny 4 5 6\nb 4 five 6\n', r"bad, line 3: 'five' is no number"),
    'an underscore': (b'x 1 2 3\ny 4 5 6\nb 4 1_0 6\n', r"bad, line 3: '1_0' is no number"),
    'not a number': (b'x 1 2 3\nb 4 nan 6\n', r"bad, line 2: 'nan' is no number"),
    'too large': (b'x 1 2 3\nb 4 1e39 6\n', r'bad, line 2: 1e\+39 is no finite number in float32'),
    'bad bytes in a number': (b'2 3\na 1 2 3\nb 4 \xff5 6\n', r"bad, line 3: '\ufffd5' is no number"),
    'fewer words than said': (b'3 2\na 1 2\nb 3 4\n', r'first line says 3 words, there are 2'),
    'more words than said': (b'1 2\na 1 2\nb 3 4\n', r'first line says 1 words, there are 2'),
    'another width than said': (b'2 3\na 1 2\nb 3 4\n', r'line 2: 2 numbers behind the word, but 3'),
    'no words': (b'0 300\n', r'says 0 words'),
    'absurd width': (b'2 3000000\na 1 2\nb 3 4\n', r'2 words of 3,000,000 numbers, which cannot be'),
    'absurd width, binary': (b'2 3000000\n\x01\x02\xff\xfe', r'3,000,000 numbers, which cannot be'),
    'no end of line': (b'1 2\na 1 2' + b' ' * (5 << 20), r'line 2: longer than'),
    'binary, cut in the numbers': (BINARY[:-5], r'5 words of 3 numbers, but word 5 is not whole'),
    'binary, cut in a word': (BINARY[: BINARY.index(b'ber')], r'word 5 is not whole'),
    'binary, more than said': (BINARY + b'x', r'but more follows'),
    'binary, fewer than said': (b'9' + BINARY[1:], r'9 words of 3 numbers, but word 6 is not whole'),
    'binary, infinite': (binary_of({'a': [0.0, np.inf], 'b': [1.0, 2.0]}), r'bad, word 1: inf is no finite number'),
    'gzip, cut': (gzip.compress(text_of(VECTORS) * 20)[:-40], r'cannot be read'),
    'empty': (b'', r'no word vectors of a known format'),
    'prose': (b'It was the best of times\nit was the worst of times\n', r'no word vectors of a known format'),
    'zip': (b'PK\x03\x04....', r'a zip archive\. Unpack it'),
    "fastText's own": (b'\xba\x16\x4f\x2f\x0c\0\0\0', r'\.vec'),
    'web page': (b'<!DOCTYPE html>', r'a web page'),
}


@pytest.mark.parametrize('kind', BAD)
def test_damage_is_told_with_its_place(tmp_path, kind):
    content, says = BAD[kind]
    (tmp_path / 'bad').write_bytes(content)
    if says is None:
        assert open_word_vectors(str(tmp_path / 'bad'), ['a']).read('embedding').tolist() == [[1, 2, 3]], 'a row that is not kept'
        return
    with pytest.raises(CheckpointError, match=says) as caught:
        open_word_vectors(str(tmp_path / 'bad'), ['a', 'b'])
    assert str(tmp_path / 'bad') in str(caught.value)


def test_every_cut_of_a_binary_file_is_noticed(tmp_path):
    for length in range(len(BINARY) - 1):  # the last newline may be missing
        (tmp_path / 'cut').write_bytes(BINARY[:length])
        with pytest.raises(CheckpointError, match='cut'):
            open_word_vectors(str(tmp_path / 'cut'), list(VECTORS))


BAD_ARRAYS = {
    'one axis': (lambda folder: np.save(folder / 'v.npy', np.zeros(15)), r'float64 \(15,\); word vectors are floats'),
    'whole numbers': (lambda folder: np.save(folder / 'v.npy', np.zeros((5, 3), int)), r'int64 \(5, 3\)'),
    'on its side': (lambda folder: np.save(folder / 'v.npy', np.zeros((1, 70_000), np.float16)), r'at most 65,536'),
    'objects': (lambda folder: np.save(folder / 'v.npy', np.array([[None]]), allow_pickle=True), r'Python objects'),
    'cut': (lambda folder: (folder / 'v.npy').write_bytes((folder / 'v.npy').read_bytes()[:-1]), r'needs 60 bytes, but 59 follow'),
    'no array': (lambda folder: (folder / 'v.npy').write_bytes(b'\x93NUMPY\x01\x00\x01\x00\n'), r'is no array'),
    'no index': (lambda folder: (folder / 'v.txt').unlink(), r'needs an index beside it, the words of its rows; there is none'),
    'index too short': (lambda folder: (folder / 'v.txt').write_text('the\na\n'), r'v\.txt has 2 words, but the array has 5 rows'),
    'index too long': (lambda folder: (folder / 'v.txt').write_text('the\n' * 6), r'6 words, but the array has 5 rows'),
}


@pytest.mark.parametrize('kind', BAD_ARRAYS)
def test_arrays_that_are_no_word_vectors(tmp_path, kind):
    where = write_npy(tmp_path)
    harm, says = BAD_ARRAYS[kind]
    harm(tmp_path)
    with pytest.raises(CheckpointError, match=says) as caught:
        open_word_vectors(where, ['the'])
    assert where in str(caught.value)


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        ('{', 'is no JSON'),
        ('[' * 100_000, 'is no JSON'),
        ('{"the": 0, "a": 1, "b": 2, "c": 3, "d": 5}', r"'d' has row 5, but the rows are 0 to 4"),
        ('{"the": 0, "a": 1, "b": 2, "c": 3, "d": true}', r"'d' has row True"),
        ('{"the": 0}', r'1 words, but the array has 5 rows'),
        ('["the", 1]', 'neither a list of words'),
        ('3', 'neither a list of words'),
    ],
)
def test_a_bad_json_index(tmp_path, content, says):
    where = write_npy(tmp_path, 'v.json')
    (tmp_path / 'v.json').write_text(content)
    with pytest.raises(CheckpointError, match=says):
        open_word_vectors(where, ['the'])


def test_a_bad_parquet_index(tmp_path):
    where = write_npy(tmp_path, 'v.parquet')
    for columns, says in (
        ({'word': list(VECTORS), 'n': range(5)}, r'columns word, n; it should have one'),
        ({'n': range(5)}, r'0 in the column n is no word'),
    ):
        pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / 'v.parquet')
        with pytest.raises(CheckpointError, match=says):
            open_word_vectors(where, ['the'])
    (tmp_path / 'v.parquet').write_bytes(b'PAR1 and no more')
    with pytest.raises(CheckpointError, match='no parquet file'):
        open_word_vectors(where, ['the'])


def test_the_index_of_the_name_comes_first_and_of_several_others_none(tmp_path):
    where = write_npy(tmp_path, 'words.json')
    (tmp_path / 'LICENSE.txt').write_text('free')
    with pytest.raises(CheckpointError, match=r'cannot be told: LICENSE\.txt, words\.json'):
        open_word_vectors(where, ['the'])
    (tmp_path / 'v.txt').write_bytes(INDEXES['v.txt'])
    assert open_word_vectors(where, ['the']).read('embedding')[0, 0] == 0.5


def test_options_and_vocabularies(glove):
    with pytest.raises(UserError, match="missing: one of normal, zeros, found 'mean'"):
        open_word_vectors(glove, ['the'], missing='mean')
    with pytest.raises(CheckpointError, match=r'none of the 2 words, such as le, la'):
        open_word_vectors(glove, ['<pad>', 'le', 'la'])


def test_folders_packages_and_missing_files(tmp_path, monkeypatch):
    package = tmp_path / 'site' / 'some_vectors'
    (package / 'data').mkdir(parents=True)
    (package / '__init__.py').write_text('raise RuntimeError("imported")')
    (package / 'requirements.txt').write_text('numpy\n')
    monkeypatch.syspath_prepend(str(tmp_path / 'site'))
    assert not looks_like_word_vectors('package:some-vectors')
    with pytest.raises(CheckpointError, match=r'no word vectors here\. Name the file: package:some-vectors/<file>'):
        open_word_vectors('package:some-vectors', ['the'])
    write_npy(package / 'data', 'other.parquet')
    for where in ('package:some-vectors', 'package:some_vectors/data', 'package:some_vectors/data/v.npy', str(package / 'data')):
        assert looks_like_word_vectors(where)
        assert open_word_vectors(where, ['the']).read('embedding')[0, 0] == 0.5
    assert open_word_vectors('package:some-vectors', ['the']).metadata['note'].startswith('package:some-vectors (v.npy): 1 of 1')
    (package / 'data' / 'more.vec').write_bytes(text_of(VECTORS, header=True))
    for ask in (looks_like_word_vectors, lambda where: open_word_vectors(where, ['the'])):
        with pytest.raises(UserError, match=r'2 files of word vectors: more\.vec, v\.npy'):
            ask('package:some-vectors')
    assert not looks_like_word_vectors('package:some-vectors/data/none.vec')
    assert not looks_like_word_vectors(str(tmp_path / 'none.vec'))
    with pytest.raises(CheckpointError, match=r"Did you mean 'more\.vec'"):
        open_word_vectors(str(package / 'data' / 'mor.vec'), ['the'])
    with pytest.raises(UserError, match='pip install no-such-vectors'):
        open_word_vectors('package:no-such-vectors', ['the'])


@pytest.mark.parametrize(
    'content', [b'', b'hello 3\n', b'a,1,2\nb,3,4\n', b'{"a": 1}', b'\x89HDF\r\n', b'PK\x03\x04', b'PAR1', b'# Title\n\nSome text 1 2\n']
)
def test_other_files_do_not_look_like_word_vectors(tmp_path, content):
    (tmp_path / 'f').write_bytes(content)
    assert not looks_like_word_vectors(str(tmp_path / 'f'))


def test_the_hub_and_the_index_beside(tmp_path, monkeypatch):
    asked = []

    def download(repo, file, revision=None):
        asked.append((repo, file, revision))
        if not (tmp_path / file).exists():
            raise errors.EntryNotFoundError(f'404 {file}')
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    (tmp_path / 'en').mkdir()
    write_npy(tmp_path / 'en', 'v.json')
    where = 'hf://me/vectors@v1/en/v.npy'
    assert looks_like_word_vectors(where)
    assert open_word_vectors(where, ['the']).read('embedding')[0, 0] == 0.5
    assert ('me/vectors', 'en/v.json', 'v1') in asked
    assert not looks_like_word_vectors('hf://me/vectors')
    with pytest.raises(UserError, match='no such file'):
        open_word_vectors('hf://me/vectors/none.txt', ['the'])
