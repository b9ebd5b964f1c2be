import dataclasses

import numpy as np
import pytest

from jtl.report.html import run_report
from jtl.report.record import SplitOutputs
from jtl.tasks.entities import read_tags, tag_metrics

LABELS = ('O', 'B-location', 'B-person', 'I-location', 'I-person')
SENTENCES = (  # words, true tags, predicted tags
    ('Ada Lovelace met Łódź & <b> York in New York', '2400000013', '2400000013'),
    ('Ada Lovelace went to New York City', '2400133', '2000130'),  # two wrong boundaries
    ('in Paris , France', '0101', '0200'),  # a wrong type, and a missed one
    ('the sun sets', '000', '010'),  # spurious
)


def outputs_of(tags):
    return 6.0 * np.eye(len(LABELS))[tags]


@pytest.fixture
def tagged(record):
    """A finished run whose test split is SENTENCES."""
    width = max(len(true) for _, true, _ in SENTENCES)
    targets = np.array([[*map(int, true), *[-1] * (width - len(true))] for _, true, _ in SENTENCES], np.int32)
    outputs = np.stack([outputs_of([*map(int, said), *[0] * (width - len(said))]) for _, _, said in SENTENCES])
    tags = read_tags(LABELS)
    names = tuple(f'test.conll, line {10 * k + 1}' for k in range(len(SENTENCES)))
    split = SplitOutputs(
        'test', outputs, targets, np.array([0.1, 3.0, 2.0, 1.0]), names, tag_metrics(outputs, targets, tags), {'accuracy': 0.5}
    )
    made = record(rows=[], thumbnail=None, text=lambda split, index: SENTENCES[index][0])
    result = {**made.result, 'primary': 'f1'}
    return dataclasses.replace(made, kind='token_classification', labels=LABELS, splits=(split,), result=result)


def test_figures_and_mistakes_of_a_tagger(tagged, read):
    text = run_report(tagged)
    said = read(text).text
    assert 'test f1' in said
    # Of 6 true entities Ada Lovelace and New York of the first sentence are found.
    assert '2 of 6 entities on test are found' in said
    assert 'location33.3 %25.0 %28.6 %43' in said and 'person33.3 %50.0 %40.0 %23' in said
    assert said.index('location33.3 %') < said.index('person33.3 %')  # the weakest first
    for part in ('Missed: 1 mistake', 'Spurious: 1 mistake', 'Wrong type: 1 mistake', 'Wrong boundary: 2 mistakes'):
        assert part in said
    assert 'trueAda Lovelaceperson went to New York Citylocation' in said
    assert 'predictedAdaperson Lovelace went to New Yorklocation City' in said
    wrong = said[said.index('Wrong type') :]
    assert wrong.index('in Parislocation , Francelocation') < wrong.index('in Parisperson , France')
    assert 'test.conll, line 21' in wrong and 'test.conll, line 1 ' not in said
    assert text.count(' wrong"') == 1 + 1 + 2 + 2 * 2


def test_long_sentences_are_cut_around_a_mistake(tagged, read):
    words = [f'w{k}' for k in range(200)]
    tags = np.zeros((1, 200), int)
    tags[0, [3, 100]] = 2
    split = dataclasses.replace(
        tagged.splits[0], outputs=outputs_of(np.zeros((1, 200), int)), targets=tags, losses=np.ones(1), names=('n',)
    )
    said = read(run_report(dataclasses.replace(tagged, splits=(split,), text=lambda split, index: ' '.join(words)))).text
    assert 'true… ' + ' '.join(words[75:100]) + ' w100person ' + ' '.join(words[101:126]) + ' …predicted… w75' in said
    assert 'true' + 'w0 w1 w2 w3person w4' in said


def test_no_mistakes(tagged, read):
    split = tagged.splits[0]
    right = outputs_of(np.maximum(split.targets, 0))
    said = read(run_report(dataclasses.replace(tagged, splits=(dataclasses.replace(split, outputs=right),)))).text
    assert '6 of 6 entities' in said and 'There are none.' in said
    assert 'Entities that are wrong' not in read(run_report(dataclasses.replace(tagged, text=None))).text
