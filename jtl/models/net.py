"""A backbone and the heads on it as functions of flat leaves: what the step, the evaluation and a bundle run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jtl.keys import derive
from jtl.models.base import EVAL, Backbone, Features, Mode, flatten, init_shapes, unflatten

Leaves = Mapping[str, Any]
"""Parameters and BatchNorm statistics by flat path."""


@dataclass(frozen=True)
class Net:
    """Made by `make_net`.

    Attributes:
      backbone: with the tasks' own stages (pooling) at its end.
      heads: the head module of each task.
      inputs: shape and dtype of one example's inputs, without batch axis.
      params: shape and dtype of every parameter, `backbone/...` in stage order, then `heads/<task>/...`.
      stats: the same for every BatchNorm statistic.
    """

    backbone: Backbone
    heads: Mapping[str, nn.Module]
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    params: Mapping[str, jax.ShapeDtypeStruct]
    stats: Mapping[str, jax.ShapeDtypeStruct]

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Parameters and statistics together."""
        return {**self.params, **self.stats}

    def apply(
        self,
        leaves: Leaves,
        inputs: Features,
        *,
        modes: Mapping[str, Mode] | None = None,
        head_mode: Mode = EVAL,
        key: jax.Array | None = None,
        heads: Iterable[str] | None = None,
    ) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """Run the backbone and the heads named (default: all).

        Args:
          leaves: all parameters and statistics of what runs; more do no harm.
          inputs: with a leading example axis.
          modes: of each stage; stages not named run as in evaluation.
          head_mode: of the heads.
          key: for dropout and stochastic depth; needed where a mode trains.
          heads: names of the heads to compute.

        Returns:
          The outputs of each head, and the new running statistics by path (of stages whose mode uses batch statistics; else as given).
        """
        modes = modes or {}
        rngs = {} if key is None else {'dropout': derive(key, 'backbone')}
        variables = {'params': unflatten(self._of(leaves, self.params), 'backbone')}
        stats = unflatten(self._of(leaves, self.stats), 'backbone')
        if stats:
            variables['batch_stats'] = stats
        features, changed = self.backbone.apply(variables, inputs, modes, rngs=rngs, mutable=['batch_stats'])
        outputs: dict[str, Any] = {}
        for name in self.heads if heads is None else heads:
            head_rngs = {} if key is None else {'dropout': derive(key, 'heads', name)}
            outputs[name] = self.heads[name].apply({'params': unflatten(leaves, f'heads/{name}')}, features, head_mode, rngs=head_rngs)
        return outputs, flatten(changed.get('batch_stats', {}), 'backbone')

    def init(self, key: jax.Array, paths: Iterable[str]) -> dict[str, jax.Array]:
        """Initial values of the leaves at `paths` alone, keyed by path: other stages or heads do not change them.

        Traceable: under jit, what is not asked for is not computed.
        """
        paths = list(paths)
        inputs = jax.tree.map(lambda s: jnp.zeros((1, *s.shape), s.dtype), dict(self.inputs))
        found: dict[str, Any] = {}
        if any(path.startswith('backbone/') for path in paths):
            variables = self.backbone.init(derive(key, 'backbone'), inputs)
            found |= flatten(variables.get('params', {}), 'backbone') | flatten(variables.get('batch_stats', {}), 'backbone')
        wanted = [name for name in self.heads if any(path.startswith(f'heads/{name}/') for path in paths)]
        if wanted:
            features = _zeros(_features(self.backbone, inputs))
            for name in wanted:
                found |= flatten(self.heads[name].init(derive(key, 'heads', name), features)['params'], f'heads/{name}')
        return {path: found[path] for path in paths}

    def _of(self, leaves: Leaves, known: Mapping[str, Any]) -> dict[str, Any]:
        return {path: leaf for path, leaf in leaves.items() if path in known}


def make_net(backbone: Backbone, heads: Mapping[str, nn.Module], inputs: Mapping[str, jax.ShapeDtypeStruct]) -> Net:
    """A `Net` with its shapes, from shapes alone.

    Args:
      backbone: with the tasks' own stages.
      heads: called as `head(features, mode)`.
      inputs: of one example, as `Model.inputs` gives them.
    """
    params, stats = init_shapes(backbone, inputs)
    order = [stage.name for stage in backbone.stages]
    params = dict(sorted(params.items(), key=lambda item: _position(item[0], order)))
    stats = dict(sorted(stats.items(), key=lambda item: _position(item[0], order)))
    features = _features(backbone, {k: jax.ShapeDtypeStruct((1, *s.shape), s.dtype) for k, s in inputs.items()})
    key = jax.eval_shape(partial(jax.random.key, 0))
    for name, head in heads.items():
        params |= flatten(jax.eval_shape(head.init, key, features).get('params', {}), f'heads/{name}')
    return Net(backbone, dict(heads), dict(inputs), params, stats)


def _position(path: str, order: list[str]) -> int:
    name = path.split('/')[1]
    return order.index(name) if name in order else -1


def _features(backbone: Backbone, inputs: Mapping[str, Any]) -> Any:
    def run(key: jax.Array, batch: Any) -> Any:
        return backbone.init_with_output(key, batch)[0]

    return jax.eval_shape(run, jax.eval_shape(partial(jax.random.key, 0)), dict(inputs))


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
