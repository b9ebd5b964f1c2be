"""A bundle: what is needed to predict elsewhere, in one directory without a pickle.

bundle.json          the format, the model's and the task's sections, ordered labels, preprocessing, config, metrics
tokenizer.json       of models that read text
model.safetensors    every parameter and statistic by path; byte for byte the same for the same run
golden.safetensors   a few prepared inputs and the outputs that they gave; loading checks that they still do
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jtl import config as configs
from jtl.checkpoint.base import CheckpointError
from jtl.data.images import EXTENSIONS
from jtl.data.inputs import prepare_inputs
from jtl.data.views import Views
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.net import Net
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing
from jtl.predictions import Text, of_pictures, of_texts
from jtl.rules import as_rules
from jtl.tasks import build_task
from jtl.tasks.base import HEAD, Task
from jtl.tasks.entities import ABSENT
from jtl.tasks.net import net_of

FORMAT = 1
_TOKENIZER = 'tokenizer.json'


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle. `predict` is all that most need.

    Attributes:
      net, leaves: the function and its parameters.
      task: says what outputs mean.
      preprocessing: of the weights.
      metadata: the content of bundle.json.
      apply: `(leaves, batch) -> (B, ...)`, compiled.
    """

    net: Net
    leaves: Mapping[str, jax.Array]
    task: Task
    preprocessing: Preprocessing | TextPreprocessing
    metadata: Mapping[str, Any]
    apply: Callable[[Any, Any], jax.Array]

    def outputs(self, batch: Mapping[str, Any], views: Views | None = None) -> np.ndarray:
        """(B, K) float32 outputs of a prepared batch, such as {'image': (B, H, W, C) uint8}; of words (B, W, K), or the task's summary.

        With `views` the pictures are those of `views.crop`, and outputs are the task's average over the views.
        """
        if views is not None:
            several = [self.outputs({**batch, 'image': image}) for image in views(jnp.asarray(batch['image']))]
            return np.asarray(self.task.average(jnp.stack(several)))
        return np.asarray(self.apply(self.leaves, {k: jnp.asarray(v) for k, v in batch.items() if k in self.net.batch_keys}))

    def predict(self, examples: Sequence[np.ndarray | Text], batch_size: int = 32, views: Views | None = None) -> list[dict[str, Any]]:
        """What the task says of each example: {'label', 'probability', ...} for a classification.

        Args:
          examples: pictures, (H, W, C) uint8 of any size; or texts, each a string, or a pair of strings. Of a task that labels words, each
            is a raw sentence (see `jtl.predictions.words_of`) or a sequence of words, and {'words', 'tags', 'entities'} is said of it.
          batch_size: examples that are computed at a time.
          views: made by `jtl.data.views.views_of(names, bundle.preprocessing)`: predictions are averaged over several views of each picture.

        Raises:
          UserError: an empty text, or texts of several kinds.
        """
        if isinstance(self.preprocessing, TextPreprocessing):
            return of_texts(self.outputs, self.task, self.preprocessing, cast(Sequence[Text], examples), batch_size)
        pictures = cast(Sequence[np.ndarray], examples)
        return of_pictures(partial(self.outputs, views=views), self.task, self.preprocessing, pictures, batch_size, views)


