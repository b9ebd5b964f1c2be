"""Entities against seqeval's own scores and against rules written out by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import BILOU

from jtl.errors import UserError
from jtl.tasks.entities import Entity, decode, entity_errors, entity_report, read_tags, tag_metrics

IOB = ('O', 'B-loc', 'B-new-work', 'I-loc', 'I-new-work')
LOOSE = ('O', 'B-loc', 'I-loc', 'I-per')  # IOB1: a person never follows a person
LETTERS = ('O', *(f'{letter}-{kind}' for letter in 'BILU' for kind in ('loc', 'per')))
IO = ('O', 'I-loc', 'I-per')


def numbers(tags, labels):
    return [labels.index(tag) for tag in tags.split()]


def logits(sentences, labels, width):
    """(N, W, K): each word's tag by far the likeliest; noise where no word is."""
    outputs = np.random.default_rng(0).normal(size=(len(sentences), width, len(labels))).astype(np.float32)
    for row, sentence in zip(outputs, sentences, strict=True):
        row[np.arange(len(sentence)), sentence] += 50
    return outputs


def filled(sentences, width):
    return np.array([[*sentence, *[-1] * (width - len(sentence))] for sentence in sentences], np.int32).reshape(len(sentences), width)


@st.composite
def splits(draw, labels):
    """True and predicted tags of a few sentences, and how many words of each the net saw."""
    tag = st.integers(0, len(labels) - 1)
    pair = st.lists(st.tuples(tag, tag), min_size=1, max_size=9)
    sentences = draw(st.lists(pair, min_size=1, max_size=4))
    seen = [draw(st.integers(0, len(sentence))) for sentence in sentences]
    return [[t for t, _ in s] for s in sentences], [[p for _, p in s] for s in sentences], seen


@pytest.mark.parametrize(
    ('labels', 'scheme', 'mode'),
    [(IOB, 'iob2', {}), (LOOSE, 'iob1', {}), (IO, 'io', {}), (LETTERS, 'bilou', {'mode': 'strict', 'scheme': BILOU})],
)
def test_scores_are_those_of_seqeval(labels, scheme, mode):
    tags = read_tags(labels)
    assert tags.scheme == scheme

    @settings(max_examples=80, deadline=None, derandomize=True)
    @given(splits(labels))
    def check(split):
        true, predicted, seen = split
        width = max(map(len, true)) + 2
        outputs = logits([p[:n] for p, n in zip(predicted, seen, strict=True)], labels, max(max(seen), 1))
        outputs[np.arange(outputs.shape[1]) >= np.array(seen)[:, None]] = 0  # as `TokenHead` and a wider batch leave it: all 'O'
        y_true = [[labels[t] for t in s] for s in true]
        y_pred = [[labels[t] for t in s[:n]] + ['O'] * (len(s) - n) for s, n in zip(predicted, seen, strict=True)]
        got = tag_metrics(outputs, filled(true, width), tags)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of ratios without a denominator
            assert got['f1'] == pytest.approx(f1_score(y_true, y_pred, **mode))
            assert got['precision'] == pytest.approx(precision_score(y_true, y_pred, **mode))
            assert got['recall'] == pytest.approx(recall_score(y_true, y_pred, **mode))
            assert got['accuracy'] == pytest.approx(accuracy_score(y_true, y_pred))
            rows = {row['label']: row for row in entity_report(outputs, filled(true, width), labels)}
            theirs = classification_report(y_true, y_pred, output_dict=True, **mode) if rows else {}
        for kind, row in rows.items():
            wanted = theirs[kind]
            assert [row[k] for k in ('precision', 'recall', 'f1', 'support')] == pytest.approx(
                [wanted[k] for k in ('precision', 'recall', 'f1-score', 'support')]
            )
        kinds = [error.kind for error in entity_errors(outputs, filled(true, width), labels)]
        support, guessed = (sum(row[k] for row in rows.values()) for k in ('support', 'predicted'))
        right = round(got['recall'] * support)
        both = kinds.count('wrong type') + kinds.count('wrong boundary')
        assert right + both + kinds.count('missed') == support and right + both + kinds.count('spurious') == guessed

    check()


@pytest.mark.parametrize(
    ('labels', 'tags', 'expected'),
    [
        (IOB, 'B-loc I-loc B-loc O I-loc I-loc', [('loc', 0, 2), ('loc', 2, 3), ('loc', 4, 6)]),
        (IOB, 'B-loc I-new-work O', [('loc', 0, 1), ('new-work', 1, 2)]),
        (LOOSE, 'I-loc I-loc B-loc I-loc I-per', [('loc', 0, 2), ('loc', 2, 4), ('per', 4, 5)]),
        (IO, 'I-loc I-loc I-per O I-per', [('loc', 0, 2), ('per', 2, 3), ('per', 4, 5)]),
        (LETTERS, 'U-loc U-loc B-per I-per L-per O', [('loc', 0, 1), ('loc', 1, 2), ('per', 2, 5)]),
        (LETTERS, 'B-per I-per O I-loc L-loc B-loc L-per', []),  # without end, without beginning, of two types
    ],
)
def test_decoding_by_hand(labels, tags, expected):
    assert decode(numbers(tags, labels), read_tags(labels)) == [Entity(*entity) for entity in expected]


