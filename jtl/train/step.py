"""The training step and the evaluation step, as pure functions, and how they are compiled for a mesh.

The step differentiates the trainable partition alone. Reading one frozen gradient (a norm over all, a clip outside the
partition) would bring the whole backward pass back.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jtl.data.mix import Mixing, mix, partners
from jtl.data.views import Views
from jtl.keys import derive
from jtl.models.base import EVAL, Features, Mode
from jtl.models.net import Net
from jtl.optim import ema_update
from jtl.parallel.placement import Placement
from jtl.penalties import penalty
from jtl.plan import PhasePlan, phase_optimizer
from jtl.tasks.base import Task
from jtl.train.loss_scale import LossScale, adjusted, kept, unscaled
from jtl.train.state import Frozen, State, Window, shardings

Batch = Mapping[str, jax.Array]
Prepare = Callable[[Batch, jax.Array | None], Features]
"""From a batch to the model's inputs: augmented with a key, as in evaluation without."""


def make_step(
    net: Net,
    tasks: Mapping[str, Task],
    phase: PhasePlan,
    index: int,
    prepare: Prepare,
    accumulate: int = 1,
    mixing: Mixing | None = None,
) -> Callable[[Frozen, State, Batch], State]:
    """The training step of a phase: `step(frozen, state, batch) -> state`, not yet compiled.

    Args:
      net: backbone and heads.
      tasks: the tasks that the phase trains, by head name; their losses are added.
      phase: its labels say what is differentiated.
      index: of the phase; part of every random key.
      prepare: see `Prepare`.
      accumulate: micro-batches a step; gradients are averaged over them, BatchNorm sees them one after the other.
      mixing: mixup and cutmix; None: neither.
    """
    optimizer = phase_optimizer(phase)
    heads = {path.split('/')[1] for path in phase.labels if path.startswith('heads/')}
    head_mode = Mode(train=bool(heads))

    def losses(outputs: Mapping[str, jax.Array], batch: Batch) -> jax.Array:
        return sum((task.training_loss(outputs[name], batch) for name, task in tasks.items()), jnp.zeros(()))

    def loss_of(params: Any, stats: Any, frozen: Frozen, batch: Batch, key: jax.Array, by: LossScale) -> tuple[jax.Array, Any]:
        inputs, share = training_inputs(batch, key, prepare, mixing)
        for name, task in tasks.items():
            inputs, batch = task.hide(inputs, batch, derive(key, 'hide', name))
        leaves = {**frozen.leaves, **params, **stats}
        outputs, new_stats = net.apply(
            leaves, inputs, modes=phase.modes, head_mode=head_mode, key=derive(key, 'dropout'), heads=list(tasks)
        )
        each = losses(outputs, batch)
        if share is not None:
            each = share * each + (1 - share) * losses(outputs, partners(batch))
        loss = each.mean()
        return loss * by['scale'] if by else loss, (loss, {path: new_stats[path] for path in stats})

    def gradients(frozen: Frozen, state: State, batch: Batch, key: jax.Array) -> tuple[jax.Array, Any, Any]:
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        if accumulate == 1:
            (_, (loss, stats)), grads = value_and_grad(state.params, state.stats, frozen, batch, key, state.loss_scale)
            return loss, stats, grads

        def one(carry: Any, part: Any) -> tuple[Any, None]:
            stats, loss, grads = carry
            k, micro = part
            (_, (more, stats)), found = value_and_grad(state.params, stats, frozen, micro, derive(key, 'micro', k), state.loss_scale)
            return (stats, loss + more, jax.tree.map(jnp.add, grads, found)), None

        start = (state.stats, jnp.zeros(()), jax.tree.map(jnp.zeros_like, state.params))
        parts = (jnp.arange(accumulate), micro_batches(batch, accumulate))
        (stats, loss, grads), _ = jax.lax.scan(one, start, parts)
        return loss / accumulate, stats, jax.tree.map(lambda g: g / accumulate, grads)

    def step(frozen: Frozen, state: State, batch: Batch) -> State:
        key = step_key(jax.random.wrap_key_data(state.key), index, state.step)
        loss, stats, grads = gradients(frozen, state, batch, key)
        by = state.loss_scale
        grads = unscaled(grads, by) if by else grads
        extra = jnp.zeros(())
        if phase.penalties:
            extra, pull = jax.value_and_grad(penalty)(state.params, phase.penalties, frozen.anchors)
            grads = jax.tree.map(jnp.add, grads, pull)
        norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = ema_update(state.ema, params, phase.ema, state.step) if phase.ema else state.ema
        finite = jnp.isfinite(loss + extra + norm + optax.tree.norm(updates))
        bad, w = ~finite, state.window
        more = Window(w.steps + 1, w.loss + loss, w.penalty + extra, w.grad_norm + norm)
        if by:  # gradients that overflow at this scale are left out
            new, old = (params, stats, opt_state, ema, more), (state.params, state.stats, state.opt_state, state.ema, w)
            params, stats, opt_state, ema, more = kept(new, old, finite)
            bad = bad & (by['scale'] <= 1)
        return state.replace(
            step=state.step + 1,
            params=params,
            stats=stats,
            opt_state=opt_state,
            ema=ema,
            loss_scale=adjusted(by, finite) if by else by,
            window=more,
            bad_step=jnp.where((state.bad_step < 0) & bad, state.step, state.bad_step),
        )

    return step


