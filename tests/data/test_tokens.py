"""Tokenised splits: ids, token types, the first token of each word, what is cut, and filled batches."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data import tokens as tokens_module
from jtl.data.arrays import from_arrays
from jtl.data.base import Data, Split, UnreadableError
from jtl.data.pipeline import eval_batches, eval_order
from jtl.data.preflight import preflight
from jtl.data.texts import Texts, Words
from jtl.data.tokenizer import checkpoint_tokenizer, text_preprocessing, word_tokenizer
from jtl.data.tokens import Tokens, bucket_of, collate, cut_note, tokenized
from jtl.errors import UserError

LETTERS = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', *'abcde', *(f'##{c}' for c in 'abcde'))
PAD, UNK, CLS, SEP, A, B, C, D, E = range(9)


def pieces():
    """A BERT tokenizer whose words are spelled letter by letter: 'abc' is a ##b ##c."""
    return checkpoint_tokenizer({'vocab.txt': '\n'.join(LETTERS).encode()}.get, 'there')


def split_of(examples):
    return Split(examples, np.zeros(len(examples), np.int32), '{}'.format)


def read(examples, tokenizer=None, **section) -> Tokens:
    return tokenized(split_of(examples), text_preprocessing(section, tokenizer=tokenizer or pieces(), positions=0)).examples


def test_texts():
    split = Split(Texts(('a b', 'abc', 'z'), targets=np.array([2, 0, 1])), np.array([2, 0, 1], np.int32), 'line {}'.format)
    found = tokenized(split, text_preprocessing({}, tokenizer=pieces(), positions=0))
    assert found.targets is split.targets and found.name_of(1) == 'line 1'
    tokens = found.examples
    assert len(tokens) == 3 and tokens.lengths.tolist() == [4, 5, 3] and tokens.lengths.dtype == np.int32
    assert tokens.word_ends is None and tokens.word_starts is None and tokens.cut.tolist() == [0, 0, 0]
    example = tokens[1]
    assert (example['text'], example['label']) == ('abc', 0) and 'word_starts' not in example
    assert example['ids'].tolist() == [CLS, A, B + 5, C + 5, SEP] and example['segments'].tolist() == [0] * 5
    assert tokens[2]['ids'].tolist() == [CLS, UNK, SEP]
    assert tokens.ids.dtype == tokens.segments.dtype == np.int32
    assert tokens.digest(0) == split.examples.digest(0) != tokens.digest(1)


def test_pairs_lose_tokens_of_the_longer_text_first():
    examples = Texts(('a b c d e a', 'a', 'a b c d'), ('a b', 'a b c d e', 'a b c d'))
    tokens = read(examples, max_length=8)
    # 8 - 3 special ones leave 5: 3 + 2, 1 + 4, and 2 + 3 of two texts of 4.
    assert tokens[0]['ids'].tolist() == [CLS, A, B, C, SEP, A, B, SEP] and tokens[0]['segments'].tolist() == [0] * 5 + [1] * 3
    assert tokens[1]['ids'].tolist() == [CLS, A, SEP, A, B, C, D, SEP] and tokens[1]['segments'].tolist() == [0] * 3 + [1] * 5
    assert tokens[2]['ids'].tolist() == [CLS, A, B, SEP, A, B, C, SEP]
    assert tokens.cut.tolist() == [1, 1, 1] and tokens[0]['pair'] == 'a b'
    with pytest.raises(UserError, match=r'text.max_length=3 leaves no room for pairs: the tokenizer adds 3 special tokens'):
        read(examples, max_length=3)


def test_words_begin_where_their_first_token_is():
    examples = Words((('ab', 'c', 'de'), ('a',), ('abcde', 'ab')), targets=np.array([[0, 1, 0], [1, -1, -1], [0, 1, -1]]))
    tokens = read(examples)
    assert np.diff(tokens.word_ends).tolist() == [3, 1, 2] and tokens.lengths.tolist() == [7, 3, 9]
    assert tokens[0]['ids'].tolist() == [CLS, A, B + 5, C, D, E + 5, SEP]
    assert [tokens[k]['word_starts'].tolist() for k in range(3)] == [[1, 3, 4], [1], [1, 6]]
    assert tokens[0]['words'] == ('ab', 'c', 'de') and tokens[0]['label'].tolist() == [0, 1, 0]
    # 6 leaves 4 tokens: the third word of the first keeps one of its two, of the last only the first word is left.
    cut = read(examples, max_length=6)
    assert [cut[k]['word_starts'].tolist() for k in range(3)] == [[1, 3, 4], [1], [1, -1]]
    assert cut.cut.tolist() == [0, 0, 1] and cut[0]['ids'].tolist() == [CLS, A, B + 5, C, D, SEP]


