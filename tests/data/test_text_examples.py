import hashlib
import pickle

import numpy as np
import pytest

from jtl.data.base import Data, Split, UnreadableError, content_digest, take
from jtl.data.orientations import with_orientations
from jtl.data.texts import Lines, Texts, Words
from jtl.errors import UserError


def test_texts():
    texts = Texts(('Good.', 'Bad.', 'Good.'), targets=np.array([1, 0, 1], np.int32))
    assert len(texts) == 3 and texts[1] == {'text': 'Bad.', 'label': 0}
    assert Texts(['x'])[0] == {'text': 'x'}
    assert content_digest(texts, 0) == content_digest(texts, 2) == hashlib.sha256(b'Good.').digest()
    pairs = Texts(('a', 'ab'), ('bc', 'c'))
    assert pairs[0] == {'text': 'a', 'pair': 'bc'}
    assert pairs.digest(0) != pairs.digest(1)  # where one text ends is part of it


def test_examples_of_a_user_without_a_digest():
    own = [{'text': 'a', 'label': 0}, {'text': 'a', 'label': 1}, {'text': 'b', 'label': 0}, {'words': ('a', 'b')}]
    digests = [content_digest(own, k) for k in range(4)]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_texts_have_no_orientations():
    data = Data({'train': Split(Texts(('a', 'b'), targets=np.arange(2)), np.arange(2), str)}, ('x', 'y'))
    with pytest.raises(UserError, match=r'data\.orientations: these data have no pictures'):
        with_orientations(data, 4).splits['train'].examples[0]


def test_words():
    words = Words((('EU', 'rejects'), ('EUrejects',)), np.array([[2, 0], [1, -1]], np.int32))
    assert words[1]['words'] == ('EUrejects',)
    assert words[0]['label'].tolist() == [2, 0] and words[1]['label'].tolist() == [1]
    assert words.digest(0) != words.digest(1)
    assert Words([('a', 'b')])[0] == {'words': ('a', 'b')}


def test_examples_are_named_by_file_and_line_and_travel_to_worker_processes():
    places = Lines(('a.txt', 'b.txt'), np.array([0, 1, 1], np.int32), np.array([1, 1, 4], np.int32))
    split = take(Split(Texts(('x', 'y', ' '), name_of=places), np.zeros(3, np.int32), places), np.array([2, 0]))
    assert [split.name_of(k) for k in range(2)] == ['b.txt, line 4', 'a.txt, line 1']
    copy = pickle.loads(pickle.dumps(split.examples))
    assert copy[1] == {'text': 'x'}
    for read in (copy.__getitem__, copy.digest):
        with pytest.raises(UnreadableError, match=r'^b.txt, line 4: the text is empty\.$'):
            read(0)


@pytest.mark.parametrize(
    ('examples', 'message'),
    [
        (Texts(('\t\n\xa0',)), 'text 0: the text is empty.'),
        (Texts(('a',), ('',)), 'text 0: the second text is empty.'),
        (Texts(('a\ud83d',)), r'text 0: no Unicode text, it holds .\\ud83d.\.'),
        (Words(((),)), 'sentence 0: the sentence has no words.'),
        (Words((('a', ''),)), 'sentence 0: a word is empty.'),
    ],
)
def test_what_cannot_be_read_is_said(examples, message):
    for read in (examples.__getitem__, examples.digest):
        with pytest.raises(UnreadableError, match=message):
            read(0)
