"""From groups of parameters to one optax transform: clip over everything that trains, then each group's own optimizer.

Parameters are a flat dict {path: leaf} of trainable leaves only; frozen ones are not here, so they own no state.

    groups = {'backbone@0': group_from(defaults(), {'lr': 1e-4}, 'backbone'), 'heads@0': group_from(defaults(), {}, 'heads')}
    labels = {path: path.split('/')[0] + '@0' for path in params}
    decay = resolve(DECAY_RULES, params).values
    tx = make_optimizer(groups, labels, decay, steps=1000, clip=1.0)

A label is 'group@k', where k is the phase in which the leaf was thawed (since which it trains without a break). Leaves of one group
thawed in different phases have labels of their own, since Adam's count belongs to the label; `jtl.plan` writes them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.errors import UserError, did_you_mean
from jtl.opt_state import RATE
from jtl.opt_state import state_bytes as state_bytes  # what an optimizer costs: asked for beside `make_optimizer`
from jtl.rules import as_rules
from jtl.schedules import FRACTION, NON_NEGATIVE, Bounds, check_number, check_schedule, check_warmup, make_schedule

OPTIMIZERS = ('sgd', 'adam', 'adamw', 'lamb')

DECAY_RULES = as_rules([('(.*/)?(kernel|embedding)', 1.0), ('.*', 0.0)], optional=True, origin='default decay')
"""Factors on weight decay: kernels and embeddings decay; biases and the scales of norms do not. A config's own rules go in front."""

Params = Mapping[str, jax.Array]


@dataclass(frozen=True)
class Group:
    """How one group of parameters is trained. Checked when made: UserError for an unknown name or a value out of range.

    Attributes:
      name: for messages, logs (`lr/<name>`) and labels.
      optimizer: 'sgd', 'adam', 'adamw' or 'lamb'; see `make_optimizer`.
      lr: the peak rate.
      schedule, warmup, final, milestones, factor: see `jtl.schedules`.
      momentum, nesterov: of sgd; momentum 0 keeps no state.
      b1, b2, eps: of adam, adamw and lamb.
      weight_decay: multiplied by each leaf's decay factor; not for adam.
    """

    name: str
    optimizer: str = 'adamw'
    lr: float = 1e-3
    schedule: str = 'cosine'
    warmup: float = 0.0
    final: float = 0.0
    milestones: tuple[float, ...] = (0.5, 0.75)
    factor: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        where = f'optimizer (group {self.name!r})'
        if self.optimizer not in OPTIMIZERS:
            raise UserError(
                f'{where}.name: there is no optimizer {self.optimizer!r}. {did_you_mean(str(self.optimizer), OPTIMIZERS)}'.rstrip()
            )
        for field, bounds in _RANGES.items():
            if field not in GLOBAL_FIELDS:
                check_number(getattr(self, field), bounds, f'{where}.{field}')
        if not isinstance(self.nesterov, bool):
            raise UserError(f'{where}.nesterov is {self.nesterov!r}; expected True or False.')
        check_schedule(self.schedule, self.milestones, where)
        check_warmup(self.warmup, where)
        if self.optimizer == 'adam' and self.weight_decay:
            raise UserError(f'{where}: adam has no weight_decay (found {self.weight_decay}): use adamw, or a penalty rule.')
        if self.optimizer == 'sgd' and self.nesterov and not self.momentum:
            raise UserError(f'{where}: nesterov needs a momentum above 0.')


GLOBAL_FIELDS = {'clip': 'global norm over all trainable gradients, one for the run; 0.0: off', 'ema': 'decay of the average; 0.0: off'}

_POSITIVE: Bounds = (math.ulp(0.0), math.inf, 'above 0')
_BELOW_ONE: Bounds = (0.0, math.nextafter(1.0, 0.0), 'in [0, 1)')
_RANGES: dict[str, Bounds] = {
    'lr': NON_NEGATIVE,
    'final': FRACTION,
    'factor': FRACTION,
    'momentum': _BELOW_ONE,
    'b1': _BELOW_ONE,
    'b2': _BELOW_ONE,
    'eps': _POSITIVE,
    'weight_decay': NON_NEGATIVE,
    'clip': NON_NEGATIVE,
    'ema': _BELOW_ONE,
}


def defaults() -> dict[str, Any]:
    """The config section `optimizer`: the fields of a `Group` (`name` is its optimizer), and `clip` and `ema`, one for the run."""
    section = {field.name: field.default for field in fields(Group) if field.name != 'name'}
    return {'name': section.pop('optimizer'), **section, 'clip': 0.0, 'ema': 0.0}


def group_from(section: Mapping[str, Any], overrides: Mapping[str, Any], name: str) -> Group:
    """One group's settings: the config section `optimizer`, and what a recipe or rule changes for this group.

    Args:
      section: like `defaults()`; fields left out take their defaults.
      overrides: fields of a group, under the names of the section.
      name: of the group.

    Raises:
      UserError: an unknown field (with the nearest), `clip` or `ema` among the overrides, or a value out of range.
    """
    known = defaults()
    section, overrides = dict(section.items()), dict(overrides.items())
    for where, given in (('optimizer', section), (f'optimizer (group {name!r})', overrides)):
        for field in given:
            if field not in known:
                hint = did_you_mean(str(field), known) or f'Known: {", ".join(known)}.'
                raise UserError(f'{where}: there is no field {field!r}. {hint}')
    for field, meaning in GLOBAL_FIELDS.items():
        if field in overrides:
            raise UserError(f'optimizer (group {name!r}): {field} ({meaning}) cannot differ between groups. Set optimizer.{field}.')
        if field in section:
            check_number(section[field], _RANGES[field], f'optimizer.{field}')
    settings = {field: value for field, value in {**known, **section, **overrides}.items() if field not in GLOBAL_FIELDS}
    milestones = settings['milestones']
    if isinstance(milestones, str) or not isinstance(milestones, Iterable):
        raise UserError(f'optimizer (group {name!r}).milestones is {milestones!r}; expected fractions of the phase such as (0.5, 0.75).')
    return Group(optimizer=settings.pop('name'), name=name, **{**settings, 'milestones': tuple(milestones)})


