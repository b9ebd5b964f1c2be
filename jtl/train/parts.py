"""The parts of a run, each in one call: what the loop is made of, and what a notebook takes without it.

experiment = build(config)                    # the plan, from shapes alone
leaves = load_leaves(experiment)              # {path: array}
frozen, state = start(experiment, leaves)
step, feed = training_step(experiment), batches(experiment)
for _ in range(experiment.plan.phases[0].steps):
    state = step(frozen, state, next(feed))
outputs = prediction_step(experiment)(merged(frozen, state), batch)
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from jtl.data.views import Views
from jtl.tasks.base import HEAD
from jtl.train.evaluation import training_batches
from jtl.train.setup import Experiment
from jtl.train.state import Frozen, State, abstract, anchored, begin
from jtl.train.step import compile_predict, compile_step, make_predict, make_step


def start(experiment: Experiment, leaves: Mapping[str, jax.Array], phase: int = 0) -> tuple[Frozen, State]:
    """What is frozen and the state at the first step of a phase, with new optimizer state.

    Args:
      experiment: of `jtl.build`.
      leaves: every parameter and statistic. The trainable ones become part of the state, which a training step is given to
        overwrite: do not use them afterwards. L2-SP penalties pull to these values.
      phase: its position in the plan.
    """
    anchors = {path: jax.numpy.copy(leaves[path]) for path in anchored(experiment.plan, experiment.plan.phases[phase])}
    frozen, state, _ = begin(experiment.net, experiment.plan, phase, leaves, anchors, experiment.config['seed'], experiment.placement)
    return frozen, state


def training_step(
    experiment: Experiment, phase: int = 0, compiled: Callable[[str], Any] | None = None
) -> Callable[[Frozen, State, Mapping[str, jax.Array]], State]:
    """The compiled step of a phase, `step(frozen, state, batch) -> state`; it overwrites the state it is given.

    `compiled` is told the shapes of the inputs whenever the step is compiled for them: texts come in buckets of several lengths.
    """
    planned = experiment.plan.phases[phase]
    made = make_step(
        experiment.net,
        {planned.task: experiment.tasks[planned.task]},
        planned,
        phase,
        experiment.prepare,
        experiment.config['accumulate'],
        experiment.mixing,
    )
    start = abstract(experiment.net, experiment.plan, phase, experiment.placement)
    return compile_step(made, start, experiment.placement, compiled)


def batches(experiment: Experiment, phase: int = 0, first_step: int = 0) -> Iterator[dict[str, jax.Array]]:
    """The training batches of a phase from `first_step` on, without end, split over the mesh's devices."""
    seed = order_seed(experiment.config['seed'], phase)
    return training_batches(experiment, seed, first_step, experiment.plan.phases[phase].data)


def prediction_step(
    experiment: Experiment, views: Views | None = None, head: str = HEAD
) -> Callable[[Mapping[str, jax.Array], Mapping[str, jax.Array]], Any]:
    """The compiled evaluation step, `predict(leaves, batch) -> {head: (outputs (B, K), losses (B,))}`, averaged over `views` if there are any."""
    return compile_predict(make_predict(experiment.net, {head: experiment.tasks[head]}, experiment.prepare, views), experiment.placement)


def order_seed(seed: int, phase: int | str) -> int:
    """The seed of the order of a phase's examples (or of another use of them, by its name), derived by name."""
    return int.from_bytes(hashlib.sha256(f'{seed}/order/{phase}'.encode()).digest()[:4], 'big')
