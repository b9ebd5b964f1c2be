"""The plan: what will happen to each parameter in each phase, from shapes alone, before anything is allocated.

`jtl plan` prints it, a run stores it as plan.json, and a resume must agree with it.

BatchNorm has two switches a stage: which statistics it *uses*, and whether it *updates* the running ones. Their three sensible
settings are the values of `batch_norm` rules, which match stage paths such as `backbone/block_3`:

  'batch'        uses the batch's statistics and updates the running ones: the default of a stage that trains;
  'batch_fixed'  uses the batch's and leaves the running ones alone;
  'running'      uses the running ones and leaves them alone: the default of a frozen stage.

(Using the running ones and updating them would be an update from statistics that nobody computed; it cannot be written.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jtl import config as configs
from jtl.errors import UserError
from jtl.models.base import Mode, stage_of
from jtl.models.net import Net
from jtl.optim import DECAY_RULES, Group, group_from, make_optimizer, state_bytes
from jtl.penalties import check_term
from jtl.recipes import FROZEN, MAIN, Phase
from jtl.rules import Assignment, as_rules, resolve
from jtl.schedules import NON_NEGATIVE, check_number

SWITCHES = ('batch', 'batch_fixed', 'running')


@dataclass(frozen=True)
class LeafPlan:
    """Where one parameter or statistic comes from.

    Attributes:
      path, shape, dtype: of the leaf.
      statistic: whether it is a BatchNorm statistic, which no optimizer touches.
      status: 'loaded', 'renamed', 'adapted' or 'new'.
      source: the checkpoint's key, '' for a new leaf.
      how: what is done to it on the way ('transpose(2, 3, 1, 0)').
      sharding: its placement, see `jtl.parallel.placement.spec_text`.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    statistic: bool
    status: str
    source: str = ''
    how: str = ''
    sharding: str = 'whole'

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def nbytes(self) -> int:
        """Bytes of the whole leaf."""
        return self.size * jax.numpy.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class PhasePlan:
    """One phase, resolved against the real paths.

    Attributes:
      name, steps: as the phase says.
      groups: the optimizer settings of each group that has leaves.
      labels: 'group@k' for every trainable leaf, k the phase in which it was thawed; frozen leaves are absent.
      decay: factor on the group's weight decay, for every trainable leaf.
      penalties: ('l1' | 'l2' | 'l2sp', coefficient) for the leaves that have one.
      switches: BatchNorm setting of each stage.
      modes: how each stage runs in a training step.
      clip: the global norm over all trainables that gradients are clipped to; 0 for none.
      ema: decay of the moving average of the trainables; 0 for none.
      optimizer_bytes: of the moments.
      task, data: as the phase says.
    """

    name: str
    steps: int
    groups: Mapping[str, Group]
    labels: Mapping[str, str]
    decay: Mapping[str, float]
    penalties: Mapping[str, tuple[str, float]]
    switches: Mapping[str, str]
    modes: Mapping[str, Mode]
    clip: float
    ema: float
    optimizer_bytes: int
    task: str = MAIN
    data: str = ''

    @property
    def label_groups(self) -> dict[str, Group]:
        """The settings of each label, as `make_optimizer` takes them."""
        return {label: self.groups[group_of(label)] for label in dict.fromkeys(self.labels.values())}


@dataclass(frozen=True)
class RuleHits:
    """A rule and how many paths it decided."""

    what: str
    phase: str
    pattern: str
    value: Any
    hits: int
    origin: str


