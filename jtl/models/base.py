"""A backbone is a chain of named stages, each from a dict of arrays to a dict of arrays."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from jtl.checkpoint.adapt import NameTable
from jtl.errors import UserError, did_you_mean
from jtl.models.preprocessing import Preprocessing, for_channels

Features = dict[str, jax.Array]
"""What travels between stages: every leaf has a leading example axis. Fixed names: `image` (B,H,W,C), `map` (B,H,W,C),
`tokens` (B,T,D), `mask` (B,T), `pooled` (B,D), `taps`."""


WORDS = 'backbone/embeddings/word/embedding'
"""Where every text model keeps its word table (V, D), so that word vectors can be loaded into it and a language model's head can be tied to it."""


class Mode(NamedTuple):
    """How a stage runs. Hashable, so that it can be a static argument of `jax.jit` and `nn.remat`.

    Attributes:
      train: dropout and stochastic depth are on.
      batch_statistics: BatchNorm normalises with the statistics of the batch and offers new running ones (apply with
        `mutable=['batch_stats']`), else with the running ones.
    """

    train: bool = False
    batch_statistics: bool = False


EVAL = Mode()

ATTENTION_AND_MLP = (
    (r'backbone/.*attention/(query|key|value)/(kernel|bias)', ('tensor', -1)),
    (r'backbone/.*attention/out/kernel', ('tensor', 0)),
    (r'backbone/.*mlp/fc1/(kernel|bias)', ('tensor', -1)),
    (r'backbone/.*mlp/fc2/kernel', ('tensor', 0)),
)
"""Sharding rules of a transformer (Shoeybi et al. 2019, Megatron-LM): the first matrix of a pair by columns (heads, hidden units), the second by
rows, so that one sum over the axis ends each branch. See `jtl.parallel.placement`."""


class Stage(NamedTuple):
    """One link of the chain. `make(name=...)` builds a module called as `module(features, mode) -> features`.

    A stage owns the parameter subtree of its name, or nothing (pooling). `tail` stages (final norm, pooler) share the head's
    depth and are not counted by `last`, `gradual` and `layerwise`. `make` is built once: partials compare by identity. `output` is the dtype
    in which the stage hands on what it computes in floating point; None: as it comes.
    """

    name: str
    make: Callable[..., nn.Module]
    tail: bool = False
    output: Any = None


class Backbone(nn.Module):
    """The chain. Runs from any stage to any other with equal results; only the parameters of the stages that run are needed.

    Attributes:
      stages: in order of depth; this order, never that of the parameter dict, is what depth means.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        """Raises UserError for stage names that cannot be parts of a path, or that occur twice."""
        names = [stage.name for stage in self.stages]
        wrong = sorted({name for name in names if names.count(name) > 1 or not name or '/' in name})
        if wrong:
            raise UserError(f'Stage names must be unique and without "/", found {", ".join(map(repr, wrong))} among {", ".join(names)}.')
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        features: Features,
        modes: Mapping[str, Mode] | None = None,
        *,
        start: str | None = None,
        stop: str | None = None,
        constrain: Callable[[Features], Features] | None = None,
    ) -> Features:
        """Run the stages from `start` (default: the first) to before `stop` (default: past the last).

        Args:
          features: what `start` reads; for the first stage, the model's inputs.
          modes: the mode of each stage; stages not named run as in evaluation.
          start, stop: stage names.
          constrain: says where the features behind every stage lie on a mesh.

        Raises:
          UserError: `start`, `stop` or a key of `modes` is no stage, or `stop` comes before `start`.
        """
        modes = modes or {}
        for name in modes:
            self._index(name)
        for stage in self.between(start, stop):
            features = stage.make(name=stage.name)(features, modes.get(stage.name, EVAL))
            if stage.output is not None:
                features = {k: x.astype(stage.output) if jnp.issubdtype(x.dtype, jnp.floating) else x for k, x in features.items()}
            features = constrain(features) if constrain else features
        return features

    def between(self, start: str | None = None, stop: str | None = None) -> tuple[Stage, ...]:
        """The stages from `start` to before `stop`. UserError for an unknown name."""
        first = 0 if start is None else self._index(start)
        last = len(self.stages) if stop is None else self._index(stop)
        if last < first:
            raise UserError(f'The backbone cannot run from {start!r} to {stop!r}: {stop!r} comes first.')
        return self.stages[first:last]

    def _index(self, name: str) -> int:
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise UserError(f'The backbone has no stage {name!r}. {did_you_mean(name, names)}'.rstrip())
        return names.index(name)


def with_stages(backbone: Backbone, extra: Sequence[Stage]) -> Backbone:
    """The backbone with a task's own stages (pooling) at its end, so that a cut may lie after them. UserError for a name taken."""
    return Backbone(stages=(*backbone.stages, *extra))