def write_bundle(
    directory: epath.PathLike,
    *,
    net: Net,
    leaves: Mapping[str, Any],
    labels: Sequence[str],
    preprocessing: Preprocessing | TextPreprocessing,
    config: Mapping[str, Any],
    metrics: Mapping[str, float],
    golden: Mapping[str, np.ndarray],
    target_shape: tuple[int, ...] | None = None,
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
      target_shape: of one example's target, where that says how many outputs the head has; None: the labels do.
    """
    from safetensors.numpy import save

    target = epath.Path(directory)
    draft = target.parent / f'{target.name}.part'
    if draft.exists():
        draft.rmtree()
    draft.mkdir(parents=True)
    net = replace(net, placement=None)  # computed here, on one device
    host = {path: np.ascontiguousarray(jax.device_get(leaves[path])) for path in sorted(net.shapes)}
    (draft / 'model.safetensors').write_bytes(save(host))
    task = _task(config['task'], labels, target_shape, preprocessing)
    outputs = np.asarray(_compile(net, task, preprocessing)(host, {k: jnp.asarray(v) for k, v in golden.items()}))
    (draft / 'golden.safetensors').write_bytes(
        save({**{f'batch/{k}': np.ascontiguousarray(v) for k, v in golden.items()}, 'outputs': outputs})
    )
    metadata = {
        'format': FORMAT,
        'model': dict(config['model']),
        'task': dict(config['task']),
        'labels': list(labels),
        'target_shape': target_shape,
        'preprocessing': {name: value for name, value in preprocessing.to_json().items() if name != 'tokenizer'},
        'metrics': dict(metrics),
        'golden': {'platform': jax.default_backend()},
        'config': dict(config),
    }
    (draft / 'bundle.json').write_text(json.dumps(metadata, indent=1) + '\n')
    if isinstance(preprocessing, TextPreprocessing):
        (draft / _TOKENIZER).write_bytes(preprocessing.tokenizer.encode())
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
        preprocessing = _preprocessing(metadata['preprocessing'], checkpoint.beside, root)
        labels, model_section, task_section = metadata['labels'], metadata['model'], metadata['task']
        shape = metadata.get('target_shape')
    except (KeyError, TypeError) as error:
        raise CheckpointError(f'{root / "bundle.json"}: not a bundle: {type(error).__name__}: {error}.') from None
    task = _task(task_section, labels, None if shape is None else tuple(shape), preprocessing)
    precision = as_rules(configs.frozen(metadata.get('config', {}).get('precision', ())), optional=True)  # some were for other heads
    net = net_of(build_model(configs.frozen(model_section)), {HEAD: task}, preprocessing.size, precision)
    for path, spec in net.shapes.items():
        found = checkpoint.specs.get(path)
        if found is None or found.shape != spec.shape:
            raise CheckpointError(
                f'{root}: {path} should be {spec.shape}, found {found.shape if found else "nothing"}. Is it of another jtl?'
            )
    leaves = {path: jnp.asarray(checkpoint.read(path)) for path in net.shapes}
    bundle = Bundle(net, leaves, task, preprocessing, metadata, _compile(net, task, preprocessing))
    try:
        golden = load((root / 'golden.safetensors').read_bytes())
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f'{root / "golden.safetensors"}: cannot be read ({error}).') from None
    wanted = golden.pop('outputs')
    outputs = bundle.outputs({name.removeprefix('batch/'): value for name, value in golden.items()})
    # Other hardware multiplies float32 in another precision (TPU in bfloat16 passes).
    same = metadata.get('golden', {}).get('platform') == jax.default_backend()
    told = np.abs(wanted[wanted != ABSENT])  # where there is no word the outputs are a large constant
    bound = (1e-3 if same else 5e-2) * float(told.max(initial=1.0))
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


def _preprocessing(data: Mapping[str, Any], beside: Callable[[str], bytes | None], root: epath.Path) -> Preprocessing | TextPreprocessing:
    """What bundle.json says of it, of texts with the tokenizer that lies beside."""
    if 'buckets' not in data:
        return Preprocessing.from_json(data)
    try:
        tokenizer = json.loads(beside(_TOKENIZER) or b'')
    except ValueError:
        raise CheckpointError(f'{root / _TOKENIZER}: missing or damaged; the model reads text. Copy the bundle whole.') from None
    return TextPreprocessing.from_json({**data, 'tokenizer': tokenizer})


def _task(
    section: Mapping[str, Any],
    labels: Sequence[str],
    target_shape: tuple[int, ...] | None,
    preprocessing: Preprocessing | TextPreprocessing,
) -> Task:
    text = preprocessing if isinstance(preprocessing, TextPreprocessing) else None
    written = {key: value for key, value in section.items() if key != 'data'}
    return build_task(configs.frozen(written), tuple(labels), target_shape, None, text)


def _compile(net: Net, task: Task, preprocessing: Preprocessing | TextPreprocessing) -> Callable[[Any, Any], jax.Array]:
    def run(leaves: Any, batch: Any) -> jax.Array:
        further = {name: spec for name, spec in net.attachments[HEAD].inputs.items() if name in batch}
        inputs, batch = task.hide(prepare_inputs(batch, {**net.inputs, **further}, preprocessing), batch)
        outputs = net.apply(leaves, inputs, heads=[HEAD])[0][HEAD]
        return outputs if task.summary is None else task.summary(outputs, batch)

    return jax.jit(run)