def step_key(key: jax.Array, phase: int, step: int | jax.Array) -> jax.Array:
    """The key of all that is random in a step, from the run's key, the phase's position and the steps done in it."""
    return derive(key, 'phase', phase, 'step', step)


def training_inputs(batch: Batch, key: jax.Array, prepare: Prepare, mixing: Mixing | None) -> tuple[Features, jax.Array | None]:
    """What the net reads in a training step (or for a micro-batch of one), augmented and mixed.

    Args:
      batch: of the pipeline.
      key: of the step; of a micro-batch `derive(key, 'micro', k)`.
      prepare: see `Prepare`.
      mixing: mixup and cutmix; None: neither.

    Returns:
      The net's inputs, and the share (B,) of each example in its own picture: its partner has the rest. None where nothing is mixed.
    """
    inputs = prepare(batch, derive(key, 'augment'))
    if mixing is None:
        return inputs, None
    image, share = mix(inputs['image'], derive(key, 'mix'), mixing)
    return {**inputs, 'image': image}, share


def micro_batches(batch: Batch, parts: int) -> Batch:
    """Every leaf (B, ...) as (parts, B / parts, ...). Rows are dealt out in turn, so that a batch split over devices stays where it is."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1), dict(batch))


def make_predict(
    net: Net, tasks: Mapping[str, Task], prepare: Prepare, views: Views | None = None
) -> Callable[[Any, Batch], dict[str, tuple[jax.Array, jax.Array]]]:
    """The evaluation step: `predict(leaves, batch) -> {task: (outputs (B, ...) or their summary, losses (B,))}`, not yet compiled.

    With `views` the batch brings pictures of `views.crop`, and outputs are each task's average over the views, one after the other.
    """

    def outputs_of(leaves: Any, batch: Batch) -> tuple[dict[str, jax.Array], Batch]:
        inputs = prepare(batch, None)
        for task in tasks.values():
            inputs, batch = task.hide(inputs, batch)
        return net.apply(leaves, inputs, head_mode=EVAL, heads=list(tasks))[0], batch

    def predict(leaves: Any, batch: Batch) -> dict[str, tuple[jax.Array, jax.Array]]:
        if views is None:
            outputs, batch = outputs_of(leaves, batch)
        else:
            several = jax.lax.map(lambda image: outputs_of(leaves, {**batch, 'image': image})[0], views(batch['image']))
            outputs = {name: task.average(several[name]) for name, task in tasks.items()}
        return {
            name: (outputs[name] if task.summary is None else task.summary(outputs[name], batch), task.loss(outputs[name], batch))
            for name, task in tasks.items()
        }

    return predict


def compile_step(
    step: Callable[[Frozen, State, Batch], State],
    start: tuple[Frozen, State],
    placement: Placement,
    compiled: Callable[[str], Any] | None = None,
) -> Any:
    """`jax.jit` with explicit shardings: batches split over the batch's axes, all else where `start` has it; the state is donated.

    Args:
      step: of `make_step`.
      start: Frozen and State of its phase, arrays, or what `jtl.train.state.abstract` says of them.
      placement: of the run.
      compiled: is told the shapes of the batch's inputs whenever the step is compiled for them.
    """
    frozen_at, state_at = shardings(start)

    def told(frozen: Frozen, state: State, batch: Batch) -> State:
        if compiled is not None:
            shapes = {name: x.shape for name, x in batch.items() if x.ndim > 1}
            compiled(', '.join(f'{name} {" x ".join(map(str, shape))}' for name, shape in sorted(shapes.items())))
        return step(frozen, state, batch)

    return jax.jit(told, in_shardings=(frozen_at, state_at, placement.batch), out_shardings=state_at, donate_argnums=1)


def compile_predict(predict: Callable[[Any, Batch], Any], placement: Placement, paths: Collection[str] | None = None) -> Any:
    """The evaluation step compiled likewise, of the leaves at `paths` (default: all); its outputs are whole on every host."""
    leaves_at = placement.leaves(placement.specs if paths is None else paths)
    return jax.jit(predict, in_shardings=(leaves_at, placement.batch), out_shardings=placement.whole)
