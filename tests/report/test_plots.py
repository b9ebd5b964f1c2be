import base64
import re
import warnings
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from jtl.report import canvas
from jtl.report.curves import curves, phase_starts
from jtl.report.plots import compare_plot, confusion_plot, paired_plot, plan_plot, reliability_plot, scatter_plot


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


def svg_of(uri):
    """The parsed SVG of a small data URI without a word of another place."""
    assert len(uri) <= canvas.LIMIT
    kind, _, data = uri.partition(';base64,')
    assert kind == 'data:image/svg+xml'
    text = base64.b64decode(data).decode()
    links = set(re.findall(r'https?://[^"\s]*', text))
    assert links <= {'http://www.w3.org/2000/svg', 'http://www.w3.org/1999/xlink'}
    return ET.fromstring(text)


def texts(uri):
    return [''.join(e.itertext()) for e in svg_of(uri).iter('{http://www.w3.org/2000/svg}text')]


def test_curves_name_phases_groups_and_the_baseline(rows):
    drawn = dict(curves(rows(), {'validation/accuracy': 0.143}))
    assert list(drawn) == ['Loss', 'Evaluation metrics', 'Learning rate of each group', 'Gradient norm over what trains, before clipping']
    for uri in drawn.values():
        assert {'probe', 'top', 'full'} <= set(texts(uri))
    assert {'train/loss', 'validation/loss'} <= set(texts(drawn['Loss']))
    assert {'validation/accuracy', 'constant guess 14.3 %'} <= set(texts(drawn['Evaluation metrics']))
    assert {'head', 'top', 'low', '1e-3'} <= set(texts(drawn['Learning rate of each group']))


def test_phases_start_where_the_last_one_ended(rows):
    assert phase_starts(rows()) == [(0.0, 'probe'), (100.0, 'top'), (180.0, 'full')]


def lines_of(uri):
    """How many strokes each curve of a drawing has: a gap begins another one."""
    paths = [e.get('d', '') for e in svg_of(uri).iter('{http://www.w3.org/2000/svg}path') if 'clip-path' in e.attrib]
    return [path.count('M') for path in paths if path.count('L') > 5]


def test_curves_break_where_another_task_begins(rows):
    evaluated = [row for row in rows() if 'validation/accuracy' in row]
    for tasks, strokes in (((), 1), (('lm', 'main', 'main'), 2), (('lm', 'main', 'lm'), 3), (('main',) * 3, 1)):
        drawn = dict(curves(evaluated, {'validation/accuracy': 0.143}, tasks))
        assert lines_of(drawn['Evaluation metrics']) == [strokes, strokes], tasks


def test_curves_of_little():
    assert curves([]) == []
    one = [{'step': 1, 'phase': 0, 'phase_name': 'probe', 'train/loss': 1.5, 'grad_norm': 0.0, 'lr/head': 0.0, 'examples_per_second': 9.0}]
    assert [caption for caption, _ in curves(one)] == [
        'Loss',
        'Learning rate of each group',
        'Gradient norm over what trains, before clipping',
    ]
    nothing = [{'step': s, 'phase': 0, 'phase_name': 'x', 'train/loss': None} for s in range(100)]  # NaN from the first step on
    assert len(curves(nothing)) == 1


def test_long_runs_of_many_groups_stay_small():
    rng = np.random.default_rng(0)
    groups = [f'lr/block_{i}' for i in range(30)]
    rows = [
        {'step': s, 'phase': 0, 'phase_name': 'a', 'train/loss': float(rng.random()), **dict.fromkeys(groups, 1e-3 / (s + 1))}
        for s in range(3000)
    ]
    for _, uri in curves(rows):
        assert len(uri) <= canvas.LIMIT


def test_each_regression_metric_has_axes_of_its_own():
    rows = [{'step': s, 'validation/loss': 1.0, 'validation/rmse': 2.0, 'validation/r2': 0.5, 'validation/rmse/x': 9.0} for s in (1, 2)]
    assert [caption for caption, _ in curves(rows)] == ['Loss', 'rmse', 'r2']


@pytest.mark.parametrize('k', [2, 10, 30, 100])
def test_confusion_of_any_number_of_classes(k):
    rng = np.random.default_rng(k)
    counts = rng.binomial(3, 0.1, (k, k)) + 7 * np.eye(k, dtype=int)
    counts[-1] = 0  # a class without examples
    labels = [f'class {i}' for i in range(k)]
    found = texts(confusion_plot(counts, labels))
    assert labels[0] in found and 'predicted' in found
    assert (str(counts[0, 0]) in found) == (k <= 30)


def test_names_are_drawn_as_they_are():
    found = texts(confusion_plot(np.eye(2, dtype=int), ['<script>&', 'a $x$ and $y$']))
    assert '<script>&' in found and 'a $x$ and $y$' in found


def test_other_scripts_do_not_warn():
    assert '帽子' in texts(confusion_plot(np.eye(2, dtype=int), ['帽子', 'кот']))


def test_the_same_input_gives_the_same_bytes(rows):
    assert curves(rows()) == curves(rows())


def test_global_state_is_left_alone():
    import matplotlib

    before = dict(matplotlib.rcParams)
    confusion_plot(np.eye(3, dtype=int), 'abc')
    assert dict(matplotlib.rcParams) == before


def test_reliability():
    bins = [{'lower': 0.8, 'upper': 0.9, 'count': 40, 'confidence': 0.85, 'accuracy': 0.6}]
    assert 'calibration error 25.0 %' in texts(reliability_plot(bins, 0.25))


@pytest.mark.parametrize('n', [0, 1, 50, 5000])
def test_scatter_leaves_out_what_is_no_number(n):
    true = np.linspace(-1, 1, n)
    predicted = np.where(np.arange(n) % 10 == 3, np.nan, true)
    svg_of(scatter_plot(predicted, true, 'height'))


def test_plan_says_what_is_frozen_and_how_much_trains():
    rates, trained = np.array([[np.nan, 1e-4], [1e-2, 1e-2]]), np.array([[0, 500], [12000, 12000]])
    found = texts(plan_plot(['stem', 'heads/main'], ['probe', 'full'], rates, trained, np.array([1500, 12000])))
    assert found.count('frozen') == 1 and found.count('12 k') == 2
    assert {'500 of 1.5 k', '1e-4', '0.01', 'stem', 'probe', 'full'} <= set(found)


def test_plan_of_one_rate_and_of_many_stages():
    svg_of(plan_plot(['a'], ['p'], np.array([[0.0]]), np.array([[3]]), np.array([3])))
    rates = np.full((120, 14), 1e-3)
    svg_of(plan_plot([f's{i}' for i in range(120)], [f'p{j}' for j in range(14)], rates, np.ones((120, 14), int), np.full(120, 2)))


def test_comparison_plots():
    assert {'probe', 'scratch'} <= set(texts(compare_plot({'scratch': [0.5], 'probe': [0.7, 0.8, 0.9]}, 'test/accuracy')))
    one = {'metric': 'test/rmse', 'mean': 1.0, 'ci95': None, 'values': [1.0]}
    assert 'a - b' in texts(paired_plot({'a - b': one, 'c - b': {**one, 'ci95': [0.5, 1.5]}}, 'test/rmse'))


def test_a_large_drawing_becomes_a_small_picture():
    with canvas.picture(5, 5) as drawn:
        x = np.random.default_rng(0).random((2, 20000))
        drawn.figure.add_subplot().plot(*x, '.')
    assert drawn.uri.startswith('data:image/png;base64,') and len(drawn.uri) <= canvas.LIMIT
