"""Recipes: small visible functions that write phases.

A recipe is `recipe(stages, steps, *, knobs...) -> phases`. `stages` are the backbone's stages in order of depth, `steps` is the
number of steps of the whole run, which the phases share, so that recipes compare at equal steps. Knobs stand in the config at
`tune.<recipe>.<knob>` with the defaults of the signature; a learning rate of 0.0 means `optimizer.lr`.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from jtl.errors import UserError
from jtl.names import lookup
from jtl.rules import Rule, as_rules

FROZEN = 'frozen'
"""The group of leaves that do not train."""

MAIN = 'main'
"""The task of `config.task`, whose head's parameters lie at `heads/main/...`."""

_POOLING = 'backbone/pooling/.*'
"""The parameters of a task's pooling (attention): new like a head's."""


@dataclass(frozen=True)
class Phase:
    """A stretch of training with one partition into trained and frozen.

    Attributes:
      name: for people and files.
      steps: how many.
      train: rules from parameter paths to a group's name, or to 'frozen'. Paths that no rule matches are frozen.
      groups: for each group, what differs from the config's `optimizer` section (`lr`, `schedule`, ...).
      batch_norm: rules from stage paths (`backbone/block_3`) to 'batch', 'batch_fixed' or 'running'; see `jtl.plan`.
      task: which task is trained: 'main' (`config.task`), or one of `config.tasks`. What only other tasks read is frozen.
      data: on which data: '' (`config.data`), or one of `config.sources`.
    """

    name: str
    steps: int
    train: tuple[Rule, ...]
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    batch_norm: tuple[Rule, ...] = ()
    task: str = MAIN
    data: str = ''


def scratch(stages: Sequence[Any], steps: int, *, lr: float = 0.0) -> tuple[Phase, ...]:
    """Everything trains from random initial values; `init_from` is ignored, and the plan says so."""
    return (Phase('scratch', steps, _rules('scratch', [('.*', 'all')]), {'all': _lr(lr)}),)


def probe(stages: Sequence[Any], steps: int, *, lr: float = 0.0) -> tuple[Phase, ...]:
    """Feature extraction: the backbone is frozen, the heads train, and with them a pooling that learns."""
    return (Phase('probe', steps, _rules('probe', [('heads/.*', 'head'), (_POOLING, 'head')]), {'head': _lr(lr)}),)


def last(stages: Sequence[Any], steps: int, *, n: int = 1, lr: float = 0.0, head_lr: float = 0.0) -> tuple[Phase, ...]:
    """The last `n` stages and the heads train."""
    chosen = _body(stages)
    if not 0 <= n <= len(chosen):
        raise UserError(f'config.tune.last.n: the backbone has {len(chosen)} stages, found {n}.')
    groups = {'head': _lr(head_lr), **({'backbone': _lr(lr)} if n else {})}
    return (Phase('last', steps, _rules('last', _thawed(stages, n)), groups),)


def full(stages: Sequence[Any], steps: int, *, lr: float = 0.0, head_lr: float = 0.0) -> tuple[Phase, ...]:
    """Everything trains; the heads may have a rate of their own."""
    groups = {'head': _lr(head_lr), 'backbone': _lr(lr)}
    return (Phase('full', steps, _rules('full', [('heads/.*', 'head'), ('.*', 'backbone')]), groups),)


def layerwise(stages: Sequence[Any], steps: int, *, lr: float = 0.0, head_lr: float = 0.0, decay: float = 0.75) -> tuple[Phase, ...]:
    """Everything trains, each stage `decay` times as fast as the one above it.

    The last stage has `lr`, the one before it `decay * lr`, and so on down (discriminative fine-tuning, Howard and Ruder 2018;
    the geometric form is that of BEiT's layer-wise rates).
    """
    rules, groups = [('heads/.*', 'head')], {'head': _lr(head_lr)}
    body = _body(stages)
    for height, name in enumerate(reversed(body)):
        group = f'stage_{name}' if name in ('head', FROZEN) else name
        rules.append((_below(name), group))
        groups[group] = {**_lr(lr), 'lr_factor': decay**height}
    if body:
        rules.append(('backbone/shared/.*', group))  # counted with the first stage
    rules.append(('.*', 'head'))  # tail stages share the head's depth
    return (Phase('layerwise', steps, _rules('layerwise', rules), groups),)


