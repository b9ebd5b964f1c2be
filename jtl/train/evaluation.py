"""Running the net over a split, counting every example exactly once."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jtl.bundle import Bundle
from jtl.config import frozen
from jtl.data import load_data
from jtl.data.base import Split
from jtl.data.pipeline import eval_batches, train_batches
from jtl.data.views import Views, views_of
from jtl.errors import UserError, did_you_mean, some_of
from jtl.parallel.mesh import local_slots, put_batch
from jtl.tasks.base import HEAD
from jtl.train.setup import Experiment


@dataclass(frozen=True)
class Evaluation:
    """The net's outputs over a split.

    Attributes:
      outputs: (N, K) float32.
      targets: (N, ...) as the split has them.
      losses: (N,) float32.
      metrics: of the task, and 'loss', the mean of `losses`.
    """

    outputs: np.ndarray
    targets: np.ndarray
    losses: np.ndarray
    metrics: Mapping[str, float]


def evaluate(
    predict: Callable[[Any, Any], Any], leaves: Mapping[str, jax.Array], experiment: Experiment, split: Split, views: Views | None = None
) -> Evaluation:
    """Outputs, losses and metrics of every example of a split.

    Args:
      predict: `jtl.train.step.compile_predict(...)`.
      leaves: all parameters and statistics.
      experiment: of the run.
      split: not empty.
      views: those that `predict` was made with; None: none.
    """
    outputs, losses = [], []
    for batch, real in _eval_batches(experiment, split, views.crop if views else None):
        out, loss = jax.device_get(predict(leaves, batch)[HEAD])
        outputs.append(out[real])
        losses.append(loss[real])
    targets = split.targets
    joined = np.concatenate(outputs)
    each = np.concatenate(losses)
    metrics = {**experiment.task.evaluate(joined, targets), 'loss': float(each.mean())}
    return Evaluation(joined, targets, each, metrics)


def tta_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics of predictions averaged over views, under the names by which they stand beside the plain ones: 'tta_accuracy'."""
    return {f'tta_{name}': value for name, value in metrics.items()}


def evaluate_bundle(bundle: Bundle, section: Mapping[str, Any], names: Sequence[str] = (), tta: Sequence[str] = ()) -> dict[str, float]:
    """The metrics of a bundle on the splits of a data set, as `{'test/accuracy': ...}`, and with `tta` `{'test/tta_accuracy': ...}` too.

    Args:
      bundle: loaded.
      section: the plain `data` section of a config.
      names: of splits; none: validation and test, or all there are.
      tta: names of views, see `jtl.data.views.VIEWS`; none: no test-time augmentation.

    Raises:
      UserError: data that cannot be read, whose classes are not those of the bundle, or without such a split.
    """
    views = views_of(tta, bundle.preprocessing)
    data = load_data(frozen(section))
    if tuple(data.labels) != tuple(bundle.metadata['labels']):
        raise UserError(f'The data have the classes {some_of(data.labels)}, the model was trained on {some_of(bundle.metadata["labels"])}.')
    chosen = list(names) or [name for name in ('validation', 'test') if name in data.splits] or list(data.splits)
    found: dict[str, float] = {}
    for name in chosen:
        if name not in data.splits:
            raise UserError(f'--split: there is no split {name!r}. {did_you_mean(name, data.splits)}')
        split = data.splits[name]
        metrics = _bundle_metrics(bundle, split)
        if views:
            metrics |= tta_metrics(_bundle_metrics(bundle, split, views))
        found |= {f'{name}/{metric}': float(value) for metric, value in metrics.items()}
    return found


def _bundle_metrics(bundle: Bundle, split: Split, views: Views | None = None) -> dict[str, float]:
    batches = eval_batches(split, batch_size=32, preprocessing=bundle.preprocessing, crop=views.crop if views else None)
    outputs = [bundle.outputs({k: batch[k] for k in bundle.net.inputs}, views) for batch in batches]
    return bundle.task.evaluate(np.concatenate(outputs)[: len(split)], split.targets)


def training_batches(experiment: Experiment, seed: int, first_step: int) -> Iterator[dict[str, jax.Array]]:
    """Global training batches from `first_step` of a phase on, without end, two of them ahead on the device."""
    config, mesh = experiment.config, experiment.mesh
    host = train_batches(
        experiment.data.splits['train'],
        batch_size=config['batch_size'],
        seed=seed,
        first_step=first_step,
        preprocessing=experiment.preprocessing,
        crop=config['augment']['crop'],
        slots=local_slots(mesh, config['batch_size']),
        workers=config['data']['workers'],
        sampling=config['data']['sampling'],
    )
    ahead: list[dict[str, jax.Array]] = []
    for batch in host:
        ahead.append(put_batch(batch, mesh))
        if len(ahead) > 2:
            yield ahead.pop(0)
    yield from ahead


def _eval_batches(experiment: Experiment, split: Split, crop: float | None = None) -> Iterator[tuple[dict[str, jax.Array], np.ndarray]]:
    """Global batches, and which of their rows are real."""
    config, mesh = experiment.config, experiment.mesh
    over = mesh.shape['data']
    size = -(-(config['eval_batch_size'] or config['batch_size']) // over) * over
    host = eval_batches(
        split,
        batch_size=size,
        preprocessing=experiment.preprocessing,
        crop=crop,
        slots=local_slots(mesh, size),
        workers=config['data']['workers'],
    )
    for k, batch in enumerate(host):
        yield put_batch(batch, mesh), np.arange(k * size, (k + 1) * size) < len(split)
