"""What a training step sees: the very pictures, augmented and mixed, as a person can look at them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jtl.config import frozen, plain
from jtl.data import augment, mix
from jtl.data.images import prepare
from jtl.data.inputs import pictures_of
from jtl.data.mix import partners
from jtl.errors import UserError, did_you_mean
from jtl.keys import derive
from jtl.models.preprocessing import Preprocessing
from jtl.report.contact import Shown, contact_sheet
from jtl.report.format import significant
from jtl.train.parts import batches
from jtl.train.setup import Experiment
from jtl.train.step import micro_batches, step_key, training_inputs


def phase_named(experiment: Experiment, name: str) -> int:
    """The position of a phase by its name, or by its number from 0; '' is the first. UserError where there is none."""
    names = [phase.name for phase in experiment.plan.phases]
    if name in names or not name:
        return names.index(name) if name else 0
    if name.isdigit() and int(name) < len(names):
        return int(name)
    raise UserError(f'--phase: there is no phase {name!r}; the run has {", ".join(names)}. {did_you_mean(name, names)}'.rstrip())


def seen(experiment: Experiment, phase: int = 0, first_step: int = 0, *, steps: int = 1, count: int = 16) -> tuple[Shown, ...]:
    """The first pictures of some steps' batches, as the step sees them and as evaluation does.

    Args:
      experiment: of `jtl.build`; its net must read pictures.
      phase: its position.
      first_step: of the phase, from 0.
      steps: how many, at least 1; the phase's last step is the last.
      count: pictures of each batch, at least 1.

    Raises:
      UserError: the net reads no pictures, or the phase has no such step.
    """
    preprocessing = experiment.preprocessing
    if not isinstance(preprocessing, Preprocessing) or 'image' not in experiment.net.inputs:
        raise UserError(f'the model reads {", ".join(experiment.net.inputs)}: there are no pictures to show.')
    planned, split, task = experiment.plan.phases[phase], experiment.data.splits['train'], experiment.task
    if not 0 <= first_step < planned.steps:
        raise UserError(f'--step: the phase {planned.name} has the steps 0 to {planned.steps - 1}, found {first_step}.')

    def untouched(rows: np.ndarray) -> np.ndarray:
        found = np.stack([prepare(np.asarray(split.examples[int(row)]['image']), preprocessing) for row in rows])
        return np.clip(np.rint(found), 0, 255).astype(np.uint8)

    def labels(rows: np.ndarray) -> tuple[str, ...]:
        return tuple(label_text(task.kind, split.targets[row], task.labels) for row in rows)

    found, run = [], _inputs_of_step(experiment, phase)
    feed = batches(experiment, phase, first_step)
    for step in range(first_step, min(first_step + steps, planned.steps)):
        batch = next(feed)
        images, shares, partner_of = jax.device_get(run(batch, step))
        rows = np.asarray(jax.device_get(batch['index']))
        own, theirs = rows[:count], rows[partner_of[:count]]
        mixed: dict[str, Any] = {}
        if experiment.mixing is not None:
            mixed = {'shares': shares[:count], 'partners': untouched(theirs), 'partner_labels': labels(theirs)}
        title = f'phase {planned.name}, step {step}: {len(own)} of the {len(rows)} pictures of its batch' + (
            '; in the corner the picture that is mixed in' if mixed else ''
        )
        found.append(Shown(title, untouched(own), pictures_of(images[:count], preprocessing), labels(own), **mixed))
    return tuple(found)


def _inputs_of_step(experiment: Experiment, phase: int) -> Callable[[Any, int], tuple[jax.Array, jax.Array, jax.Array]]:
    """Compiled, `(batch, step)` to what the step's net reads, shares, and places of partners, all in the order of the batch."""
    parts, size = experiment.config['accumulate'], experiment.config['batch_size']

    def run(batch: Any, step: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        key = step_key(jax.random.key(experiment.config['seed']), phase, step)

        def one(numbered: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
            k, micro = numbered
            inputs, share = training_inputs(micro, derive(key, 'micro', k) if parts > 1 else key, experiment.prepare, experiment.mixing)
            return inputs['image'], jnp.ones(size // parts) if share is None else share, partners(micro['place'])

        found = jax.lax.map(one, (jnp.arange(parts), micro_batches({**batch, 'place': jnp.arange(size)}, parts)))
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(size, *x.shape[2:]), found)

    return jax.jit(run)


def draw(experiment: Experiment, phase: int = 0, first_step: int = 0, *, steps: int = 1, count: int = 16, title: str) -> bytes:
    """The contact sheet of some steps, a PNG; see `seen`."""
    config, size = experiment.config, ' x '.join(map(str, experiment.preprocessing.size))
    words = (
        augmentation_text(config['augment']),
        f'{config["model"]["name"]} at {size}, data {config["data"]["name"]}, seed {config["seed"]}',
    )
    return contact_sheet(title, words, seen(experiment, phase, first_step, steps=steps, count=count))


def augmentation_text(section: Mapping[str, Any]) -> str:
    """The fields of the config's `augment` section that are not at their defaults."""
    usual = {**augment.defaults(), **mix.defaults()}  # in the order in which things are done
    values = {name: section[name] for name, value in plain(ConfigDict(usual)).items() if section[name] != value}
    changed = [name if values[name] is True else f'{name} {frozen(values[name])}' for name in usual if name in values]
    return f'augment: {", ".join(changed)}' if changed else 'augment: nothing'


def label_text(kind: str, target: np.ndarray, labels: Sequence[str]) -> str:
    """One example's target for a person: a class, the labels that it has, or its values."""
    if kind == 'classification':
        return labels[int(target)]
    values = np.atleast_1d(target)
    if kind == 'multi_label':
        return ', '.join(labels[k] for k in np.flatnonzero(values > 0.5).tolist()) or 'none'
    return ', '.join(significant(float(value), 3) for value in values)