def take_map(features: Features) -> tuple[jax.Array, Features]:
    """What a convolution reads, the `map` or at the first stage the `image`, (B,H,W,C), and the features without them."""
    rest = {name: value for name, value in features.items() if name not in ('image', 'map')}
    return features['map'] if 'map' in features else features['image'], rest


def depths(stages: Sequence[Stage]) -> dict[str, int]:
    """The depth of each stage, 0 for the first. Tail stages are not counted: they share the depth of the head, which is the number of the others."""
    counted = [stage.name for stage in stages if not stage.tail]
    return {stage.name: len(counted) if stage.tail else counted.index(stage.name) for stage in stages}


def stage_of(path: str, stages: Sequence[Stage]) -> str | None:
    """The stage that owns the leaf at `path` (`backbone/<stage>/...`); None for a path outside the backbone's stages (a head)."""
    root, _, rest = path.partition('/')
    name = rest.partition('/')[0]
    return name if root == 'backbone' and any(stage.name == name for stage in stages) else None


def flatten(tree: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """A nested dict, as Linen holds variables, as one flat dict whose keys are slash paths below `prefix`.

    >>> flatten({'stem': {'kernel': 1}}, 'backbone')
    {'backbone/stem/kernel': 1}
    """
    return {f'{prefix}/{path}' if prefix else path: leaf for path, leaf in traverse_util.flatten_dict(tree, sep='/').items()}


def unflatten(flat: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """The inverse of `flatten`, of the leaves below `prefix` alone.

    >>> unflatten({'backbone/stem/kernel': 1, 'heads/main/bias': 2}, 'backbone')
    {'stem': {'kernel': 1}}
    """
    start = f'{prefix}/' if prefix else ''
    return traverse_util.unflatten_dict({path.removeprefix(start): leaf for path, leaf in flat.items() if path.startswith(start)}, sep='/')


def init_shapes(
    backbone: Backbone, inputs: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
    """Shapes and dtypes of all parameters and all BatchNorm statistics, by flat path `backbone/...`; nothing is allocated.

    Args:
      backbone: with or without a task's stages.
      inputs: of one example, without batch axis, as `Model.inputs` gives them.
    """
    batch = {name: jax.ShapeDtypeStruct((1, *spec.shape), spec.dtype) for name, spec in inputs.items()}
    variables = jax.eval_shape(backbone.init, jax.eval_shape(lambda: jax.random.key(0)), batch)
    return flatten(variables.get('params', {}), 'backbone'), flatten(variables.get('batch_stats', {}), 'backbone')


@dataclass(frozen=True)
class Weights:
    """A kind of checkpoint that a family can load: its name table, and what images the weights were trained on.

    Attributes:
      table: from the checkpoint's keys to jtl's paths.
      preprocessing: of these weights (it belongs to them, not to the architecture); None for text, whose tokenizer lies beside the weights.
      licence: SPDX identifier of the known weights in this layout, '' where they differ.
    """

    table: NameTable
    preprocessing: Preprocessing | None
    licence: str = ''


def weights_for_channels(weights: Sequence[Weights], channels: int) -> tuple[Weights, ...]:
    """The same weights for pictures of so many channels; see `jtl.models.preprocessing.for_channels`."""
    return tuple(replace(w, preprocessing=for_channels(w.preprocessing, channels)) if w.preprocessing else w for w in weights)


@dataclass(frozen=True)
class Model:
    """What a family function returns: the backbone, what it reads, and the checkpoints it knows.

    Attributes:
      backbone: without task-owned stages (pooling).
      inputs: from an image size (height, width), or a number of tokens (T,), to shape and dtype of one example's inputs, no batch axis; the
        names are batch keys: 'image'; 'ids' and 'segments' (T,) int32 and 'mask' (T,) bool, true where a token is real.
      preprocessing: used from scratch; known weights bring their own. None for text.
      weights: tried in order on a foreign checkpoint; the first whose table fits is used.
      vocabulary: rows of the word table `WORDS`; 0 where the model reads no words.
      positions: the longest sequence the model can read, tokens; 0: any.
      sharding: rules for the axis `tensor`, see `jtl.parallel.placement`.
    """

    backbone: Backbone
    inputs: Callable[[Any], dict[str, jax.ShapeDtypeStruct]]
    preprocessing: Preprocessing | None
    weights: tuple[Weights, ...] = ()
    vocabulary: int = 0
    positions: int = 0
    sharding: tuple[tuple[str, Any], ...] = ()
