"""A backbone is a chain of named stages, each from a dict of arrays to a dict of arrays."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from jtl.checkpoint.adapt import NameTable
from jtl.errors import UserError, did_you_mean
from jtl.models.preprocessing import Preprocessing

Features = dict[str, jax.Array]
"""What travels between stages: every leaf has a leading example axis. Fixed names: `image` (B,H,W,C), `map` (B,H,W,C),
`tokens` (B,T,D), `mask` (B,T), `pooled` (B,D), `taps`."""


class Mode(NamedTuple):
    """How a stage runs. Hashable, so that it can be a static argument of `jax.jit` and `nn.remat`.

    Attributes:
      train: dropout and stochastic depth are on.
      batch_statistics: BatchNorm normalises with the statistics of the batch (and offers new running ones), else with the running ones.
    """

    train: bool = False
    batch_statistics: bool = False


EVAL = Mode()


class Stage(NamedTuple):
    """One link of the chain. `make(name=...)` builds a module called as `module(features, mode) -> features`.

    A stage owns the parameter subtree of its name, or nothing (pooling). `tail` stages (final norm, pooler) share the head's
    depth and are not counted by `last`, `gradual` and `layerwise`. `make` is built once: partials compare by identity.
    """

    name: str
    make: Callable[..., nn.Module]
    tail: bool = False


class Backbone(nn.Module):
    """The chain. Runs from any stage to any other with equal results; only the parameters of the stages that run are needed.

    Attributes:
      stages: in order of depth; this order, never that of the parameter dict, is what depth means.
    """

    stages: tuple[Stage, ...]

    @nn.compact
    def __call__(
        self, features: Features, modes: Mapping[str, Mode] | None = None, *, start: str | None = None, stop: str | None = None
    ) -> Features:
        """Run the stages from `start` (default: the first) to before `stop` (default: past the last).

        Args:
          features: what `start` reads; for the first stage, the model's inputs.
          modes: the mode of each stage; stages not named run as in evaluation.
          start, stop: stage names.
        """
        modes = modes or {}
        for stage in self.between(start, stop):
            features = stage.make(name=stage.name)(features, modes.get(stage.name, EVAL))
        return features

    def between(self, start: str | None = None, stop: str | None = None) -> tuple[Stage, ...]:
        """The stages from `start` to before `stop`. UserError for an unknown name."""
        names = [stage.name for stage in self.stages]
        for name in (start, stop):
            if name is not None and name not in names:
                raise UserError(f'The backbone has no stage {name!r}. {did_you_mean(name, names)}'.rstrip())
        first = 0 if start is None else names.index(start)
        last = len(names) if stop is None else names.index(stop)
        return self.stages[first:last]


@dataclass(frozen=True)
class Weights:
    """A kind of checkpoint that a family can load: its name table, and what images the weights were trained on.

    Attributes:
      table: from the checkpoint's keys to jtl's paths.
      preprocessing: of these weights (it belongs to them, not to the architecture).
      licence: SPDX identifier of the known weights in this layout, '' where they differ.
    """

    table: NameTable
    preprocessing: Preprocessing
    licence: str = ''


@dataclass(frozen=True)
class Model:
    """What a family function returns: the backbone, what it reads, and the checkpoints it knows.

    Attributes:
      backbone: without task-owned stages (pooling).
      inputs: from an image size (height, width) to shape and dtype of one example's inputs, no batch axis; the names are batch keys.
      preprocessing: used from scratch; known weights bring their own.
      weights: tried in order on a foreign checkpoint; the first whose table fits is used.
    """

    backbone: Backbone
    inputs: Callable[[tuple[int, int]], dict[str, jax.ShapeDtypeStruct]]
    preprocessing: Preprocessing
    weights: tuple[Weights, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