@dataclass(frozen=True)
class Plan:
    """Everything that will happen; `to_json` is plan.json. `model` is the config's section with what the checkpoint says of it."""

    stages: tuple[str, ...]
    leaves: tuple[LeafPlan, ...]
    phases: tuple[PhasePlan, ...]
    rules: tuple[RuleHits, ...]
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained(self) -> frozenset[str]:
        """The parameters that train in any phase."""
        return frozenset(path for phase in self.phases for path in phase.labels)

    def totals(self) -> dict[str, int]:
        """Parameters (elements) trained in any phase and frozen throughout, statistics, bytes, and leaves by status."""
        params = [leaf for leaf in self.leaves if not leaf.statistic]
        trained = sum(leaf.size for leaf in params if leaf.path in self.trained)
        total = sum(leaf.size for leaf in params)
        found = {
            'parameters': total,
            'trainable': trained,
            'frozen': total - trained,
            'statistics': sum(leaf.size for leaf in self.leaves if leaf.statistic),
            'bytes': sum(leaf.nbytes for leaf in self.leaves),
        }
        for status in ('loaded', 'renamed', 'adapted', 'new'):
            found[status] = sum(leaf.status == status for leaf in self.leaves)
        return found

    def to_json(self) -> dict[str, Any]:
        """Plain data with a row for each leaf and rule, the settings of each phase, and totals."""
        return {
            'stages': list(self.stages),
            'totals': self.totals(),
            'phases': [_phase_json(phase, self) for phase in self.phases],
            'leaves': [
                {
                    'path': leaf.path,
                    'shape': list(leaf.shape),
                    'dtype': leaf.dtype,
                    'bytes': leaf.nbytes,
                    'statistic': leaf.statistic,
                    'status': leaf.status,
                    'source': leaf.source,
                    'how': leaf.how,
                    'sharding': leaf.sharding,
                    'groups': [_group_at(phase, leaf) for phase in self.phases],
                    'lr': [_lr_at(phase, leaf) for phase in self.phases],
                    'decay': [_decay_at(phase, leaf) for phase in self.phases],
                }
                for leaf in self.leaves
            ],
            'rules': [
                {'what': r.what, 'phase': r.phase, 'pattern': r.pattern, 'value': _value(r.value), 'hits': r.hits, 'origin': r.origin}
                for r in self.rules
            ],
            'ignored': list(self.ignored),
            'notes': list(self.notes),
            'preprocessing': configs.plain(self.preprocessing),
            'model': configs.plain(self.model),
        }


def group_of(label: str) -> str:
    """The group's name in a label 'group@k'."""
    return label.rpartition('@')[0]


