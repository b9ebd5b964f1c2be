import math

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.errors import UserError
from jtl.schedules import SCHEDULES, make_schedule

STEPS = 40


def rates(**options):
    schedule = make_schedule(**{'lr': 0.5, 'steps': STEPS, **options})
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(options.get('steps', STEPS) + 5)))


def test_cosine_and_linear_agree_with_optax():
    cosine, linear = optax.cosine_decay_schedule(0.5, STEPS, alpha=0.1), optax.linear_schedule(0.5, 0.05, STEPS)
    np.testing.assert_allclose(rates(name='cosine', final=0.1), [cosine(t) for t in range(STEPS + 5)], rtol=1e-5)
    np.testing.assert_allclose(rates(name='linear', final=0.1), [linear(t) for t in range(STEPS + 5)], rtol=1e-5)


def test_one_cycle_agrees_with_optax():
    reference = optax.cosine_onecycle_schedule(STEPS, 0.5, pct_start=0.3, div_factor=25, final_div_factor=1e2)
    expected = jax.jit(jax.vmap(reference))(np.arange(STEPS + 5))
    np.testing.assert_allclose(rates(name='one_cycle', final=1 / 2500), expected, rtol=1e-4)
    np.testing.assert_allclose(rates(name='one_cycle', warmup=12, final=1 / 2500), expected, rtol=1e-4)


def test_step_multiplies_by_the_factor_at_each_milestone():
    expected = [0.5 * (1 if t < 10 else 0.2 if t < 30 else 0.04) for t in range(STEPS + 5)]
    np.testing.assert_allclose(rates(name='step', milestones=(0.25, 0.75), factor=0.2), expected, rtol=1e-5)


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_phase_of_one_step_takes_it_at_the_peak(name):
    assert rates(name=name, steps=1)[0] == pytest.approx(0.5)


@pytest.mark.parametrize('name', ['constant', 'cosine', 'linear'])
@pytest.mark.parametrize('warmup', [4, 4.0, 0.1])
def test_warm_up_is_a_straight_line_to_the_peak_then_the_shape_over_what_is_left(name, warmup):
    got = rates(name=name, warmup=warmup, final=0.2)
    np.testing.assert_allclose(got[:5], 0.5 * np.array([1, 2, 3, 4, 5]) / 5, rtol=1e-6)
    p = np.minimum(1, (np.arange(4, STEPS + 5) - 4) / 36)
    shape = {'constant': 1 + 0 * p, 'cosine': 0.2 + 0.8 * (1 + np.cos(math.pi * p)) / 2, 'linear': 1 - 0.8 * p}[name]
    np.testing.assert_allclose(got[4:], 0.5 * shape, rtol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    name=st.sampled_from(SCHEDULES),
    steps=st.integers(1, 300),
    warmup=st.one_of(st.floats(0, 0.999), st.integers(1, 299)),
    final=st.floats(0, 1),
)
def test_every_rate_lies_between_zero_and_the_peak_and_the_end_is_reached(name, steps, warmup, final):
    if warmup >= steps:
        warmup = 0.0
    schedule = make_schedule(name=name, lr=2.0, steps=steps, warmup=warmup, final=final)
    values = np.asarray(jax.jit(jax.vmap(schedule))(np.arange(301)))
    assert np.all(values[:steps] > 0)
    assert np.all(values >= -1e-6) and values.max() <= 2.0 * (1 + 1e-6)
    if warmup == 0 or name == 'constant':
        assert values.max() == pytest.approx(2.0, rel=1e-5)
    if name in ('cosine', 'linear', 'one_cycle'):
        assert values[-1] == pytest.approx(2.0 * final, abs=1e-5)


def test_no_step_has_rate_zero_even_where_the_end_is_zero():
    for name in SCHEDULES:
        assert rates(name=name, warmup=0.1)[:STEPS].min() > 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'name': 'cosin'}, "no schedule 'cosin'. Did you mean 'cosine'"),
        ({'name': 'cosine', 'warmup': 40}, 'warmup is 40 steps, but the phase has only 40'),
        ({'name': 'cosine', 'warmup': 1.5}, 'whole number of steps'),
        ({'name': 'cosine', 'warmup': -0.1}, 'warmup is -0.1'),
        ({'name': 'cosine', 'lr': -1.0}, 'lr is -1.0'),
        ({'name': 'cosine', 'final': 1.5}, 'final is 1.5'),
        ({'name': 'step', 'milestones': (0.8, 0.5)}, 'increasing fractions'),
        ({'name': 'step', 'milestones': (0.5, 30)}, 'milestones is 30'),
        ({'name': 'cosine', 'steps': 0}, 'at least one step'),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        rates(**options)
