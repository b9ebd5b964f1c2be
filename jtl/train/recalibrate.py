"""BatchNorm statistics computed anew for the weights that a run ends with.

Running statistics follow the weights of each step, with a lag; averaged weights (EMA) never trained, and statistics that suit them were
never kept. `config.recalibrate` batches give them statistics of their own: the mean over the batches of each batch's mean and variance,
as Izmailov et al. 2018 ("Averaging Weights Leads to Wider Optima and Better Generalization", section 3.2) and
`torch.optim.swa_utils.update_bn` do. The batches are training batches of an order of their own, the same at every evaluation, and all is
as in a training step (augmentation, mixing, micro-batches, dropout, normalisation by the batch) but that nothing trains. Statistics
of stages whose switch is not 'batch' stay bit for bit.

What is evaluated, what `select` chooses and what the run ends with have recalibrated statistics; training goes on with its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jtl.errors import UserError
from jtl.keys import derive
from jtl.train.evaluation import training_batches
from jtl.train.parts import order_seed
from jtl.train.setup import Experiment
from jtl.train.state import updated_stats
from jtl.train.step import Batch, micro_batches, training_inputs

Leaves = Mapping[str, jax.Array]


def recalibration(experiment: Experiment, phase: int) -> Callable[[Leaves], dict[str, jax.Array]]:
    """The function that gives leaves `config.recalibrate` batches' worth of new statistics; the leaves it is given stay valid.

    Without such batches, or in a phase that updates no statistics, it gives the leaves back as they are.

    Args:
      experiment: of the run.
      phase: its position in the plan; what it updates is computed anew, with its modes.
    """
    count, seed = experiment.config['recalibrate'], experiment.config['seed']
    paths = updated_stats(experiment.net, experiment.plan.phases[phase])
    if not count or not paths:
        return dict
    place = experiment.placement
    same = place.leaves(paths)
    add = jax.jit(
        _adder(experiment, phase, paths),
        in_shardings=(place.leaves(place.specs), same, place.batch, place.whole),
        out_shardings=(same, place.whole),
        donate_argnums=1,
    )

    def recalibrated(leaves: Leaves) -> dict[str, jax.Array]:
        total = jax.device_put({path: jnp.zeros_like(leaves[path]) for path in paths}, same)
        batches = training_batches(experiment, order_seed(seed, 'recalibrate'), 0, experiment.plan.phases[phase].data)
        for k, batch in zip(range(count), batches, strict=False):
            total, kept = add(dict(leaves), total, batch, k)
        parts = count * experiment.config['accumulate']
        means = {path: total[path] / np.float32(parts * _new_part(path, kept[path])) for path in paths}
        return {**leaves, **jax.device_put(means, same)}

    return recalibrated


def recalibration_text(experiment: Experiment, phase: int) -> str:
    """What is computed anew in a phase, a sentence for the log; '' without `config.recalibrate`."""
    count = experiment.config['recalibrate']
    if not count:
        return ''
    stages = list(dict.fromkeys(path.split('/')[1] for path in updated_stats(experiment.net, experiment.plan.phases[phase])))
    if not stages:
        return 'config.recalibrate: this phase updates no BatchNorm statistics, they stay as they are.'
    return f'Before each evaluation the BatchNorm statistics of {len(stages)} stages are computed anew over {count} training batches.'


def _adder(experiment: Experiment, phase: int, paths: list[str]) -> Callable[..., Any]:
    """`add(leaves, total, batch, k) -> (total, kept)`: the new statistics of a batch that begin at zero, and the part kept of old ones."""
    net, modes, accumulate = experiment.net, experiment.plan.phases[phase].modes, experiment.config['accumulate']

    def of_part(leaves: Leaves, batch: Batch, key: jax.Array) -> Any:
        inputs, _ = training_inputs(batch, key, experiment.prepare, experiment.mixing)

        def updated(stats: Leaves) -> dict[str, jax.Array]:
            new = net.apply({**leaves, **stats}, inputs, modes=modes, key=derive(key, 'dropout'), heads=())[1]
            return {path: new[path] for path in paths}

        # A module turns `old` into `m * old + (1 - m) * seen`, with an m of its own: begun at zero its value is (1 - m) * seen, and its
        # derivative m.
        zeros = {path: jnp.zeros_like(leaves[path]) for path in paths}
        return jax.jvp(updated, (zeros,), (jax.tree.map(jnp.ones_like, zeros),))

    def add(leaves: Leaves, total: Leaves, batch: Batch, k: jax.Array) -> tuple[Any, Any]:
        key = derive(jax.random.key(experiment.config['seed']), 'recalibrate', k)
        if accumulate == 1:
            seen, kept = of_part(leaves, batch, key)
        else:
            parts = (jnp.arange(accumulate), micro_batches(batch, accumulate))
            each, kept = jax.lax.map(lambda part: of_part(leaves, part[1], derive(key, 'micro', part[0])), parts)
            seen, kept = jax.tree.map(lambda x: x.sum(axis=0), each), jax.tree.map(lambda x: x[0], kept)
        return jax.tree.map(jnp.add, total, seen), kept

    return add


def _new_part(path: str, kept: jax.Array) -> float:
    """1 - m, from m in float32. UserError where it is not one number below 1.

    1 - 0.99 in float32 is off by 1e-6 of itself; the shortest decimal that is this float32 is what was written for m.
    """
    values = np.unique(np.asarray(jax.device_get(kept), np.float32))
    momentum = float(str(values[0]))
    if len(values) > 1 or not 0 <= momentum < 1:
        raise UserError(
            f'config.recalibrate: {path} keeps {momentum:g} of its old value in a training step; only an exponential average that keeps '
            'less than 1 can be computed anew. Set recalibrate=0, or a lower bn_momentum of the model.'
        )
    return 1 - momentum
