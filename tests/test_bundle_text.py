"""Bundles of models that read text: with their tokenizer, wherever they lie, and in few shapes."""

import json
import shutil

import numpy as np
import pytest
import text_bundle as tiny

from jtl.bundle import load_bundle
from jtl.errors import UserError
from jtl.models.text import TextPreprocessing


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp('text')
    made = tiny.experiment(folder)
    leaves = tiny.leaves_of(made)
    tiny.write(made, leaves, folder / 'bundle')
    return made, leaves, folder / 'bundle'


@pytest.fixture
def moved(written, tmp_path):
    shutil.copytree(written[2], tmp_path / 'elsewhere')
    return tmp_path / 'elsewhere'


def test_predictions_elsewhere_are_those_of_the_net(written, moved):
    made, leaves, _ = written
    texts = ['bad', 'the dog sings a good song', 'UNHEARD', 'Good', 'film']
    bundle = load_bundle(str(moved))
    said = bundle.predict(texts, batch_size=2)
    assert bundle.apply._cache_size() == 2  # a shape a bucket, (2, 4) and (2, 8), for five texts and the golden input
    outputs = tiny.by_hand(made, leaves)
    logits = np.stack([outputs(text.lower())[0] for text in texts])
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert len({round(p, 4) for p in odds.max(axis=1)}) == 5  # an order that is wrong would show
    np.testing.assert_allclose([s['probability'] for s in said], odds.max(axis=1), atol=1e-5)
    assert [s['label'] for s in said] == [made.data.labels[k] for k in odds.argmax(axis=1)]


def test_the_tokenizer_lies_beside_and_nowhere_else(written, moved):
    made, _, _ = written
    assert 'tokenizer' not in json.loads((moved / 'bundle.json').read_text())['preprocessing']
    assert load_bundle(str(moved)).preprocessing == made.preprocessing
    assert TextPreprocessing((moved / 'tokenizer.json').read_text(), 8, (4, 8)) == made.preprocessing
    tiny.write(*written[:2], moved)
    for name in ('model.safetensors', 'golden.safetensors', 'bundle.json', 'tokenizer.json'):
        assert (moved / name).read_bytes() == (written[2] / name).read_bytes()


def test_a_tokenizer_that_is_missing_damaged_or_another(moved):
    text = (moved / 'tokenizer.json').read_text()
    for content in (None, text[:100], '[]'):
        (moved / 'tokenizer.json').unlink(missing_ok=True)
        if content is not None:
            (moved / 'tokenizer.json').write_text(content)
        with pytest.raises(UserError, match='tokenizer'):
            load_bundle(str(moved))


def test_texts_that_cannot_be_predicted(written):
    bundle = load_bundle(str(written[2]))
    with pytest.raises(UserError, match='text 1: the text is empty'):
        bundle.predict(['good', ' '])
    for texts in (['good', ('good', 'bad')], [('good', 'bad', 'film')]):
        with pytest.raises(UserError, match='every one is a pair'):
            bundle.predict(texts)
    assert bundle.predict([]) == []


def test_a_language_model_says_how_likely_a_text_is(tmp_path):
    """Its outputs, a number for each word of the vocabulary at each word, never leave the device, nor do they lie in the bundle."""
    made = tiny.experiment(tmp_path, {'name': 'causal_lm'})
    leaves = tiny.leaves_of(made)
    tiny.write(made, leaves, tmp_path / 'bundle')
    (said,) = load_bundle(str(tmp_path / 'bundle')).predict(['the good song'], batch_size=2)
    logits, ids = tiny.by_hand(made, leaves)('the good song')
    odds = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    asked = odds[np.arange(len(ids) - 1), ids[1:]]
    assert said['words'] == len(ids) - 1
    assert said['value'] == pytest.approx(np.exp(-np.log(asked).mean()), rel=1e-5)
    assert (tmp_path / 'bundle' / 'golden.safetensors').stat().st_size < 1000
