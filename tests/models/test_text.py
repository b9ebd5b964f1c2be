"""How text becomes input: one form of a tokenizer's JSON, its special tokens, and lengths."""

import json

import pytest
from tokenizers import Tokenizer, models

from jtl.errors import UserError
from jtl.models.text import TextPreprocessing

WORDS = ('<pad>', '<unk>', '<bos>', '<eos>', 'tree', 'bird')


def tokenizer(words=WORDS, special=4):
    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words) if word}, unk_token='<unk>'))
    made.add_special_tokens(list(words[:special]))
    return made


def test_equal_tokenizers_are_equal_values_whatever_wrote_the_json():
    first = TextPreprocessing(tokenizer().to_str(), 8, (4, 8))
    cutting = tokenizer()
    cutting.enable_truncation(3)
    cutting.enable_padding(length=20)
    other = TextPreprocessing(cutting.to_str(pretty=True), 8, (4, 8))
    assert first == other and hash(first) == hash(other)
    assert 'truncation":null' in other.tokenizer and 'padding":null' in other.tokenizer
    assert TextPreprocessing(first.tokenizer, 8, (8,)) != first
    assert len(repr(first)) < 100


def test_it_travels_as_plain_json():
    first = TextPreprocessing(tokenizer((*WORDS, 'über', '鳥')).to_str(), 8, (4, 8))
    data = json.loads(json.dumps(first.to_json(), sort_keys=True))
    assert data['tokenizer']['model']['vocab']['über'] == 6  # parsed, not a string
    assert TextPreprocessing.from_json(data) == first


def test_ids_and_words():
    found = TextPreprocessing(tokenizer().to_str(), 8, (4, 8))
    assert found.words == WORDS and found.vocab_size == 6 and found.size == (4,)
    assert (found.pad_id, found.unk_id, found.mask_id) == (0, 1, None)
    assert found.special_ids == (0, 1, 2, 3)
    names = ('x', '[UNK]', '[SEP]', '[CLS]', '', '[MASK]', '[PAD]')  # id 4 is not used
    bert = Tokenizer(models.WordPiece({name: k for k, name in enumerate(names) if name}, unk_token='[UNK]'))
    bert.add_special_tokens(['[CLS]', '[MASK]'])
    found = TextPreprocessing(bert.to_str(), 8, (8,))
    assert found.words == names and found.vocab_size == 7
    assert (found.pad_id, found.unk_id, found.mask_id) == (6, 1, 5)
    assert found.special_ids == (3, 5)
    assert TextPreprocessing(Tokenizer(models.BPE({'a': 0, 'b': 1}, [])).to_str(), 8, (8,)).unk_id is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'tokenizer': '{"model": {}}'}, 'no tokenizer.json that the tokenizers library can read'),
        ({'tokenizer': 'words'}, 'tokenizer: no JSON'),
        ({'tokenizer': '[1]'}, 'no JSON object, found list'),
        ({'max_length': 0, 'buckets': (0,)}, r'text.max_length=0 leaves no room for text: the tokenizer adds 0'),
        ({'buckets': ()}, r'text.buckets must be lengths above 0 in rising order, the last of them max_length=8, found \(\)'),
        ({'buckets': (4, 4, 8)}, r'rising order.*found \(4, 4, 8\)'),
        ({'buckets': (0, 8)}, r'above 0.*found \(0, 8\)'),
        ({'buckets': (4,)}, r'last of them max_length=8, found \(4,\)'),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        TextPreprocessing(**{'tokenizer': tokenizer().to_str(), 'max_length': 8, 'buckets': (4, 8), **change})


def test_stored_data_that_do_not_fit_are_refused():
    data = TextPreprocessing(tokenizer().to_str(), 8, (4, 8)).to_json()
    with pytest.raises(UserError, match=r'preprocessing: .*max_length'):
        TextPreprocessing.from_json({k: v for k, v in data.items() if k != 'max_length'})
    with pytest.raises(UserError, match=r'preprocessing: .*buckets'):
        TextPreprocessing.from_json({k: v for k, v in data.items() if k != 'buckets'})
    with pytest.raises(UserError, match=r'preprocessing: .*stride'):
        TextPreprocessing.from_json({**data, 'stride': 1})
