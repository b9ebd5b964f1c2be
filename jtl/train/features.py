"""The features of whole splits: the backbone run once over every example as in evaluation, and kept on disk.

A file of the cache is named by a digest of all that its numbers follow from: the computation itself (as it is lowered), the values of the
parameters that take part in it, how pictures are prepared, the content of the examples in their order, and the kind of device. Whatever
changes makes another name, so nothing in a cache ever has to be thrown away for being out of date.
"""

import hashlib
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Float

from jtl.bundle import Bundle
from jtl.checkpoint.runs import checksums
from jtl.data.base import Split, content_digest
from jtl.data.inputs import prepare_inputs
from jtl.data.pipeline import eval_batches, eval_order
from jtl.errors import UserError
from jtl.models.base import stage_of, unflatten
from jtl.models.net import Net
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing
from jtl.parallel.mesh import local_rows, make_mesh, put_batch
from jtl.parallel.placement import Placement, place
from jtl.report.format import duration
from jtl.tasks.base import Task
from jtl.train.setup import Experiment
from jtl.train.step import compile_predict

_FORMAT = 1  # part of every key: raise it where jtl prepares pictures otherwise than before


@dataclass(frozen=True)
class FeatureModel:
    """What gives features.

    Attributes:
      net, leaves: the function and its parameters.
      task: its own stages (pooling) make `pooled` of what the backbone gives.
      preprocessing: of the weights.
      placement: of the leaves on a mesh of devices.
      batch_size: examples at a time, over all devices; rounded up to what divides over them.
      stage: the last stage that runs before the pooling; '' for the whole backbone.
      workers: processes that read; 0: threads.
    """

    net: Net
    leaves: Mapping[str, jax.Array]
    task: Task
    preprocessing: Preprocessing | TextPreprocessing
    placement: Placement
    batch_size: int = 32
    stage: str = ''
    workers: int = 0

    def __post_init__(self) -> None:
        """UserError for a stage that the backbone does not have."""
        self.net.backbone.between(self.stage or None)


def of_experiment(experiment: Experiment, leaves: Mapping[str, jax.Array], stage: str = '') -> FeatureModel:
    """The features of a run's backbone with these leaves."""
    config = experiment.config
    size = config['eval_batch_size'] or config['batch_size']
    return FeatureModel(
        experiment.net, leaves, experiment.task, experiment.preprocessing, experiment.placement, size, stage, config['data']['workers']
    )


def of_bundle(bundle: Bundle, stage: str = '') -> FeatureModel:
    """The features of a bundle's backbone, on all devices."""
    whole, _ = place(make_mesh({'data': -1}), {path: leaf.shape for path, leaf in bundle.leaves.items()}, rules=(('.*', 'whole'),))
    return FeatureModel(bundle.net, bundle.leaves, bundle.task, bundle.preprocessing, whole, stage=stage)


def feature_step(model: FeatureModel) -> Callable[[Any, Any], Float[jax.Array, 'b d']]:
    """`(leaves, batch) -> (B, D)` float32, not yet compiled.

    The backbone runs to the end of `model.stage` and the task pools what that gives. Where it gives tokens, the backbone's own tail (final
    norm, pooler) comes in between, as in DINOv2 (Oquab et al. 2023) for the tokens of a block in the middle. UserError where that
    makes no `pooled`.
    """
    net, own = model.net, [stage.name for stage in model.task.stages]
    after = _after(model)

    def step(leaves: Any, batch: Any) -> Float[jax.Array, 'b d']:
        variables = {'params': unflatten({path: leaf for path, leaf in leaves.items() if path in net.params}, 'backbone')}
        stats = unflatten({path: leaf for path, leaf in leaves.items() if path in net.stats}, 'backbone')
        if stats:
            variables['batch_stats'] = stats
        found: Any = net.backbone.apply(variables, prepare_inputs(batch, net.inputs, model.preprocessing), stop=after)
        if after is not None:
            rest = [stage.name for stage in net.backbone.between(after) if stage.tail]
            start = rest[:1] if 'tokens' in found and found.keys().isdisjoint(('map', 'pooled')) else own[:1]
            found = net.backbone.apply(variables, found, start=start[0]) if start else found
        if 'pooled' not in found or found['pooled'].ndim != 2:
            raise UserError(
                f'Features are (examples, width), but the backbone gives {", ".join(found)} here. Choose a task.pool that pools them.'
            )
        return found['pooled'].astype(jnp.float32)

    return step


