"""A bundle: what is needed to predict elsewhere, in one directory without a pickle.

bundle.json          the format, the model's and the task's sections, ordered labels, preprocessing, config, metrics
model.safetensors    every parameter and statistic by path; byte for byte the same for the same run
golden.safetensors   a few prepared inputs and the outputs that they gave; loading checks that they still do
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jtl import config as configs
from jtl.checkpoint.base import CheckpointError
from jtl.data.images import EXTENSIONS, prepare
from jtl.data.inputs import prepare_inputs
from jtl.data.views import Views
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import with_stages
from jtl.models.net import Net, make_net
from jtl.models.preprocessing import Preprocessing
from jtl.tasks import build_task
from jtl.tasks.base import HEAD, Task

FORMAT = 1


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `predict` is all that most need.

    Attributes:
      net, leaves: the function and its parameters.
      task: says what outputs mean.
      preprocessing: of the weights.
      metadata: the content of bundle.json.
      apply: `(leaves, batch) -> (B, K)`, compiled.
    """

    net: Net
    leaves: Mapping[str, jax.Array]
    task: Task
    preprocessing: Preprocessing
    metadata: Mapping[str, Any]
    apply: Callable[[Any, Any], jax.Array]

    def outputs(self, batch: Mapping[str, Any], views: Views | None = None) -> np.ndarray:
        """(B, K) float32 outputs of a prepared batch, such as {'image': (B, H, W, C) uint8}.

        With `views` the pictures are those of `views.crop`, and outputs are the task's average over the views.
        """
        if views is not None:
            several = [self.outputs({**batch, 'image': image}) for image in views(jnp.asarray(batch['image']))]
            return np.asarray(self.task.average(jnp.stack(several)))
        return np.asarray(self.apply(self.leaves, {k: jnp.asarray(v) for k, v in batch.items()}))

    def predict(self, images: Sequence[np.ndarray], batch_size: int = 32, views: Views | None = None) -> list[dict[str, Any]]:
        """What the task says of each picture, (H, W, C) uint8 of any size: {'label', 'probability', ...} for a classification.

        `views`, made by `jtl.data.views.views_of(names, bundle.preprocessing)`, average predictions over several views of each picture.
        """
        crop = views.crop if views else None
        found: list[dict[str, Any]] = []
        for first in range(0, len(images), batch_size):
            rows = np.stack([prepare(image, self.preprocessing, crop) for image in images[first : first + batch_size]])
            filled = np.concatenate([rows, np.repeat(rows[-1:], batch_size - len(rows), axis=0)])  # one shape, one compilation
            found += [self.task.describe(row) for row in self.outputs({'image': filled}, views)[: len(rows)]]
        return found


def write_bundle(
    directory: epath.PathLike,
    *,
    net: Net,
    leaves: Mapping[str, Any],
    labels: Sequence[str],
    preprocessing: Preprocessing,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    golden: Mapping[str, np.ndarray],
) -> None:
    """Write a bundle whole or not at all, in place of an older one.

    Args:
      directory: of the bundle.
      net, leaves: of the run.
      labels: class or output names in output order.
      preprocessing: of the weights.
      config: plain; its `model` and `task` sections rebuild the net.
      metrics: of every split.
      golden: a prepared batch of a few examples.
    """
    from safetensors.numpy import save

    target = epath.Path(directory)
    draft = target.parent / f'{target.name}.part'
    if draft.exists():
        draft.rmtree()
    draft.mkdir(parents=True)
    host = {path: np.ascontiguousarray(jax.device_get(leaves[path])) for path in sorted(net.shapes)}
    (draft / 'model.safetensors').write_bytes(save(host))
    outputs = np.asarray(_compile(net, preprocessing)(dict(leaves), {k: jnp.asarray(v) for k, v in golden.items()}))
    (draft / 'golden.safetensors').write_bytes(
        save({**{f'batch/{k}': np.ascontiguousarray(v) for k, v in golden.items()}, 'outputs': outputs})
    )
    metadata = {
        'format': FORMAT,
        'model': dict(config['model']),
        'task': dict(config['task']),
        'labels': list(labels),
        'preprocessing': preprocessing.to_json(),
        'metrics': dict(metrics),
        'golden': {'platform': jax.default_backend()},
        'config': dict(config),
    }
    (draft / 'bundle.json').write_text(json.dumps(metadata, indent=1) + '\n')
    if target.exists():
        target.rmtree()
    draft.rename(target)


