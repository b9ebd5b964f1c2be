"""Learning-rate schedules of one phase: pure functions from the step in the phase to the rate.

A schedule counts from 0 in every phase. With `lr` the peak, `steps` = T the length of the phase, `w` the warm-up steps,
`final` = f the fraction of `lr` reached at the end, the rate at step t is

    t < w:      lr * (t + 1) / (w + 1)          linear warm-up (Goyal et al. 2017, arXiv:1706.02677); no step has rate 0
    w <= t:     lr * shape(p),  p = min(1, (t - w) / (T - w))

    constant    shape(p) = 1
    cosine      shape(p) = f + (1 - f) * (1 + cos(pi p)) / 2        SGDR without restarts, Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5
    linear      shape(p) = 1 - (1 - f) * p
    step        shape    = factor ** (number of milestones m with t >= max(1, round(m T))); f is not read

`final` is reached at t = T, one step past the last, so that the last step still moves; from there on the rate stays.

    one_cycle   1cycle (Smith & Topin 2018, arXiv:1708.07120) in two half cosines as fastai and PyTorch draw it; its rise is its warm-up:
                r = w, or round(0.3 T) where warmup is 0;  rise(q) = (1 - cos(pi q)) / 2
                t < r:   lr * (1/25 + (1 - 1/25) * rise(t / r))
                r <= t:  lr * (1 - (1 - f) * rise(min(1, (t - r) / (T - r))))
                Momentum is not cycled.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.errors import UserError, did_you_mean

Bounds = tuple[float, float, str]
NON_NEGATIVE: Bounds = (0.0, math.inf, '>= 0')
FRACTION: Bounds = (0.0, 1.0, 'in [0, 1]')

SCHEDULES = ('constant', 'cosine', 'linear', 'one_cycle', 'step')
_RISE = 0.3  # of a one-cycle phase whose warm-up is not given
_START = 1 / 25  # of the peak: where one cycle starts


def make_schedule(
    *,
    name: str,
    lr: float,
    steps: int,
    warmup: float = 0.0,
    final: float = 0.0,
    milestones: Sequence[float] = (0.5, 0.75),
    factor: float = 0.1,
    where: str = 'optimizer',
) -> optax.Schedule:
    """The schedule of one group in one phase; formulas at the top of this module.

    Args:
      name: one of `SCHEDULES`.
      lr: the peak rate.
      steps: optimizer steps of the phase.
      warmup: below 1, a fraction of `steps`; from 1 on, a whole number of steps.
      final: fraction of `lr` reached at the end, in [0, 1]; read by cosine, linear and one_cycle.
      milestones: fractions of `steps`, increasing, in (0, 1); read by step.
      factor: by which the rate is multiplied at each milestone; read by step.
      where: the config section, for messages.

    Returns:
      A function from the step in the phase (int, or int32 array) to the rate (float32 scalar), traceable.

    Raises:
      UserError: an unknown name, a value out of range, or a warm-up as long as the phase.
    """
    check_schedule(name, milestones, where)
    for field, value in (('lr', lr), ('final', final), ('factor', factor)):
        check_number(value, NON_NEGATIVE if field == 'lr' else FRACTION, f'{where}.{field}')
    if steps < 1:
        raise UserError(f'{where}: a schedule needs at least one step, found steps = {steps}.')
    w = warmup_steps(warmup, steps, where)
    bounds = [max(1, round(m * steps)) for m in milestones]  # the first step has the full rate however short the phase

    def constant(t: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.ones_like(p)

    def cosine(t: jax.Array, p: jax.Array) -> jax.Array:
        return 1 - (1 - final) * _rise(p)

    def linear(t: jax.Array, p: jax.Array) -> jax.Array:
        return 1 - (1 - final) * p

    def step(t: jax.Array, p: jax.Array) -> jax.Array:
        return jnp.asarray(factor, jnp.float32) ** sum((t >= b).astype(jnp.float32) for b in bounds)

    if name == 'one_cycle':
        # With a single step there is nothing to rise from: it takes the peak.
        w = w or min(round(_RISE * steps), steps - 1)
    shape = {'constant': constant, 'cosine': cosine, 'linear': linear, 'one_cycle': cosine, 'step': step}[name]

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        t = jnp.asarray(count, jnp.float32)
        after = shape(t, jnp.clip((t - w) / (steps - w), 0, 1))
        before = _START + (1 - _START) * _rise(t / max(w, 1)) if name == 'one_cycle' else (t + 1) / (w + 1)
        return lr * jnp.where(t < w, before, after)

    return schedule


def warmup_steps(warmup: float, steps: int, where: str = 'optimizer') -> int:
    """`warmup` in steps of a phase of `steps`: a number below 1 is a fraction, from 1 on it is steps.

    Raises:
      UserError: negative, not finite, no whole number of steps, or not shorter than the phase.
    """
    check_warmup(warmup, where)
    if warmup < 1:
        return min(round(warmup * steps), steps - 1)
    if warmup >= steps:
        raise UserError(
            f'{where}.warmup is {int(warmup)} steps, but the phase has only {steps}. Give fewer, or a fraction of the phase such as 0.1.'
        )
    return int(warmup)


def check_number(value: Any, bounds: Bounds, where: str) -> None:
    """UserError unless `value` is a finite number between the bounds (low, high, how to say so), both included."""
    low, high, words = bounds
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or not low <= value <= high:
        raise UserError(f'{where} is {value!r}; expected a finite number {words}.')


def check_warmup(warmup: float, where: str = 'optimizer') -> None:
    """UserError unless `warmup` is a fraction in [0, 1) or a whole number of steps."""
    check_number(warmup, NON_NEGATIVE, f'{where}.warmup')
    if warmup >= 1 and warmup != int(warmup):
        raise UserError(
            f'{where}.warmup is {warmup}; expected a fraction of the phase in [0, 1), such as 0.1, or a whole number of steps, such as 500.'
        )


def check_schedule(name: str, milestones: Sequence[float], where: str = 'optimizer') -> None:
    """UserError unless `name` is one of `SCHEDULES` and `milestones` are increasing fractions in (0, 1)."""
    if name not in SCHEDULES:
        raise UserError(f'{where}.schedule: there is no schedule {name!r}. {did_you_mean(str(name), SCHEDULES)}'.rstrip())
    for milestone in milestones:
        check_number(milestone, FRACTION, f'{where}.milestones')
    increasing = all(a < b for a, b in itertools.pairwise(milestones))
    if not increasing or not all(0 < m < 1 for m in milestones):
        raise UserError(
            f'{where}.milestones is {tuple(milestones)}; expected increasing fractions of the phase between 0 and 1, such as (0.5, 0.75).'
        )


def _rise(q: jax.Array) -> jax.Array:
    """Half a cosine from 0 at q = 0 to 1 at q = 1."""
    return (1 - jnp.cos(jnp.pi * q)) / 2
