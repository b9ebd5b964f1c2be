"""What a step changes (State), what it only reads (Frozen), and the way from one phase's state to the next one's."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jtl.models.net import Net
from jtl.opt_state import map_state, migrate, pack
from jtl.parallel.mesh import put_whole
from jtl.parallel.placement import Placement
from jtl.plan import PhasePlan, Plan, phase_optimizer
from jtl.train import loss_scale


class Window(struct.PyTreeNode):
    """Sums over the steps since the last log line; part of the state, so that a resumed run logs the same means.

    Attributes:
      steps: () int32.
      loss, penalty, grad_norm: () float32; the norm is that of the trainable gradients before clipping.
    """

    steps: Any
    loss: Any
    penalty: Any
    grad_norm: Any


class State(struct.PyTreeNode):
    """All that a training step changes; donated to it.

    Attributes:
      step: () int32, steps done in this phase.
      params: the trainable leaves by path.
      stats: the BatchNorm statistics that this phase updates.
      opt_state: of the phase's optimizer.
      ema: moving averages of `params`; empty without EMA.
      loss_scale: see `jtl.train.loss_scale`; empty where nothing computes in float16.
      window: sums for the log.
      bad_step: () int32, the first step of this phase with a loss, gradient or update that was not finite; -1.
      key: (2,) uint32, the run's key data; constant.
    """

    step: Any
    params: Any
    stats: Any
    opt_state: Any
    ema: Any
    loss_scale: Any
    window: Window
    bad_step: Any
    key: Any


class Frozen(struct.PyTreeNode):
    """All that a training step only reads.

    Attributes:
      leaves: frozen parameters and statistics by path.
      anchors: the starting values of trainable leaves under an L2-SP penalty.
    """

    leaves: Any
    anchors: Any


def empty_window() -> Window:
    """A window over no steps, on the host."""
    return Window(np.zeros((), np.int32), *(np.zeros((), np.float32) for _ in range(3)))


def updated_stats(net: Net, phase: PhasePlan) -> list[str]:
    """Paths of the statistics that the phase updates: those of stages whose switch is 'batch'."""
    return [path for path in net.stats if phase.switches[path.split('/')[1]] == 'batch']


def begin(
    net: Net,
    plan: Plan,
    index: int,
    leaves: Mapping[str, jax.Array],
    base: Mapping[str, jax.Array],
    seed: int,
    placement: Placement,
    before: State | None = None,
) -> tuple[Frozen, State, tuple[str, ...]]:
    """The state at the first step of a phase.

    Args:
      net, plan: of the run.
      index: of the phase.
      leaves: the present value of every leaf. The trainable ones become part of the state and are donated with it.
      base: the values at the start of the run of leaves that L2-SP penalties pull to; others are not read.
      seed: of the run.
      placement: of the leaves; the state lies as they do.
      before: the last state of the phase before, whose moments move over; averages start anew.

    Returns:
      What is frozen, the state, and sentences about what did not move over.
    """
    phase = plan.phases[index]
    params = {path: leaves[path] for path in phase.labels}
    stats = {path: leaves[path] for path in updated_stats(net, phase)}
    frozen = Frozen(
        leaves={path: leaf for path, leaf in leaves.items() if path not in params and path not in stats},
        anchors={path: jnp.copy(base[path]) for path in anchored(plan, phase)},  # what is donated with the state may not be read
    )
    optimizer = phase_optimizer(phase)
    there = moments_of(jax.eval_shape(optimizer.init, params), placement)
    opt_state = jax.jit(optimizer.init, out_shardings=there)(params)
    notes: tuple[str, ...] = ()
    if before is not None:
        old = plan.phases[index - 1]
        opt_state, notes = migrate(pack(before.opt_state, old.labels), old.labels, opt_state, phase.labels)
        opt_state = jax.device_put(opt_state, there)
    ema = {path: jnp.copy(leaf) for path, leaf in params.items()} if phase.ema else {}
    key = jax.random.key_data(jax.random.key(seed))
    scale = loss_scale.initial() if net.computes_in('float16') else {}
    first, scale, window, bad, key = put_whole(
        (np.zeros((), np.int32), scale, empty_window(), np.full((), -1, np.int32), key), placement.mesh
    )
    return frozen, State(first, params, stats, opt_state, ema, scale, window, bad, key), notes


def abstract(net: Net, plan: Plan, index: int, placement: Placement) -> tuple[Frozen, State]:
    """What `begin` gives, as shapes, dtypes and shardings alone: nothing is allocated."""
    phase = plan.phases[index]

    def of(path: str) -> jax.ShapeDtypeStruct:
        spec = net.shapes[path]
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype, sharding=placement.leaf(path))

    def scalar(dtype: str = 'int32', shape: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=placement.whole)

    params = {path: of(path) for path in phase.labels}
    stats = {path: of(path) for path in updated_stats(net, phase)}
    frozen = Frozen(
        leaves={path: of(path) for path in net.shapes if path not in params and path not in stats},
        anchors={path: of(path) for path in anchored(plan, phase)},
    )
    opt_state = jax.eval_shape(phase_optimizer(phase).init, params)
    there = moments_of(opt_state, placement)
    opt_state = jax.tree.map(lambda s, sharding: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), opt_state, there)
    window = Window(scalar(), scalar('float32'), scalar('float32'), scalar('float32'))
    ema = dict(params) if phase.ema else {}
    scale = {'scale': scalar('float32'), 'good': scalar()} if net.computes_in('float16') else {}
    return frozen, State(scalar(), params, stats, opt_state, ema, scale, window, scalar(), scalar('uint32', (2,)))


def moments_of(opt_state: Any, placement: Placement) -> Any:
    """The shardings of an optimizer's state, in its structure: moments lie as their parameters do, counts are whole."""
    return map_state(opt_state, lambda slot, path, leaf: placement.moment(path, leaf.shape), lambda place, leaf: placement.whole)


def shardings(tree: Any) -> Any:
    """Where everything in a tree of arrays or shapes lies."""
    return jax.tree.map(lambda x: x.sharding, tree)


def anchored(plan: Plan, phase: PhasePlan) -> list[str]:
    """Leaves of the phase that an L2-SP penalty pulls to their loaded values; new leaves have none and are pulled to zero."""
    loaded = {leaf.path for leaf in plan.leaves if leaf.status != 'new'}
    return [path for path, (kind, _) in phase.penalties.items() if kind == 'l2sp' and path in loaded]


def merged(frozen: Frozen, state: State, *, averaged: bool = False) -> dict[str, Any]:
    """Every leaf by path; with `averaged`, the moving averages in place of the trainables where there are any."""
    return {**frozen.leaves, **state.params, **(state.ema if averaged else {}), **state.stats}