def features(
    model: FeatureModel, splits: Mapping[str, Split], cache: epath.PathLike | None = None, say: Callable[[str], None] = print
) -> dict[str, Float[np.ndarray, 'n d']]:
    """The features of every example of each split, in order, float32; read from the cache, or computed and kept there.

    Args:
      model: see `FeatureModel`.
      splits: by name; those without examples are left out.
      cache: a directory, made where needed; None: nothing is kept.
      say: takes a line for each split, and one for each file that is damaged (it is replaced) or cannot be written.

    Raises:
      UserError: nothing to pool at that stage, or an example that cannot be read.
    """
    leaves = _taking_part(model)
    run = compile_predict(feature_step(model), model.placement, leaves)
    computation = _computation(model, leaves) if cache is not None else ''
    found = {}
    for name, split in splits.items():
        if not len(split):
            continue
        path = epath.Path(cache).expanduser() / f'{name}-{_key(computation, split)}.safetensors' if cache is not None else None
        kept = _read(path, len(split), say) if path is not None and path.exists() else None
        if kept is not None:
            found[name] = kept
            say(f'Features of {name}: {_size(kept)}, read from {path}.')
            continue
        began = time.monotonic()
        found[name] = _compute(run, jax.device_put(leaves, model.placement.leaves(leaves)), model, split)
        where = _write(path, found[name]) if path is not None else ''
        say(f'Features of {name}: {_size(found[name])}, computed in {duration(time.monotonic() - began)}{where}.')
    return found


def _compute(run: Callable[[Any, Any], jax.Array], leaves: Mapping[str, jax.Array], model: FeatureModel, split: Split) -> np.ndarray:
    over = model.placement.batch_parts
    size = -(-model.batch_size // over) * over
    batches = eval_batches(
        split, batch_size=size, preprocessing=model.preprocessing, rows=local_rows(model.placement.mesh, size), workers=model.workers
    )
    rows = [jax.device_get(run(leaves, put_batch(batch, model.placement.mesh))) for batch in batches]
    return np.concatenate(rows)[: len(split)][np.argsort(eval_order(split))]


def _after(model: FeatureModel) -> str | None:
    """The stage that comes after `model.stage`; None after the last."""
    rest = model.net.backbone.between(model.stage)[1:] if model.stage else ()
    return rest[0].name if rest else None


def _taking_part(model: FeatureModel) -> dict[str, jax.Array]:
    """The leaves of the stages up to the cut, of the tail, and of no stage in particular."""
    stages, after = model.net.backbone.stages, _after(model)
    running = {None, *(stage.name for stage in model.net.backbone.between(None, after)), *(stage.name for stage in stages if stage.tail)}
    return {path: leaf for path, leaf in model.leaves.items() if path.startswith('backbone/') and stage_of(path, stages) in running}


def _computation(model: FeatureModel, leaves: Mapping[str, jax.Array]) -> str:
    """A digest of the computation, of the values that take part in it, and of where it runs."""
    batch = {name: jax.ShapeDtypeStruct((2, *s.shape), np.uint8 if name == 'image' else s.dtype) for name, s in model.net.inputs.items()}
    shapes = {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in leaves.items()}
    lowered = jax.jit(feature_step(model)).lower(shapes, batch).as_text()
    device = model.placement.mesh.devices.flat[0]
    return _digest(_FORMAT, lowered, checksums(leaves), model.preprocessing.to_json(), device.platform, device.device_kind)


def _key(computation: str, split: Split) -> str:
    """The computation and the content of the examples in their order, in 32 digits; what the targets are does not matter."""
    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool:  # reading and hashing release the interpreter lock
        contents = [digest.hex() for digest in pool.map(lambda index: content_digest(split.examples, index), range(len(split)))]
    return _digest(computation, contents)[:32]


def _read(path: epath.Path, rows: int, say: Callable[[str], None]) -> np.ndarray | None:
    """What `_write` wrote; None, said aloud, where that is not what the file holds now."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        raw = path.read_bytes()
        found = load(raw)['features']
        said = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], 'little')])['__metadata__']['sha256']
    except (OSError, SafetensorError, ValueError, LookupError) as error:
        why = f'{type(error).__name__}: {error}'
    else:
        if said == _content(found) and len(found) == rows:
            return found
        why = 'its content does not fit its checksum'
    say(f'{path}: these kept features are damaged ({why}); they are computed anew.')
    return None


def _write(path: epath.Path, found: np.ndarray) -> str:
    """Write a file whole or not at all, beside others that may write the same. How to say so."""
    from safetensors.numpy import save

    draft = path.parent / f'{path.name}.{secrets.token_hex(4)}.part'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(save({'features': found}, metadata={'sha256': _content(found)}))
        draft.replace(path)
    except OSError as error:
        return f', but not kept: {path} cannot be written ({error.strerror or error})'
    return f', kept in {path}'


def _content(found: np.ndarray) -> str:
    return hashlib.sha256(repr((found.shape, found.dtype.str)).encode() + np.ascontiguousarray(found).tobytes()).hexdigest()


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _size(found: np.ndarray) -> str:
    return f'{found.shape[0]:,} x {found.shape[1]:,}'
