"""The net and its plan on a mesh: where each leaf lies, in which dtype it is kept, what is computed twice."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jtl.errors import UserError
from jtl.models.base import Model
from jtl.models.net import Net
from jtl.models.precision import DTYPES, with_remat
from jtl.parallel.placement import Placement, place, spec_text
from jtl.plan import Plan, RuleHits
from jtl.rules import Assignment


def on_mesh(plain: Mapping[str, Any], model: Model, net: Net, plan: Plan, mesh: Mesh) -> tuple[Net, Plan, Placement]:
    """The net as it runs on the mesh, the plan with dtypes and placements, and the placement.

    Args:
      plain: the checked config: its sections `sharding`, `frozen` and `remat` are read.
      model: its family's sharding rules.
      net, plan: of the run.
      mesh: of devices.

    Raises:
      UserError: a rule that matches nothing or does not fit, or a field that is wrong.
    """
    dtype, split = plain['frozen']['dtype'], plain['frozen']['sharding']
    if dtype and dtype not in DTYPES:
        raise UserError(f'config.frozen.dtype: one of {", ".join(DTYPES)}, or empty, found {dtype!r}.')
    if split not in ('', 'whole', 'fsdp'):
        raise UserError(f"config.frozen.sharding: 'whole', 'fsdp', or empty, found {split!r}.")
    never = frozenset(net.params) - plan.trained
    placement, sharded = place(
        mesh,
        {path: spec.shape for path, spec in net.shapes.items()},
        rules=plain['sharding'],
        family=model.sharding,
        statistics=net.stats,
        frozen=never,
        frozen_value=split,
    )
    backbone, twice = with_remat(net.backbone, plain['remat'])
    params = {path: jax.ShapeDtypeStruct(s.shape, jnp.dtype(dtype)) if dtype and path in never else s for path, s in net.params.items()}
    net = replace(net, backbone=backbone, params=params, placement=placement if mesh.size > 1 else None)
    leaves = tuple(
        replace(leaf, dtype=str(net.shapes[leaf.path].dtype), sharding=spec_text(placement.specs[leaf.path])) for leaf in plan.leaves
    )
    rules = (*plan.rules, *_hits('sharding', sharded if mesh.size > 1 else None), *_hits('remat', twice))
    return net, replace(plan, leaves=leaves, rules=rules), placement


def _hits(what: str, assigned: Assignment | None) -> list[RuleHits]:
    if assigned is None:
        return []
    return [RuleHits(what, '', r.pattern, r.value, n, r.origin) for r, n in zip(assigned.rules, assigned.hits, strict=True)]
