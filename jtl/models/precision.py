"""In which dtypes stages and heads keep their parameters, compute, and hand on; and which stages compute their activations twice.

Rules over stage paths (`backbone/layer_3`, `heads/main`), like everything else. Those of `config.precision` give a dict with any of `params`,
`compute` and `output`, names of dtypes (the policy of DeepMind's jmp, stage by stage):

    config.precision = (('backbone/.*', dict(compute='bfloat16')), ('heads/.*', dict(compute='float32')))

Those of `config.remat` give True where a stage's activations are dropped after the forward pass and computed anew in the backward one
(Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost).
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jtl.errors import UserError, did_you_mean
from jtl.models.base import Backbone, Stage
from jtl.rules import Assignment, as_rules, resolve

DTYPES = ('float32', 'bfloat16', 'float16')
_FIELDS = {'params': 'param_dtype', 'compute': 'dtype'}  # of the modules


def with_precision(
    backbone: Backbone, heads: Mapping[str, nn.Module], rules: Sequence[Any]
) -> tuple[Backbone, dict[str, nn.Module], Assignment]:
    """The stages and heads with the dtypes that the rules give them, and which rule decided each.

    Args:
      backbone: with the tasks' own stages.
      heads: by name.
      rules: of `config.precision`.

    What a stage has no choice of (a pooling has no parameters) is left as it is.

    Raises:
      UserError: a rule that matches nothing, or an unknown field or dtype.
    """
    written = as_rules(rules, origin='config.precision')
    for rule in written:
        _check(rule.value, f'config.precision, {rule.pattern!r}')
    paths = [*(f'backbone/{stage.name}' for stage in backbone.stages), *(f'heads/{name}' for name in heads)]
    assigned = resolve(written, paths, otherwise={}, what='precision rule')
    stages = tuple(_stage(stage, assigned.values[f'backbone/{stage.name}']) for stage in backbone.stages)
    return Backbone(stages=stages), {name: _head(head, assigned.values[f'heads/{name}']) for name, head in heads.items()}, assigned


def with_remat(backbone: Backbone, rules: Sequence[Any]) -> tuple[Backbone, Assignment]:
    """The stages, those computed twice that the rules of `config.remat` say. UserError for a rule that matches nothing, or is neither True nor False."""
    written = as_rules(rules, origin='config.remat')
    for rule in written:
        if not isinstance(rule.value, bool):
            raise UserError(f'config.remat, {rule.pattern!r}: True or False, found {rule.value!r}.')
    assigned = resolve(written, [f'backbone/{stage.name}' for stage in backbone.stages], otherwise=False, what='remat rule')
    stages = (
        stage._replace(make=_rematerialised(stage.make)) if assigned.values[f'backbone/{stage.name}'] else stage
        for stage in backbone.stages
    )
    return Backbone(stages=tuple(stages)), assigned


def _stage(stage: Stage, policy: Mapping[str, Any]) -> Stage:
    known = _fields_of(stage.make.func if isinstance(stage.make, partial) else stage.make)
    chosen = {_FIELDS[key]: jnp.dtype(policy[key]) for key in _FIELDS if key in policy and _FIELDS[key] in known}
    output = jnp.dtype(policy['output']) if 'output' in policy else stage.output
    return stage._replace(make=partial(stage.make, **chosen) if chosen else stage.make, output=output)


def _head(head: nn.Module, policy: Mapping[str, Any]) -> nn.Module:
    chosen = {_FIELDS[key]: jnp.dtype(policy[key]) for key in _FIELDS if key in policy and _FIELDS[key] in _fields_of(type(head))}
    return head.clone(**chosen) if chosen else head


def _fields_of(module: Any) -> frozenset[str]:
    return frozenset(f.name for f in fields(module)) if isinstance(module, type) else frozenset()


@lru_cache(1024)
def _rematerialised(make: Any) -> Any:
    """The same factory, of a module whose call is rematerialised; its parameters keep their names."""
    module, rest = (make.func, make) if isinstance(make, partial) else (make, partial(make))
    return partial(nn.remat(module, static_argnums=(2,)), *rest.args, **rest.keywords)


def _check(value: Any, where: str) -> None:
    if not isinstance(value, Mapping) or not value:
        raise UserError(f"{where}: a dict with params, compute or output, such as dict(compute='bfloat16'), found {value!r}.")
    for key, dtype in value.items():
        if key not in ('params', 'compute', 'output'):
            raise UserError(f'{where}: {key!r} is none of params, compute, output. {did_you_mean(str(key), (*_FIELDS, "output"))}'.rstrip())
        if dtype not in DTYPES:
            raise UserError(f'{where}: {key} is one of {", ".join(DTYPES)}, found {dtype!r}.')