def test_the_same_entities_in_every_scheme():
    bilou = ('O', 'U-x', 'B-x', 'I-x', 'L-x')
    iobes = ('O', 'S-x', 'B-x', 'I-x', 'E-x')
    bare = ('x', 'O')
    expected = [Entity('x', 1, 2), Entity('x', 3, 6)]
    assert decode([0, 1, 0, 2, 3, 4], read_tags(bilou)) == decode([0, 1, 0, 2, 3, 4], read_tags(iobes)) == expected
    assert decode([1, 0, 1, 0, 0, 0], read_tags(bare, 'io')) == expected
    assert decode(numbers('O B-x O B-x I-x I-x', (*IOB[:1], 'B-x', 'I-x')), read_tags(('O', 'B-x', 'I-x'))) == expected


@pytest.mark.parametrize(
    ('labels', 'scheme', 'found'),
    [
        (('O', 'B-x'), 'auto', 'iob2'),
        (('B-x', 'I-x', 'O'), 'auto', 'iob2'),
        (('O', 'B-x', 'I-x', 'I-y'), 'auto', 'iob1'),
        (('O', 'B-x', 'I-x'), 'iob1', 'iob1'),
        (('O', 'I-x'), 'auto', 'io'),
        (('O', 'I-x'), 'iob1', 'iob1'),
        (('O', 'U-x'), 'auto', 'bilou'),
        (('O', 'B-x', 'E-x'), 'auto', 'bilou'),
        (('O', 'B-x', 'I-x'), 'bilou', 'bilou'),
        (('O', 'X'), 'io', 'io'),
    ],
)
def test_the_scheme_is_read_from_the_names(labels, scheme, found):
    tags = read_tags(labels, scheme)
    assert (tags.scheme, tags.labels, tags.labels[tags.outside], tags.written[tags.outside]) == (found, labels, 'O', 'O')


@pytest.mark.parametrize(
    ('labels', 'scheme', 'message'),
    [
        (('O',), 'auto', "'O' \\(no entity\\) and at least one other such as 'B-person', the data have O"),
        (('B-x', 'I-x'), 'auto', 'the data have B-x, I-x'),
        (('O', 'noun'), 'auto', r"the tag 'noun' is of no scheme: .*B-noun and I-noun.*task\.scheme='io'"),
        (('O', 'B-x', 'x'), 'io', "task.scheme='io': the tag 'x' is none of I-... and O"),
        (('O', 'B-x', 'I-x'), 'io', "task.scheme='io': the tag 'B-x' is none of I-... and O"),
        (('O', 'B-x', 'L-x'), 'iob2', "the tag 'L-x' is none of B-..., I-... and O"),
        (('O', 'B-x', 'I-y'), 'iob2', r"there is I-y but no B-y, .* Set task\.scheme='iob1'"),
        (('O', 'I-x', 'E-x'), 'auto', 'no tag begins with B-'),
        (('O', 'B-x'), 'iob', r"task\.scheme: there is no 'iob'\. Did you mean 'iob2' or 'iob1'"),
    ],
)
def test_names_that_are_no_tags(labels, scheme, message):
    with pytest.raises(UserError, match=message):
        read_tags(labels, scheme)


def test_kinds_of_mistakes():
    true = ['B-loc I-loc O B-loc O B-new-work', 'O O O', 'B-loc I-loc I-loc O O O', 'B-loc I-loc I-loc I-loc']
    said = ['B-loc I-loc O B-new-work O O', 'O B-loc O', 'O B-loc I-loc O B-loc O', 'B-loc B-loc I-loc I-loc']
    as_numbers = [[numbers(tags, IOB) for tags in side] for side in (true, said)]
    errors = entity_errors(logits(as_numbers[1], IOB, 6), filled(as_numbers[0], 6), IOB)
    assert errors == [
        (0, 'wrong type', ('new-work', 3, 4), ('loc', 3, 4)),
        (0, 'missed', None, ('new-work', 5, 6)),
        (1, 'spurious', ('loc', 1, 2), None),
        (2, 'wrong boundary', ('loc', 1, 3), ('loc', 0, 3)),
        (2, 'spurious', ('loc', 4, 5), None),
        (3, 'spurious', ('loc', 0, 1), None),
        (3, 'wrong boundary', ('loc', 1, 4), ('loc', 0, 4)),  # the one that shares more words
    ]


def test_a_word_without_a_label_among_others_is_no_entity():
    targets = np.array([[*numbers('B-loc', IOB), -1, *numbers('I-loc', IOB)]])
    got = tag_metrics(logits([numbers('B-loc I-loc I-loc', IOB)], IOB, 3), targets, read_tags(IOB))
    assert got['f1'] == got['accuracy'] == 1  # two entities of one word on either side


def test_no_examples_and_no_words():
    assert tag_metrics(np.zeros((0, 2, 5)), np.zeros((0, 2), int), read_tags(IOB)) == {}
    assert set(tag_metrics(np.zeros((1, 2, 5)), np.full((1, 2), -1), read_tags(IOB)).values()) == {0.0}
    assert entity_report(np.zeros((1, 2, 5)), np.full((1, 2), -1), IOB) == []