def make_plan(
    net: Net,
    phases: Sequence[Phase],
    leaves: Mapping[str, LeafPlan],
    *,
    optimizer: Mapping[str, Any],
    decay: Sequence[Any] = (),
    penalties: Sequence[Any] = (),
    batch_norm: Sequence[Any] = (),
    rules: Sequence[RuleHits] = (),
    ignored: Sequence[str] = (),
    notes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
) -> Plan:
    """Resolve every rule of every phase against the net's paths.

    Args:
      net: shapes of everything.
      phases: as a recipe or a config writes them.
      leaves: where each leaf comes from, for every path of `net.shapes`.
      optimizer: the config's section; groups differ from it by what their phase says.
      decay: user rules (pattern, factor on weight decay), before the default ones (kernels and embeddings decay).
      penalties: user rules (pattern, (kind, coefficient)), kinds 'l1', 'l2' and 'l2sp', or (pattern, None).
      batch_norm: user rules (stage path, switch) for all phases; a phase's own come first.
      rules, ignored, notes, preprocessing, model: of the loading, kept in the plan.

    Raises:
      UserError: a rule that matches nothing or is shadowed, a group or value that is unknown, a phase that trains nothing.
    """
    hits = list(rules)
    planned: list[PhasePlan] = []
    thawed: dict[str, int] = {}  # path -> the phase since which it trains without a break
    for index, phase in enumerate(phases):
        where = f'phase {phase.name!r}'
        read = net.read_by(phase.task)
        assigned = resolve(phase.train, [path for path in net.params if path in read], otherwise=FROZEN, what=f'train rule of {where}')
        hits += _hits('train', phase.name, assigned)
        train = {path: group for path, group in assigned.values.items() if group != FROZEN}
        if not train:
            raise UserError(f'{where} trains nothing: its rules freeze every parameter.')
        unknown = sorted(set(phase.groups) - set(map(str, assigned.values.values())) - _recipe_groups(phase))
        if unknown:
            raise UserError(f'{where}: the group {unknown[0]!r} has settings, but no rule names it. Rules name {_listing(train.values())}.')
        thawed = {path: thawed.get(path, index) for path in train}
        groups = {name: _group(optimizer, phase, name) for name in dict.fromkeys(train.values())}
        labels = {path: f'{group}@{thawed[path]}' for path, group in train.items()}
        factors = _trained(_decay(decay, net), train)
        terms = _trained(_penalties(penalties, net), train)
        hits += [*_hits('decay', phase.name, factors), *_hits('penalty', phase.name, terms)]
        switches, assigned_bn = _switches(net, train, phase, batch_norm)
        hits += _hits('batch_norm', phase.name, assigned_bn)
        draft = PhasePlan(
            name=phase.name,
            steps=phase.steps,
            groups=groups,
            labels=labels,
            decay={path: float(factor) for path, factor in factors.values.items()},
            penalties={path: value for path, value in terms.values.items() if value is not None},
            switches=switches,
            modes=_modes(net, train, switches),
            clip=float(optimizer['clip']),
            ema=float(optimizer['ema']),
            optimizer_bytes=0,
            task=phase.task,
            data=phase.data,
        )
        planned.append(_with_bytes(draft, net))
    stages = tuple(stage.name for stage in net.backbone.stages)
    return Plan(
        stages,
        tuple(leaves[path] for path in net.shapes),
        tuple(planned),
        tuple(hits),
        tuple(ignored),
        tuple(notes),
        preprocessing or {},
        model or {},
    )


def phase_optimizer(phase: PhasePlan) -> Any:
    """The optax transformation of a phase: one clip over all trainables, then `multi_transform` over its labels."""
    return make_optimizer(phase.label_groups, phase.labels, phase.decay, phase.steps, phase.clip)


def _with_bytes(phase: PhasePlan, net: Net) -> PhasePlan:
    state = jax.eval_shape(phase_optimizer(phase).init, {path: net.params[path] for path in phase.labels})
    return replace(phase, optimizer_bytes=state_bytes(state))


def _recipe_groups(phase: Phase) -> set[str]:
    """Groups that only optional rules name: a recipe may set up a group that this backbone has no leaves for."""
    return {str(rule.value) for rule in phase.train if rule.optional}


def _group(optimizer: Mapping[str, Any], phase: Phase, name: str) -> Group:
    given = dict(phase.groups.get(name, {}))
    lr, factor = given.get('lr', optimizer['lr']), given.pop('lr_factor', 1.0)
    for field_name, value in (('lr', lr), ('lr_factor', factor)):
        check_number(value, NON_NEGATIVE, f'optimizer (group {name!r}).{field_name}')
    given['lr'] = float(lr) * factor
    return group_from(optimizer, given, name)


def _trained(assigned: Assignment, train: Mapping[str, str]) -> Assignment:
    """What was resolved over all parameters, of those that train: a rule for leaves that a phase freezes is no mistake, it waits."""
    return Assignment(assigned.rules, {path: assigned.values[path] for path in train}, {path: assigned.by[path] for path in train})


def _decay(written: Sequence[Any], net: Net) -> Assignment:
    rules = as_rules(written, origin='config.decay')
    for rule in rules:
        check_number(rule.value, NON_NEGATIVE, f'config.decay, {rule.pattern!r}')
    return resolve((*rules, *DECAY_RULES), net.params, what='decay rule')


def _penalties(written: Sequence[Any], net: Net) -> Assignment:
    rules = as_rules(written, origin='config.penalties')
    checked = [r if r.value is None else replace(r, value=check_term(r.value, f'config.penalties, {r.pattern!r}')) for r in rules]
    return resolve(checked, net.params, otherwise=None, what='penalty rule')