def load_bundle(where: str) -> Bundle:
    """The bundle at a path, or that of a finished run directory.

    Raises:
      UserError: no bundle there, one of a later format, or one whose model needs a file that is not here.
      CheckpointError: damaged, or the golden input does not give the golden output.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    from jtl.checkpoint.sources import open_checkpoint

    root = epath.Path(where).expanduser()
    root = root / 'bundle' if (root / 'bundle' / 'bundle.json').exists() else root
    if not (root / 'bundle.json').exists():
        unfinished = (root / 'checkpoints').exists()
        hint = (
            'This run has not finished: start it again with the same --workdir.' if unfinished else 'Give a run directory or its bundle/.'
        )
        raise UserError(f'{where}: there is no bundle. {hint}')
    checkpoint = open_checkpoint(str(root))
    metadata = checkpoint.metadata
    try:
        if metadata['format'] > FORMAT:
            raise UserError(f'{root}: a bundle of format {metadata["format"]}, this jtl reads up to {FORMAT}. Install a newer jtl.')
        preprocessing = Preprocessing.from_json(metadata['preprocessing'])
        labels, model_section, task_section = metadata['labels'], metadata['model'], metadata['task']
    except (KeyError, TypeError) as error:
        raise CheckpointError(f'{root / "bundle.json"}: not a bundle: {type(error).__name__}: {error}.') from None
    model = build_model(configs.frozen(model_section))
    task = build_task(configs.frozen(task_section), tuple(labels), None)
    net = make_net(with_stages(model.backbone, task.stages), {HEAD: task.head}, model.inputs(preprocessing.size))
    for path, spec in net.shapes.items():
        found = checkpoint.specs.get(path)
        if found is None or found.shape != spec.shape:
            raise CheckpointError(
                f'{root}: {path} should be {spec.shape}, found {found.shape if found else "nothing"}. Is it of another jtl?'
            )
    leaves = {path: jnp.asarray(checkpoint.read(path)) for path in net.shapes}
    bundle = Bundle(net, leaves, task, preprocessing, metadata, _compile(net, preprocessing))
    try:
        golden = load((root / 'golden.safetensors').read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'{root / "golden.safetensors"}: cannot be read ({error}).') from None
    wanted = golden.pop('outputs')
    outputs = bundle.outputs({name.removeprefix('batch/'): value for name, value in golden.items()})
    # Other hardware multiplies float32 in another precision (TPU in bfloat16 passes).
    same = metadata.get('golden', {}).get('platform') == jax.default_backend()
    bound = (1e-3 if same else 5e-2) * max(1.0, float(np.abs(wanted).max()))
    if outputs.shape != wanted.shape or not np.abs(outputs - wanted).max() <= bound:
        raise CheckpointError(
            f'{root}: the golden input gives other outputs than it gave when the bundle was written (largest difference '
            f'{np.abs(outputs - wanted).max() if outputs.shape == wanted.shape else "of shape"}, allowed {bound:.2g}): damaged, or written by another jtl.'
        )
    return bundle


def find_pictures(places: Sequence[str]) -> list[Path]:
    """The picture files named, and those below the folders named, in order. UserError for a place that is not there or holds none."""
    found: list[Path] = []
    for place in places:
        path = Path(place).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob('*') if p.suffix.lower() in EXTENSIONS)
            if not inside:
                raise UserError(f'{place}: no pictures below this folder ({", ".join(EXTENSIONS)}).')
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UserError(f'{place}: there is no such file or folder.')
    return found


def _compile(net: Net, preprocessing: Preprocessing) -> Callable[[Any, Any], jax.Array]:
    def run(leaves: Any, batch: Any) -> jax.Array:
        return net.apply(leaves, prepare_inputs(batch, net.inputs, preprocessing), heads=[HEAD])[0][HEAD]

    return jax.jit(run)
