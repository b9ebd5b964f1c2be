import math

import numpy as np
import pytest

from jtl.report.stats import paired_difference, spread, verdict


def test_interval_by_hand():
    # Differences 1, 2, 3, 4: mean 2.5, s = sqrt(5/3), t(0.975, 3) = 3.182446.
    found = paired_difference([2, 4, 6, 8], [1, 2, 3, 4])
    half = 3.182446305 * math.sqrt(5 / 3) / 2
    assert found.values == (1, 2, 3, 4)
    assert found.mean == 2.5
    np.testing.assert_allclose([found.low, found.high], [2.5 - half, 2.5 + half], rtol=1e-8)
    assert found.as_json('m') == {'metric': 'm', 'mean': 2.5, 'ci95': [found.low, found.high], 'values': [1, 2, 3, 4]}


def test_interval_covers_the_true_mean_95_times_in_100():
    rng = np.random.default_rng(0)
    draws = rng.normal(1.0, 2.0, (3000, 5))
    found = [paired_difference(d, [0.0] * 5) for d in draws.tolist()]
    inside = [r.low <= 1.0 <= r.high for r in found]
    assert 0.94 < np.mean(inside) < 0.96


def test_one_pair_has_no_interval_and_uneven_lists_are_an_error():
    assert paired_difference([0.5], [0.25]).as_json('m') == {'metric': 'm', 'mean': 0.25, 'ci95': None, 'values': [0.25]}
    with pytest.raises(ValueError, match='found 2 and 1'):
        paired_difference([1, 2], [1])
    with pytest.raises(ValueError):
        paired_difference([], [])


def test_spread():
    assert spread([1.0, 3.0]) == {'mean': 2.0, 'std': pytest.approx(math.sqrt(2)), 'values': [1.0, 3.0]}
    assert spread([5.0])['std'] == 0.0


def pair(mean, low, high, n=5, metric='test/accuracy'):
    return {'metric': metric, 'mean': mean, 'ci95': None if low is None else [low, high], 'values': [mean] * n}


@pytest.mark.parametrize(
    ('name', 'entry', 'maximize', 'said'),
    [
        ('probe - scratch', pair(0.08, 0.05, 0.11), True, 'probe is better than scratch by 8.0 points on test/accuracy'),
        ('probe - scratch', pair(-0.08, -0.11, -0.05), True, 'Negative transfer: probe is worse than training from scratch by 8.0 points'),
        ('scratch - probe', pair(0.08, 0.05, 0.11), True, 'Negative transfer: probe is worse than training from scratch by 8.0 points'),
        ('probe - full', pair(-0.08, -0.11, -0.05), True, 'full is better than probe by 8.0 points'),
        (
            'probe - scratch',
            pair(-0.02, -0.05, 0.01),
            True,
            'probe and scratch cannot be told apart on test/accuracy: probe - scratch is −2.0 points',
        ),
        ('probe - scratch', pair(-0.5, -0.9, -0.1, metric='test/rmse'), False, 'probe is better than scratch by 0.5 on test/rmse'),
        ('probe - scratch', pair(0.5, 0.1, 0.9, metric='test/rmse'), False, 'Negative transfer: probe'),
        (
            'probe - scratch',
            pair(0.08, None, None, n=1),
            True,
            'probe is ahead of scratch by 8.0 points on test/accuracy, on one seed alone',
        ),
    ],
)
def test_verdict_calls_it_by_its_name(name, entry, maximize, said):
    (sentence,) = verdict({'recipes': {}, 'paired': {name: entry}, 'primary': entry['metric'], 'maximize': maximize})
    assert sentence.startswith(said)
