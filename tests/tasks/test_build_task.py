import subprocess
import sys

import numpy as np
import pytest
from tiny_text import tiny_text

from jtl.errors import UserError
from jtl.tasks import TASKS, build_task

ABC = ('a', 'b', 'c')
TAGS = ('O', 'B-x', 'I-x')
OF_EXAMPLES = ('classification', 'multi_label', 'regression')
LANGUAGE_MODELS = ('masked_lm', 'causal_lm')


def test_each_name_in_the_table_builds_a_task_of_that_kind():
    assert set(TASKS) == {*OF_EXAMPLES, 'token_classification', *LANGUAGE_MODELS}
    for name in OF_EXAMPLES:
        task = build_task({'name': name}, ABC)
        assert (task.kind, task.labels, task.head.outputs) == (name, ABC, 3)
    task = build_task({'name': 'token_classification'}, TAGS, (7,))
    assert (task.kind, task.labels, task.head.outputs) == ('token_classification', TAGS, 3)
    for name in LANGUAGE_MODELS:
        for labels in ((), ABC):  # what the data are labelled with is not read
            task = build_task({'name': name}, labels, text=tiny_text(words=20))
            assert (task.kind, task.labels, task.head.vocabulary) == (name, (), 20)


def test_options_reach_the_task_and_its_head():
    task = build_task({'name': 'classification', 'head': 'mlp', 'hidden': [8, 4], 'dropout': 0.5, 'pool': 'flatten'}, ABC, ())
    assert (task.head.hidden, task.head.dropout) == ((8, 4), 0.5)
    assert task.stages == build_task({'name': 'regression', 'pool': 'flatten'}, (), ()).stages  # equal stages: equal backbones


def test_a_file_adds_a_task(tmp_path):
    source = """
from dataclasses import replace
from jtl.tasks.classification import classification

def task(*, labels, depth=1):
    return replace(classification(labels=labels), kind=f'depth {depth}')

def no_task(*, labels):
    return labels
"""
    (tmp_path / 'own.py').write_text(source)
    name = f'{tmp_path}/own.py:task'
    task = build_task({'name': name, 'depth': 3}, ABC, (2,))
    assert (task.kind, task.labels) == ('depth 3', ABC)
    with pytest.raises(UserError, match=r'must return a jtl\.tasks\.base\.Task, but returned tuple'):
        build_task({'name': f'{tmp_path}/own.py:no_task'}, ABC)
    with pytest.raises(UserError, match=r"task\.dept: .*'depth'"):
        build_task({'name': name, 'dept': 3}, ABC)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({}, r'task\.name: expected the name of a task, found None'),
        ({'name': 'clasification'}, r"Did you mean 'classification'"),
        ({'name': 'classification', 'label_smoothin': 0.1}, r"task\.label_smoothin: .*Did you mean 'label_smoothing'"),
        ({'name': 'classification', 'labels': ABC}, r'task\.labels: this comes from the data set'),
        ({'name': 'classification', 'label_smoothing': 1.0}, r'task\.label_smoothing: expected a number from 0 to below 1, found 1\.0'),
        ({'name': 'classification', 'label_smoothing': 'x'}, r"task\.label_smoothing: .*found 'x'"),
        ({'name': 'classification', 'head': 'liner'}, r"task\.head: there is no 'liner'\. Did you mean 'linear'"),
        ({'name': 'classification', 'head': 'mlp'}, r"task\.hidden: the head 'mlp' needs"),
        ({'name': 'classification', 'hidden': (3,)}, r"task\.hidden: the head 'linear' has no hidden layers, found \(3,\)"),
        ({'name': 'classification', 'head': 'mlp', 'hidden': (3, -1)}, r'task\.hidden: .*found -1'),
        ({'name': 'classification', 'head': 'mlp', 'hidden': 3}, r'task\.hidden: expected a tuple'),
        ({'name': 'classification', 'dropout': 1}, r'task\.dropout: '),
        ({'name': 'classification', 'activation': 'rellu'}, r"task\.activation: .*'relu'"),
        ({'name': 'classification', 'pool': 'flaten'}, r"task\.pool: .*'flatten'"),
        ({'name': 'classification', 'dtype': 'float31'}, r"task\.dtype: .*'float32'"),
        ({'name': 'classification', 'param_dtype': 3}, r'task\.param_dtype: there is no 3'),
        ({'name': 'classification', 'zero_init': 'no'}, r"task\.zero_init: expected True or False, found 'no'"),
    ],
)
def test_wrong_options_are_one_clear_message(section, message):
    with pytest.raises(UserError, match=message):
        build_task(section, ABC)