def test_more_words_than_tokens_are_lost():
    tokens = read(Words((('a',) * 20, ('b',))), max_length=5)
    assert np.diff(tokens.word_ends).tolist() == [5, 1] and tokens[0]['word_starts'].tolist() == [1, 2, 3, -1, -1]
    assert tokens.cut.tolist() == [17, 0]


@pytest.mark.parametrize('kind', ['pieces', 'words'])
def test_a_word_of_which_nothing_is_left_is_unknown(kind):
    tokenizer = pieces() if kind == 'pieces' else word_tokenizer(['a b c d e'])
    nothing = '\u0007' if kind == 'pieces' else ''  # a control character, which BERT leaves out

    class Raw(Words):
        def __getitem__(self, index):  # an empty word, as a source of a user's own may have it
            return {'words': self.sentences[index]}

    tokens = read(Raw((('a', nothing, 'b'), (nothing,), (nothing,) * 9 + ('a',))), tokenizer, max_length=7)
    ids = [tokens[k]['ids'].tolist()[1:-1] for k in range(3)]
    unknown = tokens.preprocessing.unk_id
    assert len(ids[0]) == 3 and ids[0][1] == unknown and ids[1] == [unknown] and ids[2] == [unknown] * 5
    assert [tokens[k]['word_starts'].tolist() for k in range(3)] == [[1, 2, 3], [1], [1, 2, 3, 4, 5, -1, -1]]
    assert tokens.cut.tolist() == [0, 0, 5]


def test_a_tokenizer_of_words_does_not_split_words_that_are_split():
    tokenizer = word_tokenizer([('U.S.', "don't")])
    tokens = read(Words((('u.s.', "Don't", 'U.S'),)), tokenizer)
    assert [tokens.preprocessing.words[k] for k in tokens[0]['ids']] == ['<bos>', 'u.s.', "don't", '<unk>', '<eos>']
    assert tokens[0]['word_starts'].tolist() == [1, 2, 3]
    assert read(Texts(('u.s.',)), tokenizer).lengths.tolist() == [6]  # raw text is split


def test_a_tokenizer_of_bytes_begins_each_word_with_a_space():
    words = ('<s>', '</s>', '<unk>', 'l', 'o', 'Ġ', 'Ġlo', 'lo')
    files = {'vocab.json': json.dumps({word: k for k, word in enumerate(words)}), 'merges.txt': 'l o\nĠ lo\n'}
    found = checkpoint_tokenizer(lambda name: files[name].encode() if name in files else None, 'there')
    tokens = read(Words((('lo', 'lol', 'lo'),)), found)
    assert [words[k] for k in tokens[0]['ids']] == ['<s>', 'Ġlo', 'Ġlo', 'l', 'Ġlo', '</s>']
    assert tokens[0]['word_starts'].tolist() == [1, 2, 4]
    assert [words[k] for k in read(Texts(('lo lo',)), found)[0]['ids']] == ['<s>', 'lo', 'Ġlo', '</s>']


def test_what_cannot_be_read_is_left_to_the_preflight():
    tokens = read(Texts(('', 'a', '  ')))
    assert tokens.lengths.tolist() == [2, 3, 2]
    split = Split(tokens, np.zeros(3, np.int32), 'text {}'.format)
    found = preflight(Data({'train': split}, ('x',)), max_unreadable=2)
    assert len(found.unreadable) == 2 and len(found.data.splits['train']) == 1
    with pytest.raises(UserError, match='2 of the 3 examples opened cannot be read'):
        preflight(Data({'train': split}, ('x',)))
    with pytest.raises(UnreadableError):
        tokens[0]
    assert collate(tokens, np.array([1]), 3)['mask'].sum() == 3
    with pytest.raises(UnreadableError, match='text 2: the text is empty'):
        collate(tokens, np.array([1, 2]), 3)
    words = read(Words(((), ('a',))))
    assert words.lengths.tolist() == [2, 3] and np.diff(words.word_ends).tolist() == [0, 1]
    assert len(read(Texts(()))) == 0 and read(Texts(('',), ('a',))).lengths.tolist() == [2]


def test_cut_texts_are_counted_in_a_sentence():
    assert cut_note('train', read(Texts(('a b', 'a')), max_length=4)) is None
    texts = Texts(('a b c',) * 1200 + ('a',))
    assert cut_note('train', read(texts, max_length=4)) == 'train: 1,200 of 1,201 texts are longer than 4 tokens and are cut.'
    words = Words((('a', 'b', 'c', 'd'), ('abc',), ('a',)))
    # 'abc' keeps a token, so that no word of it is lost: nothing that a tag needs.
    assert cut_note('test', read(words, max_length=4)) == 'test: 1 of 3 sentences are longer than 4 tokens and are cut: 2 words are lost.'