def _switches(net: Net, train: Mapping[str, str], phase: Phase, batch_norm: Sequence[Any]) -> tuple[dict[str, str], Assignment]:
    """The BatchNorm switch of each stage that has statistics."""
    stages = net.backbone.stages
    normed = [s.name for s in stages if any(stage_of(path, stages) == s.name for path in net.stats)]
    trains = {stage_of(path, stages) for path in train}
    rules = (*phase.batch_norm, *as_rules(batch_norm, origin='config.batch_norm'))
    for rule in rules:
        if rule.value not in SWITCHES:
            raise UserError(f'{rule.origin}: {rule.pattern!r} needs one of {_listing(SWITCHES)}, found {rule.value!r}.')
    assigned = resolve(rules, [f'backbone/{name}' for name in normed], otherwise='', what='batch_norm rule')
    switches = {name: assigned.values[f'backbone/{name}'] or ('batch' if name in trains else 'running') for name in normed}
    return switches, assigned


def _modes(net: Net, train: Mapping[str, str], switches: Mapping[str, str]) -> dict[str, Mode]:
    """A stage all of whose leaves are frozen runs deterministically; one without leaves trains where any stage does."""
    stages = net.backbone.stages
    owners = {stage_of(path, stages) for path in net.params}
    trains = {stage_of(path, stages) for path in train} - {None}
    return {
        s.name: Mode(
            train=s.name in trains or (s.name not in owners and bool(trains)),
            batch_statistics=switches.get(s.name, 'running') != 'running',
        )
        for s in stages
    }


def _hits(what: str, phase: str, assigned: Assignment) -> list[RuleHits]:
    return [RuleHits(what, phase, r.pattern, r.value, n, r.origin) for r, n in zip(assigned.rules, assigned.hits, strict=True)]


def _listing(names: Any) -> str:
    return ', '.join(sorted(set(names)))


def _group_at(phase: PhasePlan, leaf: LeafPlan) -> str:
    return '-' if leaf.statistic else group_of(phase.labels[leaf.path]) if leaf.path in phase.labels else FROZEN


def _lr_at(phase: PhasePlan, leaf: LeafPlan) -> float:
    return phase.groups[group_of(phase.labels[leaf.path])].lr if leaf.path in phase.labels else 0.0


def _decay_at(phase: PhasePlan, leaf: LeafPlan) -> float:
    if leaf.path not in phase.labels:
        return 0.0
    return phase.decay[leaf.path] * phase.groups[group_of(phase.labels[leaf.path])].weight_decay


def _value(value: Any) -> Any:
    """As JSON reads it back, so that a plan compares with a stored one."""
    return [_value(item) for item in value] if isinstance(value, tuple | list) else value


def _phase_json(phase: PhasePlan, plan: Plan) -> dict[str, Any]:
    sizes = {leaf.path: leaf.size for leaf in plan.leaves if not leaf.statistic}
    trainable = sum(sizes[path] for path in phase.labels)
    groups = {}
    for name, group in phase.groups.items():
        mine = [path for path, label in phase.labels.items() if group_of(label) == name]
        groups[name] = {
            'optimizer': group.optimizer,
            'lr': group.lr,
            'schedule': group.schedule,
            'weight_decay': group.weight_decay,
            'leaves': len(mine),
            'parameters': sum(sizes[path] for path in mine),
        }
    return {
        'name': phase.name,
        'task': phase.task,
        'data': phase.data,
        'steps': phase.steps,
        'groups': groups,
        'batch_norm': dict(phase.switches),
        'penalties': {path: list(term) for path, term in phase.penalties.items()},
        'clip': phase.clip,
        'ema': phase.ema,
        'trainable_parameters': trainable,
        'frozen_parameters': sum(sizes.values()) - trainable,
        'optimizer_bytes': phase.optimizer_bytes,
    }