@pytest.mark.parametrize(
    ('name', 'labels', 'shape', 'message'),
    [
        ('classification', (), (), r'names 0\. For values use task\.name=regression'),
        ('classification', ('only',), (), 'at least 2 classes'),
        ('classification', ABC, (3,), r'shape \(3,\)\. .*multi_label'),
        ('multi_label', ABC, (), r'shape \(3,\); the targets have shape \(\)'),
        ('multi_label', (), (3,), 'names none'),
        ('regression', ABC, (), r'finds 1 value.* names 3 labels'),
        ('regression', (), (2, 2), r'shape \(2, 2\)'),
        ('classification', TAGS, (7,), r'shape \(7,\)\. .*token_classification'),
        ('token_classification', TAGS, (), r'shape \(\)\. .*classification'),
        ('token_classification', ABC, (7,), r'the data have a, b, c'),
    ],
)
def test_targets_that_do_not_fit_the_task_are_refused(name, labels, shape, message):
    with pytest.raises(UserError, match=message):
        build_task({'name': name}, labels, shape)


@pytest.mark.parametrize(('shape', 'labels'), [((), ('value',)), ((1,), ('value',)), ((2,), ('value_0', 'value_1'))])
def test_regression_names_its_values_and_is_rebuilt_from_the_names(shape, labels):
    task = build_task({'name': 'regression'}, (), shape)
    assert task.labels == labels
    again = build_task({'name': 'regression'}, task.labels)
    assert (again.labels, again.head) == (task.labels, task.head)


def targets_of(name, n):
    rng = np.random.default_rng(1)
    shapes = {'classification': (n,), 'token_classification': (n, 4)}
    targets = rng.integers(0, 3 if name in shapes else 2, shapes.get(name, (n, 3)))
    return targets.astype(np.float32 if name in ('multi_label', 'regression') else np.int32)


@pytest.mark.parametrize('name', [*OF_EXAMPLES, 'token_classification'])
def test_evaluate_and_baseline_give_the_same_finite_metrics(name):
    task = build_task({'name': name}, TAGS)
    targets = targets_of(name, 20)
    outputs = np.random.default_rng(0).normal(size=(20, 4, 3) if name == 'token_classification' else (20, 3)).astype(np.float32)
    metrics, baseline = task.evaluate(outputs, targets), task.baseline(targets, targets)
    assert metrics.keys() == baseline.keys() and task.primary in metrics
    assert all(type(v) is float and np.isfinite(v) for v in [*metrics.values(), *baseline.values()])


@pytest.mark.parametrize('name', list(TASKS))
def test_a_split_without_examples_has_no_metrics(name, recwarn):
    task = build_task({'name': name}, TAGS, text=tiny_text())
    some, none = targets_of(name, 2), targets_of(name, 0)
    assert (
        task.evaluate(np.zeros((0, 4, 3) if name == 'token_classification' else (0, 3), np.float32), none)
        == {}
        == task.baseline(some, none)
    )
    task.baseline(none, some)
    assert not recwarn


def test_reading_the_table_imports_neither_jax_nor_scikit_learn():
    code = "import sys, jtl.tasks; print([m for m in ('jax', 'flax', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
