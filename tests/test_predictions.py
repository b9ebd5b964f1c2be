"""From raw sentences to entities, with outputs that are written by hand."""

import jax
import numpy as np
import pytest
from tiny_text import tiny_text

from jtl.data.tokenizer import word_tokenizer
from jtl.errors import UserError
from jtl.models.text import TextPreprocessing
from jtl.predictions import of_texts, words_of
from jtl.tasks.classification import classification
from jtl.tasks.token_classification import token_classification

LABELS = ('O', 'B-loc', 'I-loc')


@pytest.mark.parametrize(
    ('sentence', 'words'),
    [
        ('Ada met Bob .', 'Ada met Bob .'),
        ('Ada met Bob.', 'Ada met Bob .'),
        ('(In New York, "The Ritz"!)', '( In New York , " The Ritz " ! )'),
        (
            "Rock'n'roll isn't @ada's #1 at 3.5% in the U.S. or J. Doe's...",
            "Rock'n'roll isn't @ada's #1 at 3.5% in the U.S. or J. Doe's ...",
        ),
        (' :) \u00a0 ... http://a.b/c?d=e ', ':) ... http://a.b/c?d=e'),
        ('¿Dónde está Łódź?', '¿Dónde está Łódź ?'),
        ('', ''),
    ],
)
def test_words_of_a_raw_sentence(sentence, words):
    assert words_of(sentence) == tuple(words.split())


def test_pairs_keep_their_order_and_are_told_apart():
    pairs = [('w5 w6', 'w7'), ('w8', 'w9 w10 w11'), ('w13', 'w14')]
    text = TextPreprocessing(word_tokenizer([part for pair in pairs for part in pair]), 8, (8,))
    numbers = np.array([int(word[1:]) if word[0] == 'w' else 0 for word in text.words])
    task = classification(labels=('a', 'b'))

    def outputs(batch):
        """The more of the second text, the likelier is b."""
        assert batch['ids'].shape == (2, 8)
        return np.stack([np.zeros(2), (batch['segments'] * numbers[batch['ids']]).sum(axis=1) / 10.0], axis=1)

    said = of_texts(outputs, task, text, pairs, batch_size=2)
    odds = [1 / (1 + np.exp(-sum(int(word[1:]) for word in second.split()) / 10)) for _, second in pairs]
    np.testing.assert_allclose([s['probability'] for s in said], odds, atol=1e-6)


def test_entities_of_sentences_and_of_words():
    """Words whose id is above 10 begin a place, those above 15 go on with it."""
    text = tiny_text(words=20, max_length=8)
    text = TextPreprocessing(text.tokenizer, 8, (4, 8))
    task = token_classification(labels=LABELS)
    shapes = []

    def outputs(batch):
        shapes.append(batch['ids'].shape)
        ids = np.take_along_axis(batch['ids'], np.maximum(batch['word_starts'], 0), axis=1)
        tags = np.where(ids > 15, 2, np.where(ids > 10, 1, 0))
        return np.where((batch['word_starts'] >= 0)[..., None], 5.0 * np.eye(3)[tags], [0, -1e4, -1e4])

    said = of_texts(outputs, task, text, ['w5 w11, w6', ['w12', 'w16', 'w5', 'w5', 'w13 w'], 'w5'], batch_size=2)
    p = float(jax.nn.softmax(np.array([5.0, 0, 0]))[0])
    assert shapes == [(2, 8), (2, 4)]
    assert [s['words'] for s in said] == [['w5', 'w11', ',', 'w6'], ['w12', 'w16', 'w5', 'w5', 'w13 w'], ['w5']]
    assert said[0]['entities'] == [{'text': 'w11', 'type': 'loc', 'start': 1, 'end': 2, 'probability': pytest.approx(p)}]
    assert said[1]['entities'] == [{'text': 'w12 w16', 'type': 'loc', 'start': 0, 'end': 2, 'probability': pytest.approx(p * p)}]
    assert said[2]['entities'] == [] and said[2]['tags'] == ['O']
    with pytest.raises(UserError, match='sentence 0: the sentence has no words'):
        of_texts(outputs, task, text, [''], batch_size=2)