def test_chunks_make_no_difference(monkeypatch):
    rng = np.random.default_rng(0)
    sentences = [tuple(''.join(rng.choice(list('abcdez'), rng.integers(1, 4))) for _ in range(rng.integers(1, 9))) for _ in range(23)]
    for examples in (Words(sentences), Texts([' '.join(words) for words in sentences])):
        whole = read(examples, max_length=12)
        monkeypatch.setattr(tokens_module, '_CHUNK', 5)
        for name in ('ids', 'segments', 'ends', 'word_starts', 'word_ends', 'cut', 'unread'):
            np.testing.assert_array_equal(getattr(read(examples, max_length=12), name), getattr(whole, name))
        monkeypatch.undo()


def test_examples_of_another_kind_are_refused():
    pictures = from_arrays({'train': np.zeros((2, 4, 4), np.uint8)}, {'train': [0, 1]}).splits['train'].examples
    with pytest.raises(UserError, match='data: the model reads text, but the examples hold image'):
        read(pictures)

    class Mixed(Texts):
        def __getitem__(self, index):
            return {'text': 'a'} if index < 2 else {'words': ('a',)}

    with pytest.raises(UserError, match='some examples are text and others words'):
        read(Mixed(('a', 'b', 'c')))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from(['a', 'bc', 'abcd', 'z']), min_size=1, max_size=7), min_size=1, max_size=9), st.data())
def test_batches_are_the_rows_filled_up(sentences, data):
    tokens = read(Words([tuple(words) for words in sentences]), max_length=12)
    indices = np.array(data.draw(st.lists(st.integers(0, len(sentences) - 1), min_size=1, max_size=12)))
    width = bucket_of(int(tokens.lengths[indices].max()), (8, 12))
    batch = collate(tokens, indices, width)
    assert {key: (value.shape, value.dtype.name) for key, value in batch.items()} == {
        'ids': ((len(indices), width), 'int32'),
        'mask': ((len(indices), width), 'bool'),
        'segments': ((len(indices), width), 'int32'),
        'word_starts': ((len(indices), width), 'int32'),
    }
    for row, index in enumerate(indices.tolist()):
        ids = tokens.ids[tokens.ends[index] : tokens.ends[index + 1]].tolist()
        starts = tokens.word_starts[tokens.word_ends[index] : tokens.word_ends[index + 1]].tolist()
        assert batch['ids'][row].tolist() == ids + [PAD] * (width - len(ids))
        assert batch['mask'][row].tolist() == [True] * len(ids) + [False] * (width - len(ids))
        assert batch['word_starts'][row].tolist() == starts + [-1] * (width - len(starts))
    assert not batch['segments'].any()


def test_a_row_that_does_not_fit_is_no_batch():
    tokens = read(Texts(('a b c', 'a'), ('a', 'b')))
    with pytest.raises(ValueError, match='rows of up to 7 do not fit into 6'):
        collate(tokens, np.array([0, 1]), 6)
    batch = collate(tokens, np.array([1, 0]), 8)
    assert batch['segments'].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1, 0]] and 'word_starts' not in batch


def test_filling_is_what_the_tokenizer_fills_with():
    files = {'vocab.txt': '\n'.join((*LETTERS[1:], '[PAD]')).encode()}
    tokens = read(Texts(('a',)), checkpoint_tokenizer(files.get, 'there'))
    assert collate(tokens, np.array([0]), 5)['ids'].tolist() == [[1, 3, 2, 13, 13]]


def test_buckets():
    assert [bucket_of(n, (4, 8, 20)) for n in (1, 4, 5, 8, 9, 20)] == [4, 4, 8, 8, 20, 20]


def test_batches_of_words_have_a_place_for_each_tag_and_the_longest_come_first():
    sentences = (('a',), ('a', 'b', 'c', 'd'), ('a', 'b'))
    targets = np.array([[1, -1, -1, -1], [2, 1, 2, 1], [1, 2, -1, -1]], np.int32)
    settings_ = text_preprocessing({'buckets': (4, 8)}, tokenizer=pieces(), positions=0)
    split = tokenized(Split(Words(sentences), targets, '{}'.format), settings_)
    assert eval_order(split).tolist() == [1, 2, 0]
    first, second = eval_batches(split, batch_size=2, preprocessing=settings_)
    assert first['index'].tolist() == [1, 2] and first['ids'].shape == first['label'].shape == (2, 8)
    assert first['label'].tolist() == [[2, 1, 2, 1, -1, -1, -1, -1], [1, 2, -1, -1, -1, -1, -1, -1]]
    assert second['index'].tolist() == [0, 0] and second['label'].tolist() == [[1, -1, -1, -1]] * 2 and second['real'].tolist() == [1, 0]
