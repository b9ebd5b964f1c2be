"""Comparisons of finished runs: what is chosen, paired and said, by hand."""

import math

import pytest

import jtl
from jtl.errors import UserError
from jtl.report.compare import compare_report, compare_table
from jtl.train.compare import best_choice, compare, gather, job_config


def result(test, validation=None, primary='accuracy', maximize=True):
    metrics = {f'test/{primary}': test, 'test/nll': 1.0 - test}
    if validation is not None:
        metrics[f'validation/{primary}'] = validation
    return {
        'metrics': metrics,
        'primary': primary,
        'maximize': maximize,
        'parameters': {'trainable': 7},
        'optimizer_bytes': 56,
        'steps': 30,
        'seconds': 2.0,
    }


def test_means_spread_and_paired_interval():
    found = gather(
        {('scratch', ''): [result(0.5), result(0.6), result(0.7)], ('probe', ''): [result(0.7), result(0.75), result(0.95)]},
        ['scratch', 'probe'],
        [0, 1, 2],
    )
    probe = found['recipes']['probe']['test/accuracy']
    assert probe['mean'] == pytest.approx(0.8)
    assert probe['std'] == pytest.approx(math.sqrt((0.01 + 0.0025 + 0.0225) / 2))
    pair = found['paired']['probe - scratch']
    assert pair['mean'] == pytest.approx(0.2)
    half = 4.302652729911275 * math.sqrt((0 + 0.0025 + 0.0025) / 2) / math.sqrt(3)  # t(0.975, 2)
    assert pair['ci95'] == pytest.approx([0.2 - half, 0.2 + half])
    assert found['primary'] == 'test/accuracy'
    assert found['recipes']['probe']['runs'] == ['probe/seed_0', 'probe/seed_1', 'probe/seed_2']


def test_the_choice_is_made_on_validation_not_on_test():
    runs = {
        ('scratch', 'lr=1'): [result(0.9, 0.1), result(0.9, 0.2)],
        ('scratch', 'lr=2'): [result(0.3, 0.5), result(0.3, 0.6)],
    }
    figures = gather(runs, ['scratch'], [0, 1])['recipes']['scratch']
    assert figures['chosen'] == 'lr=2'
    assert figures['test/accuracy']['mean'] == pytest.approx(0.3)
    assert figures['choices']['lr=1']['test/accuracy']['mean'] == pytest.approx(0.9)
    assert next(iter(figures['choices']['lr=1'])) == 'validation/accuracy'
    sentence = 'scratch keeps lr=2, the best on validation (validation/accuracy: lr=1 15.0 ± 7.1 %; lr=2 55.0 ± 7.1 %).'
    found = gather(runs, ['scratch'], [0, 1])
    assert sentence in compare_table(found)
    assert sentence in compare_report(found, {})
    losses = {'a': [result(0.5, 3.0)], 'b': [result(0.5, 2.0)]}
    assert best_choice(losses, 'accuracy', maximize=False) == 'b'
    with pytest.raises(UserError, match='validation split'):
        best_choice({'a': [result(0.5)], 'b': [result(0.6)]}, 'accuracy', maximize=True)


def test_negative_transfer_is_said():
    runs = {('scratch', ''): [result(0.9), result(0.91)], ('full', ''): [result(0.5), result(0.52)]}
    assert gather(runs, ['scratch', 'full'], [0, 1])['verdict'][0].startswith('Negative transfer: full')


def test_jobs_differ_in_recipe_and_seed_alone(tmp_path):
    config = jtl.default_config()
    config.steps = 3
    one = job_config(config, 'probe', 2, 'optimizer.lr', 0.5)
    assert (one.tune.recipe, one.seed, one.data.seed, one.optimizer.lr, one.steps) == ('probe', 2, 2, 0.5, 3)
    assert config.tune.recipe == 'full'
    with pytest.raises(UserError, match='optimizer'):
        job_config(config, 'probe', 2, 'optimizer.rate', 0.5)


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'recipes': ('scrach',)}, "Did you mean 'scratch'"),
        ({'grid': {'scratch': ('optimizer.lr', 0.1)}}, 'a pair'),
        ({'seeds': -1}, 'seed'),
    ],
)
def test_wrong_sections(change, said, tmp_path):
    config = jtl.default_config()
    config.steps = 1
    with config.ignore_type():
        for name, value in change.items():
            config.compare[name] = value
    if 'grid' in change:
        config.compare.recipes = ('scratch',)
    with pytest.raises(UserError, match=said):
        compare(config, str(tmp_path))