def make_optimizer(
    groups: Mapping[str, Group], labels: Mapping[str, str], decay: Mapping[str, float], steps: int, clip: float = 0.0
) -> optax.GradientTransformation:
    """The optimizer of one phase: one clip by the global norm of all gradients, then the chain of each leaf's label.

    With g the clipped gradient, d = weight_decay * decay[path], and all of it elementwise:

        sgd    g += d w;  v = momentum v + g;  u = v  (nesterov: g + momentum v)           as torch: decay coupled, before momentum
        adam   u = m_hat / (sqrt(v_hat) + eps)                                             Kingma & Ba 2015, arXiv:1412.6980
        adamw  u = adam's + d w                                                            Loshchilov & Hutter 2019, arXiv:1711.05101
        lamb   u = r (adam's + d w),  r = |w| / |adam's + d w|, 1 where a norm is 0        You et al. 2020, arXiv:1904.00962
        w -= lr(step in phase) u

    Args:
      groups: by label; labels that no leaf has are left out.
      labels: 'group@k' of each trainable path.
      decay: factor on the group's weight decay by path (`DECAY_RULES`); a path not named does not decay.
      steps: optimizer steps of the phase, for the schedules, whose counts start at 0.
      clip: the largest global norm, over all trainable leaves together; 0: no clip.

    Returns:
      A transform over flat dicts with exactly the paths of `labels`; `update` needs `params`. Its state: `jtl.opt_state`.

    Raises:
      UserError: a schedule that does not fit `steps`, or a `clip` out of range.
    """
    check_number(clip, _RANGES['clip'], 'optimizer.clip')
    if strangers := sorted(set(labels.values()) - set(groups)):
        raise ValueError(f'No group for the labels {", ".join(strangers)}.')
    chains = {label: _chain(groups[label], decay, steps) for label in sorted(set(labels.values()))}
    per_group = ('groups', optax.multi_transform(chains, dict(labels)))
    return optax.named_chain(('clip', optax.clip_by_global_norm(clip)), per_group) if clip else optax.named_chain(per_group)


def learning_rates(groups: Mapping[str, Group], steps: int, step: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """The rate of each group at `step` of a phase of `steps`, by the group's name, float32 scalars; traceable.

    `groups` may be keyed by label or by name.
    """
    return {group.name: _schedule(group, steps)(step) for group in groups.values()}


def ema_update(ema: Params, params: Params, decay: float, step: jax.typing.ArrayLike) -> dict[str, jax.Array]:
    """The exponential moving average of the trainable leaves after one more update.

        d = min(decay, (1 + step) / (10 + step));  ema = d ema + (1 - d) params

    The bound on d, TensorFlow's `ExponentialMovingAverage(num_updates=)`, lets the average follow from the start, so that a run
    of a few hundred steps is not an average with where it began. Start the average at the parameters.

    Args:
      ema, params: flat dicts of the same paths; the average keeps its own dtype.
      decay: in [0, 1).
      step: updates averaged so far, from 0.
    """
    step = jnp.asarray(step, jnp.float32)
    d = jnp.minimum(decay, (1 + step) / (10 + step))
    return {path: old + ((1 - d) * (params[path].astype(old.dtype) - old)).astype(old.dtype) for path, old in ema.items()}


def _chain(group: Group, decay: Mapping[str, float], steps: int) -> optax.GradientTransformation:
    """One label's transforms. Their names are the places of the counts in a packed state: adam, adamw and lamb share one."""
    decays = ('decay', _add_decay({path: group.weight_decay * factor for path, factor in decay.items()}))
    adam = ('adam', optax.scale_by_adam(group.b1, group.b2, group.eps))
    links = {
        'sgd': [decays, *([('momentum', optax.trace(group.momentum, group.nesterov))] if group.momentum else [])],
        'adam': [adam],
        'adamw': [adam, decays],
        'lamb': [adam, decays, ('trust', optax.scale_by_trust_ratio())],
    }[group.optimizer]
    return optax.named_chain(*links, (RATE, optax.scale_by_learning_rate(_schedule(group, steps))))


def _add_decay(decay: Mapping[str, float]) -> optax.GradientTransformation:
    """`optax.add_decayed_weights` with a coefficient for each path instead of one and a mask."""

    def update(updates: Any, state: optax.EmptyState, params: Any = None) -> tuple[Any, optax.EmptyState]:
        if params is None:
            raise ValueError('Weight decay reads the parameters: call update(grads, state, params).')
        return jax.tree_util.tree_map_with_path(
            lambda keys, u, w: u + c * w if (c := decay.get(keys[-1].key)) else u, updates, params
        ), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _schedule(group: Group, steps: int) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    return make_schedule(
        name=group.schedule,
        lr=group.lr,
        steps=steps,
        warmup=group.warmup,
        final=group.final,
        milestones=group.milestones,
        factor=group.factor,
        where=f'optimizer (group {group.name!r})',
    )
