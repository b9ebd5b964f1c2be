"""What a run reads with, before its net: tokenizers beside checkpoints, and the rows of the word tables that they go with."""

import numpy as np
import pytest
import texts
from safetensors.numpy import load_file, save_file

import jtl
from jtl.data.arrays import from_arrays
from jtl.data.base import Data, Split
from jtl.data.texts import Texts, Words
from jtl.errors import UserError
from jtl.models.base import WORDS
from jtl.train.reading import has_texts


@pytest.fixture
def source(tmp_path):
    return texts.checkpoint(tmp_path / 'source')


@pytest.fixture
def built(tmp_path, source):
    """Builds an experiment from that checkpoint."""
    texts.table(tmp_path / 'texts.csv')

    def built(model=(), **fields):
        tokenizer = fields.pop('tokenizer', '')
        config = texts.config('text_csv', tmp_path / 'texts.csv', model, **{'init_from': str(source), **fields})
        config.text.tokenizer = tokenizer
        return jtl.build(config)

    return built


def with_rows(source, rows):
    leaves = load_file(source / 'model.safetensors')
    save_file({**leaves, WORDS: np.resize(leaves[WORDS], (rows, 4))}, source / 'model.safetensors')


def test_a_table_with_rows_to_spare_is_loaded_whole(source, built):
    """As checkpoints have it whose rows were filled up to a multiple of 8."""
    ids = len(built().preprocessing.words)
    with_rows(source, ids + 7)
    found = built()
    assert found.net.params[WORDS].shape == (ids + 7, 4) and found.model['vocab_size'] == ids + 7
    assert {leaf.path: leaf.status for leaf in found.plan.leaves}[WORDS] == 'loaded' and len(found.preprocessing.words) == ids
    with_rows(source, ids - 1)
    with pytest.raises(UserError, match=rf'it has {ids} ids, but the word table of {source} has {ids - 1} rows'):
        built()
    scratch = built(tune={'recipe': 'scratch'})  # its tokenizer, and nothing else
    assert scratch.net.params[WORDS].shape == (ids, 4) and scratch.preprocessing == found.preprocessing


def test_words_of_the_training_texts_go_with_a_table_of_the_same_words_alone(source, built):
    with pytest.raises(UserError, match=r"text\.tokenizer='words': the 17 rows .* do not stand for the 14 words"):
        built(tokenizer='words')
    new = built(tokenizer='words', init_rules=((WORDS, None),), init_ignore=(WORDS,))
    assert new.net.params[WORDS].shape == (14, 4)
    assert {leaf.path for leaf in new.plan.leaves if leaf.status == 'new'} == {WORDS, 'heads/main/output/bias', 'heads/main/output/kernel'}
    with_rows(source, 14)
    (source / 'tokenizer.json').write_text(new.preprocessing.tokenizer)
    assert built(tokenizer='words').preprocessing == built().preprocessing == new.preprocessing
    (source / 'tokenizer.json').unlink()
    assert built(tokenizer='words').preprocessing == new.preprocessing  # as many rows as words: nothing says otherwise


def test_a_tokenizer_from_elsewhere(tmp_path, source, built):
    (source / 'tokenizer.json').rename(tmp_path / 'mine.json')
    with pytest.raises(UserError, match=rf'no tokenizer\.json or vocab\.txt lies beside {source}\.'):
        built()
    assert built(tokenizer=str(tmp_path / 'mine.json')).net.params[WORDS].shape == (17, 4)


def test_what_data_are_is_said_by_the_first_example_that_can_be_read():
    def of(examples):
        return Data({'train': Split(examples, np.zeros(len(examples), np.int32), 'text {}'.format)})

    assert has_texts(of(Texts(('',) * 300 + ('good',)))) and has_texts(of(Words(((), ('good',)))))
    with pytest.raises(UserError, match='data: none of the 2 training examples can be read: text 0: the text is empty'):
        has_texts(of(Texts(('', ' '))))
    assert not has_texts(from_arrays({'train': np.zeros((4, 8, 8), np.uint8)}, {'train': np.arange(4) % 2}))


def test_words_of_all_splits(tmp_path):
    (tmp_path / 'texts.csv').write_text('text,label,split\ngood film,a,train\nbad film,b,train\ngood play,a,test\n')

    def words(of):
        made = texts.config('text_csv', tmp_path / 'texts.csv')
        made.text.words_of, made.data.validation = of, 0.0
        return set(jtl.build(made).preprocessing.words)

    assert words('all') - words('train') == {'play'} and words('train') - words('all') == set()


def test_a_pooling_that_learns_starts_new_beside_loaded_weights(built):
    status = {leaf.path: leaf.status for leaf in built(task={'pool': 'attention'}).plan.leaves}
    assert {path for path, how in status.items() if how == 'new'} == {
        path for path in status if path.startswith(('heads/', 'backbone/pooling/'))
    }
    assert sum(path.startswith('backbone/pooling/') for path in status) == 3