def lp_ft(
    stages: Sequence[Any],
    steps: int,
    *,
    probe_fraction: float = 0.3,
    probe_lr: float = 0.0,
    lr: float = 0.0,
    head_lr: float = 0.0,
) -> tuple[Phase, ...]:
    """Linear probing, then fine-tuning (Kumar et al. 2022): the head fits first, so that it does not distort the features."""
    if not 0 < probe_fraction < 1:
        raise UserError(f'config.tune.lp_ft.probe_fraction: a fraction of the steps between 0 and 1, found {probe_fraction}.')
    first = min(max(1, round(steps * probe_fraction)), steps - 1)
    if first < 1:
        raise UserError(f'config.tune.recipe=lp_ft has two phases and needs at least 2 steps, found {steps}.')
    return (*probe(stages, first, lr=probe_lr), *full(stages, steps - first, lr=lr, head_lr=head_lr))


def gradual(
    stages: Sequence[Any],
    steps: int,
    *,
    chunks: int = 4,
    lr: float = 0.0,
    head_lr: float = 0.0,
    decay: float = 1.0,
    last_fraction: float = 0.0,
) -> tuple[Phase, ...]:
    """Gradual unfreezing (Howard and Ruder 2018): the heads first, then the stages from the top in `chunks` parts, each joining the rest.

    A backbone with fewer stages than `chunks` has one stage a part. `decay` lowers the rate of each chunk below the one above it, as in
    `layerwise`. The last phase, in which everything trains, has `last_fraction` of the steps, and those before it share the rest; with 0.0 all
    are equally long.
    """
    body = _body(stages)
    _check_chunks('gradual', chunks)
    _check_fraction('gradual.last_fraction', last_fraction)
    chunks = min(chunks, len(body))
    if steps < chunks + 1:
        raise UserError(f'config.tune.recipe=gradual has {chunks + 1} phases and needs as many steps, found {steps}.')
    groups: dict[str, Mapping[str, Any]] = {'head': _lr(head_lr)}
    bounds = [len(body) * k // max(chunks, 1) for k in range(chunks + 1)]
    parts = [list(reversed(body))[a:b] for a, b in pairwise(bounds)]
    phases, rules = [], [('heads/.*', 'head'), (_POOLING, 'head')]
    ends = [round(steps * k / (chunks + 1)) for k in range(chunks + 2)]
    if last_fraction and chunks:
        before = min(max(chunks, round(steps * (1 - last_fraction))), steps - 1)
        ends = [*(round(before * k / chunks) for k in range(chunks + 1)), steps]
    for k in range(chunks + 1):
        tail = []
        if k:
            group = f'chunk_{k}'
            groups = {**groups, group: {**_lr(lr), 'lr_factor': decay ** (k - 1)}}
            rules = [*rules, *((_below(name), group) for name in parts[k - 1])]
            tail = [(_below(s.name), 'head') for s in stages if s.tail]
        if k and k == chunks:
            tail.append(('.*', group))  # what no stage owns (shared parameters) thaws last
        phases.append(Phase(f'thaw_{k}' if k else 'heads', ends[k + 1] - ends[k], _rules('gradual', [*rules, *tail]), groups))
    return tuple(phases)


def ulmfit(
    stages: Sequence[Any],
    steps: int,
    *,
    task: str = 'lm',
    general: str = 'general',
    target: str = 'target',
    general_fraction: float = 0.4,
    general_lr: float = 0.0,
    target_fraction: float = 0.2,
    target_lr: float = 0.0,
    target_decay: float = 1 / 2.6,
    chunks: int = 4,
    lr: float = 0.0,
    head_lr: float = 0.0,
    decay: float = 1 / 2.6,
    last_fraction: float = 0.5,
) -> tuple[Phase, ...]:
    """ULMFiT (Howard and Ruder 2018): a language model on general text, then on the target's own text, then the task, thawed from the top.

    The config says what the names mean: `config.tasks.lm = {'name': 'causal_lm'}`, and in `config.sources` the data 'general' and 'target',
    by the fields in which they differ from `config.data`: {} for its own texts, {'shots': 0} for those of all its training examples. A language
    model has a `<name>_fraction` of the steps, and is left out where that is 0.0: the general one where `init_from` names its weights, both for
    the same net without them. The task has the rest, as `gradual` (`chunks`, `lr`, `head_lr`, `decay`, `last_fraction`).

    The general model has one rate; the target's has `target_lr` in its last stage and `target_decay` times that in each stage below (1.0, where
    no general one came before it). The slanted triangular rates of the original are `optimizer.schedule='linear'`, `warmup=0.1`, `final=1/32`.
    """
    _check_chunks('ulmfit', chunks)
    for name, fraction in (('general', general_fraction), ('target', target_fraction), ('last', last_fraction)):
        _check_fraction(f'ulmfit.{name}_fraction', fraction)
    general_steps, target_steps = (max(1, round(steps * f)) if f else 0 for f in (general_fraction, target_fraction))
    left, needed = steps - general_steps - target_steps, min(chunks, len(_body(stages))) + 1
    if left < needed:
        raise UserError(
            f'config.tune.recipe=ulmfit: the language models (general_fraction, target_fraction) leave {max(left, 0)} of {steps} steps, but the '
            f'task has {needed} phases and needs as many. Give it more steps, or fewer chunks.'
        )
    phases: list[Phase] = []
    if general_steps:
        (phase,) = full(stages, general_steps, lr=general_lr, head_lr=general_lr)
        phases.append(replace(phase, name='general_lm', task=task, data=general))
    if target_steps:
        (phase,) = layerwise(stages, target_steps, lr=target_lr, head_lr=target_lr, decay=target_decay)
        phases.append(replace(phase, name='target_lm', task=task, data=target))
    return (*phases, *gradual(stages, left, chunks=chunks, lr=lr, head_lr=head_lr, decay=decay, last_fraction=last_fraction))


RECIPES: Mapping[str, Callable[..., tuple[Phase, ...]]] = {
    f.__name__: f for f in (scratch, probe, last, full, layerwise, lp_ft, gradual, ulmfit)
}


def knobs(recipe: Callable[..., Any]) -> dict[str, Any]:
    """The knobs of a recipe with their defaults, from its signature."""
    return {p.name: p.default for p in inspect.signature(recipe).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def find_recipe(name: str) -> Callable[..., tuple[Phase, ...]]:
    """The recipe of a name: one of RECIPES, or `file.py:function`. UserError for an unknown name, with the nearest."""
    return lookup(name, {key: f'jtl.recipes:{key}' for key in RECIPES}, 'recipe', 'tune.recipe')


def expand(section: Mapping[str, Any], written: Sequence[Mapping[str, Any]], stages: Sequence[Any], steps: int) -> tuple[Phase, ...]:
    """The phases of a run: the recipe's, or where `tune.recipe` is '' those that the config writes.

    Args:
      section: the plain `tune` section: 'recipe', and the knobs of each recipe.
      written: the plain `phases` field, dicts with `name`, `steps`, `train`, `groups`, `batch_norm`, `task`, `data`.
      stages: the backbone's.
      steps: of the whole run, for a recipe.

    Raises:
      UserError: an unknown recipe, a phase without its fields, knobs out of range.
    """
    if section['recipe']:
        recipe = find_recipe(section['recipe'])
        given = dict(section.get(section['recipe'], {}))
        known = knobs(recipe)
        unknown = [k for k in given if k not in known]
        if unknown:
            raise UserError(f'config.tune.{section["recipe"]}: there is no knob {unknown[0]!r}. It has {", ".join(known) or "none"}.')
        for knob, value in given.items():
            if isinstance(known[knob], int | float) and not _is_like(value, known[knob]):
                raise UserError(f'config.tune.{section["recipe"]}.{knob}: a number such as {known[knob]}, found {value!r}.')
            if isinstance(known[knob], str) and not isinstance(value, str):
                raise UserError(f'config.tune.{section["recipe"]}.{knob}: a name such as {known[knob]!r}, found {value!r}.')
        if steps < 1:
            raise UserError('config.steps: a recipe needs the number of steps; set config.steps or config.epochs.')
        return recipe(stages, steps, **given)
    if not written:
        raise UserError('config.tune.recipe is empty and config.phases too: name a recipe, or write phases.')
    return tuple(_written_phase(index, phase) for index, phase in enumerate(written))


_PHASE_FIELDS = {'name', 'steps', 'train', 'groups', 'batch_norm', 'task', 'data'}


def _written_phase(index: int, phase: Mapping[str, Any]) -> Phase:
    where = f'config.phases[{index}]'
    if not isinstance(phase, Mapping):
        raise UserError(f'{where}: a phase is a dict with {", ".join(sorted(_PHASE_FIELDS))}, found {phase!r}.')
    unknown = sorted(set(phase) - _PHASE_FIELDS)
    if unknown:
        raise UserError(f'{where}: there is no field {unknown[0]!r}. A phase has {", ".join(sorted(_PHASE_FIELDS))}.')
    if not _is_like(phase.get('steps'), 1) or phase['steps'] < 1:
        raise UserError(f'{where}.steps: a number of steps of at least 1, found {phase.get("steps")!r}.')
    if not phase.get('train'):
        raise UserError(f'{where}.train: rules from parameter paths to groups, such as (("heads/.*", "head"),).')
    groups = phase.get('groups', {})
    if not isinstance(groups, Mapping) or not all(isinstance(settings, Mapping) for settings in groups.values()):
        raise UserError(f"{where}.groups: a dict from groups to their settings, such as {{'head': {{'lr': 0.01}}}}, found {groups!r}.")
    for key in ('task', 'data'):
        if not isinstance(phase.get(key, ''), str):
            raise UserError(f'{where}.{key}: a name, found {phase[key]!r}.')
    return Phase(
        name=phase.get('name') or f'phase_{index}',
        steps=phase['steps'],
        train=as_rules(phase['train'], origin=f'{where}.train'),
        groups=groups,
        batch_norm=as_rules(phase.get('batch_norm', ()), origin=f'{where}.batch_norm'),
        task=phase.get('task', MAIN),
        data=phase.get('data', ''),
    )


def _body(stages: Sequence[Any]) -> list[str]:
    return [stage.name for stage in stages if not stage.tail]


def _below(stage: str) -> str:
    return f'backbone/{re.escape(stage)}/.*'


def _thawed(stages: Sequence[Any], n: int) -> list[tuple[str, str]]:
    body = _body(stages)
    tails = [(_below(stage.name), 'head') for stage in stages if stage.tail]
    return [('heads/.*', 'head'), *tails, *((_below(name), 'backbone') for name in body[len(body) - n :])]


def _rules(recipe: str, pairs: Sequence[tuple[str, str]]) -> tuple[Rule, ...]:
    # Optional: a stage without parameters (pooling) or a backbone without shared ones is no mistake.
    return as_rules([Rule(pattern, group, optional=True) for pattern, group in pairs], origin=f'recipe {recipe}')


def _check_chunks(recipe: str, chunks: int) -> None:
    if chunks < 1:
        raise UserError(f'config.tune.{recipe}.chunks: a whole number of at least 1, found {chunks}.')


def _check_fraction(knob: str, fraction: float) -> None:
    if not 0 <= fraction < 1:
        raise UserError(f'config.tune.{knob}: a fraction of the steps from 0 to below 1, found {fraction}.')


def _is_like(value: Any, number: float) -> bool:
    """Whether `value` is a number, and a whole one where `number` is."""
    return isinstance(value, type(number) | int) and not isinstance(value, bool)


def _lr(lr: float) -> dict[str, Any]:
    return {'lr': lr} if lr else {}
