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
from jtl.data.pipeline import eval_batches, eval_order, train_batches
from jtl.data.preflight import preflight
from jtl.data.tokens import as_read
from jtl.data.views import Views, views_of
from jtl.errors import UserError, did_you_mean, some_of
from jtl.models.preprocessing import Preprocessing
from jtl.parallel.mesh import batch_parts, local_rows, put_batch
from jtl.tasks.base import HEAD
from jtl.train.setup import Experiment


@dataclass(frozen=True)
class Evaluation:
    """The net's outputs over a split.

    Attributes:
      outputs: (N, K) float32; of word tags (N, W, K); or what the task sums them up to.
      targets: (N, ...) as the split has them.
      losses: (N,) float32.
      metrics: of the task, and 'loss', the mean of `losses`.
    """

    outputs: np.ndarray
    targets: np.ndarray
    losses: np.ndarray
    metrics: Mapping[str, float]


def evaluate(
    predict: Callable[[Any, Any], Any],
    leaves: Mapping[str, jax.Array],
    experiment: Experiment,
    split: Split,
    views: Views | None = None,
    head: str = HEAD,
) -> Evaluation:
    """Outputs, losses and metrics of every example of a split.

    Args:
      predict: `jtl.train.step.compile_predict(...)`.
      leaves: all parameters and statistics.
      experiment: of the run.
      split: not empty.
      views, head: those that `predict` was made with.
    """
    outputs, losses, seen = [], [], []
    for batch, indices in _eval_batches(experiment, split, views.crop if views else None):
        out, loss = jax.device_get(predict(leaves, batch)[head])
        outputs.append(out[: len(indices)])
        losses.append(loss[: len(indices)])
        seen.append(indices)
    order = np.argsort(np.concatenate(seen))
    joined = joined_rows(outputs)[order]
    each = np.concatenate(losses)[order]
    metrics = {**experiment.tasks[head].evaluate(joined, split.targets), 'loss': float(each.mean())}
    return Evaluation(joined, split.targets, each, metrics)


def joined_rows(parts: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of all parts in one array; where these differ in width (words of a batch), the narrower ones are filled up with zeros."""
    if parts[0].ndim < 3:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]), (0, 0))) for part in parts])


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
    views = None
    if tta:
        if not isinstance(bundle.preprocessing, Preprocessing):
            raise UserError(f'--tta: views are taken of pictures, the model reads {", ".join(bundle.net.inputs)}.')
        views = views_of(tta, bundle.preprocessing)
    data = load_data(frozen(section))
    if section.get('max_unreadable'):  # then they are left out here too
        data = preflight(data, max_unreadable=section['max_unreadable']).data
    data = as_read(data, bundle.preprocessing)
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
    outputs = [bundle.outputs(batch, views) for batch in batches]
    return bundle.task.evaluate(joined_rows(outputs)[: len(split)][np.argsort(eval_order(split))], split.targets)


def training_batches(experiment: Experiment, seed: int, first_step: int, source: str = '') -> Iterator[dict[str, jax.Array]]:
    """Global training batches of a source from `first_step` of a phase on, without end, two of them ahead on the device."""
    config, mesh = experiment.config, experiment.mesh
    section = experiment.section(source)
    host = train_batches(
        experiment.sources[source].splits['train'],
        batch_size=config['batch_size'],
        seed=seed,
        first_step=first_step,
        preprocessing=experiment.preprocessing,
        crop=config['augment']['crop'],
        rows=local_rows(mesh, config['batch_size']),
        workers=section['workers'],
        sampling=section['sampling'],
    )
    ahead: list[dict[str, jax.Array]] = []
    for batch in host:
        ahead.append(put_batch(batch, mesh))
        if len(ahead) > 2:
            yield ahead.pop(0)
    yield from ahead


def _eval_batches(experiment: Experiment, split: Split, crop: float | None = None) -> Iterator[tuple[dict[str, jax.Array], np.ndarray]]:
    """Global batches, and the positions in the split of their real rows, which come first."""
    config, mesh = experiment.config, experiment.mesh
    over = batch_parts(mesh)
    size = -(-(config['eval_batch_size'] or config['batch_size']) // over) * over
    host = eval_batches(
        split,
        batch_size=size,
        preprocessing=experiment.preprocessing,
        crop=crop,
        rows=local_rows(mesh, size),
        workers=config['data']['workers'],
    )
    order = eval_order(split)
    for k, batch in enumerate(host):
        yield put_batch(batch, mesh), order[k * size : (k + 1) * size]
