import dataclasses

import numpy as np
import pytest

from jtl.report.html import run_report
from jtl.report.texts import clipped, lengths_of_texts, readable

LABELS = ('card_arrival', 'card_linking', 'exchange_rate')


def text_of(split, index):
    return f'{split} text {index} <b>of</b> a customer ' + 'who asks at length about a card ' * (30 if index % 2 else 0)


def small(record, *args, **changes):
    return record(*args, **{'rows': [], 'thumbnail': None, 'text': text_of, **changes})


def test_an_example_in_one_string():
    assert readable({'text': 'a b', 'label': 1}) == 'a b'
    assert readable({'text': 'a b', 'pair': 'c'}) == 'a b ⏎ c'
    words = ('New York', 'and', 'Łódź\u2009')
    assert len(readable({'words': words}).split(' ')) == len(words)


def test_long_texts_are_cut_between_words():
    assert clipped('word ' * 100, 22) == 'word word word word…'
    assert clipped('x' * 100, 22) == 'x' * 21 + '…'
    assert clipped('as it is', 8) == 'as it is'


@pytest.mark.parametrize('kind', ['classification', 'multi_label', 'regression'])
def test_worst_mistakes_are_shown_as_text(record, kind, read):
    made = small(record, kind, LABELS, 60)
    document = read(run_report(made))
    test = made.splits[1]
    wrong = test.outputs.argmax(1) != test.targets if kind == 'classification' else test.losses == test.losses.max()
    worst = max(np.flatnonzero(wrong), key=lambda i: test.losses[i])
    shown = clipped(text_of('test', worst))
    assert len(shown) <= 300
    row = document.text[document.text.index(shown) :]
    assert row.startswith(shown + test.names[worst])
    if kind == 'classification':
        p = np.exp(test.outputs[worst]) / np.exp(test.outputs[worst]).sum()
        said = [f'{LABELS[k]} {100 * p[k]:.0f} %' for k in (test.targets[worst], test.outputs[worst].argmax())]
        assert row.startswith(shown + test.names[worst] + ''.join(said))


def test_language_models_have_metrics_without_mistakes_or_baseline(record, read):
    """Neither a softmax over classes, nor a constant guess, nor labels."""
    made = small(record, labels=('a', 'b'), n=30)
    kept = [
        dataclasses.replace(
            s,
            outputs=np.ones((30, 3)),
            targets=np.zeros(30, np.int32),
            metrics={'loss': 3.5, 'perplexity': 33.1, 'accuracy': 0.25},
            baseline={},
        )
        for s in made.splits
    ]
    made = dataclasses.replace(made, kind='causal_lm', splits=tuple(kept), labels=(), result={**made.result, 'primary': 'perplexity'})
    document = read(run_report(made))
    assert 'test perplexity33.1test accuracy25.0 %' in document.text
    assert 'metricvalidation (30)test (30)loss3.53.5' in document.text  # no column of baselines
    assert 'majority' not in document.text and 'Confusion' not in document.text
    words = dataclasses.replace(made, kind='my_own', splits=tuple(dataclasses.replace(s, outputs=np.ones((30, 4, 3))) for s in kept))
    assert '33.1' in read(run_report(words)).text


def test_lengths_and_buckets(record, read):
    lengths = np.array([4, 8, 8, 12, 32])
    text = read(run_report(small(record, lengths={'train': lengths}, buckets=(8, 16, 32)))).text
    assert 'Half of the 5 training texts have 8 tokens or fewer, the longest 32.' in text
    own = 8 + 8 + 8 + 16 + 32
    assert f'(8, 16, 32), {100 - 100 * 64 / own:.0f} % of all tokens are filling; filled up all to 32, {100 - 100 * 64 / 160:.0f} %' in text
    assert lengths_of_texts(np.zeros(0, int), (8,)) is None
    assert 'filling' not in lengths_of_texts(lengths, ())
