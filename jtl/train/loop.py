"""The training loop: phases of steps, with logging, evaluation, checkpoints, and a position to resume from.

At a step that is due for several things the order is check, log, evaluate, save: nothing is told or kept of values that are not finite,
and a checkpoint at step n stands for every row up to n.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import jax

from jtl.errors import UserError
from jtl.optim import learning_rates
from jtl.parallel.hosts import ONE, Hosts
from jtl.parallel.mesh import put_whole
from jtl.train.evaluation import evaluate
from jtl.train.files import RunFiles, RunLog, summary
from jtl.train.parts import batches, training_step
from jtl.train.recalibrate import recalibration, recalibration_text
from jtl.train.resume import Position, RunStore
from jtl.train.setup import Experiment
from jtl.train.signals import StopSignals
from jtl.train.state import State, empty_window, merged


class NonFiniteError(UserError):
    """The loss, a gradient or an update became NaN or infinite."""


def train(
    experiment: Experiment, files: RunFiles, store: RunStore, predict: Callable[[str], Callable[..., Any]], hosts: Hosts = ONE
) -> tuple[dict[str, jax.Array], Position]:
    """Train from where the run directory stands, or from the start, to the end of the last phase.

    Args:
      experiment: of the run.
      files, store: its directory and checkpoints.
      predict: from a task's name to its compiled evaluation step.
      hosts: of the run; the first writes the log.

    Returns:
      The leaves that the run ends with (`config.select`), and the position.

    Raises:
      NonFiniteError: the loss, a gradient or an update is not finite; no checkpoint is written from then on.
      UserError: the run directory holds something else.
      SystemExit, KeyboardInterrupt: SIGTERM or SIGINT came; the step was finished and saved.
    """
    config, phases = experiment.config, experiment.plan.phases
    frozen, state, at = store.start_or_resume()
    with RunLog(files, at.total, sum(phase.steps for phase in phases), hosts.first) as log, StopSignals() as stop:
        if at.total:
            log.say(f'Resumed at step {at.total}: phase {phases[at.phase].name}, step {at.step}.')
        for index in range(at.phase, len(phases)):
            phase, settle = phases[index], recalibration(experiment, index)
            if index > at.phase:
                frozen, state, notes = store.begin(index, merged(frozen, state), state)
                at = replace(at, phase=index, step=0, done=False, waited=0)
                if phase.task != phases[index - 1].task:  # what was best at another task says nothing
                    at = replace(at, best=None, best_total=-1)
                log.say(*notes)
            if not at.done:
                log.say(_opening(experiment, index), *filter(None, [recalibration_text(experiment, index)]))
                compiled: list[str] = []  # the shapes that the step was compiled for
                step, feed = training_step(experiment, index, compiled.append), batches(experiment, index, at.step)
                log.restart_clock(at.total)
            while not at.done:
                state = step(frozen, state, next(feed))
                at = replace(at, step=at.step + 1, total=at.total + 1, done=at.step + 1 == phase.steps)
                log.step(at.total)
                due = {what: at.done or _due(at.step, config[f'{what}_every']) for what in ('log', 'eval', 'checkpoint')}
                stopping = stop.due(at.total)  # read once: what is saved has been checked
                if any(due.values()) or stopping:
                    _check_finite(state, phase.name, at)
                if due['log']:
                    log.train_row(_train_row(state, experiment, at), config['batch_size'])
                    state = state.replace(window=put_whole(empty_window(), experiment.mesh))
                if due['eval']:
                    at = _validate(predict(phase.task), settle, merged(frozen, state, averaged=True), experiment, store, log, at)
                    log.restart_clock(at.total)
                if due['checkpoint'] or at.done or stopping:
                    store.save(frozen, state, at)
                if at.done and len(compiled) > 1:
                    log.say(f'Phase {phase.name}: the step was compiled {len(compiled)} times: {"; ".join(compiled)}.')
                if stopping:
                    store.wait()
                    log.say(f'{stopping}: saved at step {at.total}. The same command goes on from there.')
                    raise stop.error(stopping)
        store.wait()
    final = merged(frozen, state, averaged=True)
    if config['select'] == 'best' and at.best is not None:
        return store.best_leaves(final, at), at  # with the statistics that were evaluated
    return settle(final), at


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _opening(experiment: Experiment, index: int) -> str:
    phase = experiment.plan.phases[index]
    sizes = {leaf.path: leaf.size for leaf in experiment.plan.leaves}
    trained = sum(sizes[path] for path in phase.labels)
    total = sum(leaf.size for leaf in experiment.plan.leaves if not leaf.statistic)
    return (
        f'Phase {index + 1} of {len(experiment.plan.phases)}, {phase.name}: {phase.steps} steps, {trained:,} of {total:,} parameters train.'
    )


def _train_row(state: State, experiment: Experiment, at: Position) -> dict[str, Any]:
    """Means over the window; the rates are those of the last step done."""
    phase = experiment.plan.phases[at.phase]
    window = jax.device_get(state.window)
    steps = max(int(window.steps), 1)
    row = {'step': at.total, 'phase': at.phase, 'phase_name': phase.name, 'train/loss': float(window.loss) / steps}
    if phase.penalties:
        row['train/penalty'] = float(window.penalty) / steps
    rates = jax.device_get(learning_rates(phase.groups, phase.steps, at.step - 1))
    return {**row, 'grad_norm': float(window.grad_norm) / steps, **{f'lr/{name}': float(lr) for name, lr in rates.items()}}


def _check_finite(state: State, phase: str, at: Position) -> None:
    bad = int(state.bad_step)
    if bad < 0:
        return
    total = at.total - at.step + bad + 1
    broken = [path for path, leaf in state.params.items() if not bool(jax.numpy.isfinite(leaf).all())]
    where = (
        f'{len(broken)} of {len(state.params)} trainable leaves are no longer finite, first {broken[0]}'
        if broken
        else 'the parameters are still finite'
    )
    raise NonFiniteError(
        f'The loss, a gradient or an update is not finite at step {total} (phase {phase}, step {bad + 1}); {where}. The checkpoints before it are untouched. '
        'Lower optimizer.lr, set optimizer.clip, or look for bad values in the data.'
    )


def _validate(
    predict: Callable[..., Any],
    settle: Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]],
    leaves: Mapping[str, jax.Array],
    experiment: Experiment,
    store: RunStore,
    log: RunLog,
    at: Position,
) -> Position:
    """Settle the statistics, evaluate on validation, keep the best, and end the phase where it has waited long enough."""
    phase = experiment.plan.phases[at.phase]
    split = experiment.sources[phase.data].splits.get('validation')
    if split is None or not len(split):
        return at
    leaves = settle(leaves)
    metrics = evaluate(predict, leaves, experiment, split, head=phase.task).metrics
    task, patience = experiment.tasks[phase.task], experiment.config['patience']
    guess = summary(experiment.baselines('validation', phase.task, phase.data), (task.primary,))
    log.row(
        {
            'step': at.total,
            'phase': at.phase,
            'phase_name': phase.name,
            **{f'validation/{k}': v for k, v in metrics.items()},
        }
    )
    log.say(
        f'Validation at step {at.total}: {summary(metrics, (task.primary, "loss"))}' + (f' (constant guess: {guess}).' if guess else '.')
    )
    value = float(metrics[task.primary])
    if math.isfinite(value) and (at.best is None or (value > at.best if task.maximize else value < at.best)):
        at = replace(at, best=value, best_total=at.total, waited=0)
        store.save_best(leaves, at)
        return at
    at = replace(at, waited=at.waited + 1)
    if patience and at.waited >= patience and not at.done:
        log.say(f'No better {task.primary} in {at.waited} evaluations: the phase ends at step {at.step}.')
        at = replace(at, done=True)
    return at
