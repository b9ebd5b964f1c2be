"""A backbone and the heads on it as functions of flat leaves: what the step, the evaluation and a bundle run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jtl.errors import UserError
from jtl.keys import derive
from jtl.models.base import EVAL, Backbone, Features, Mode, flatten, init_shapes, unflatten
from jtl.parallel.placement import Placement

Leaves = Mapping[str, Any]
"""Parameters and BatchNorm statistics by flat path."""


@dataclass(frozen=True)
class Attachment:
    """Where a head is attached to the backbone, and what it shares with it.

    Attributes:
      stop: the stage before which the head reads the features; None: it reads what the last one gives.
      inputs: shape and dtype, without batch axis, of further inputs that travel through the backbone to the head.
      ties: name of a parameter of the head -> path of the backbone's parameter that is used in its place; it is no leaf of its own.
    """

    stop: str | None = None
    inputs: Mapping[str, jax.ShapeDtypeStruct] = field(default_factory=dict)
    ties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Net:
    """Made by `make_net`.

    Attributes:
      backbone: with the tasks' own stages (pooling) at its end.
      heads: the head module of each task.
      attachments: of each head.
      inputs: shape and dtype of one example's inputs, without batch axis.
      params: shape and dtype of every parameter, `backbone/...` in stage order, then `heads/<task>/...`.
      stats: the same for every BatchNorm statistic.
      placement: on a mesh of several devices; None on one.
    """

    backbone: Backbone
    heads: Mapping[str, nn.Module]
    attachments: Mapping[str, Attachment]
    inputs: Mapping[str, jax.ShapeDtypeStruct]
    params: Mapping[str, jax.ShapeDtypeStruct]
    stats: Mapping[str, jax.ShapeDtypeStruct]
    placement: Placement | None = None

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Parameters and statistics together."""
        return {**self.params, **self.stats}

    @property
    def batch_keys(self) -> frozenset[str]:
        """What of a batch may be read: the inputs of backbone and heads, and the positions in the split, by which tasks hide words."""
        return frozenset({'index', *self.inputs, *(name for attached in self.attachments.values() for name in attached.inputs)})

    def computes_in(self, dtype: DTypeLike) -> bool:
        """Whether the arithmetic of any stage or head is of this dtype, as far as their modules say it in a field `dtype`."""
        stages = (getattr(stage.make, 'keywords', {}).get('dtype') for stage in self.backbone.stages)
        said = (*stages, *(getattr(head, 'dtype', None) for head in self.heads.values()))
        return any(jnp.dtype(one) == jnp.dtype(dtype) for one in said if one is not None)

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
        """Run the backbone and the heads named (default: all), no further than these read.

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
        modes, constrain = modes or {}, None
        if self.placement is not None:
            leaves, constrain = self.placement.read(leaves), self.placement.of_batch
        rngs = {} if key is None else {'dropout': derive(key, 'backbone')}
        variables = {'params': unflatten(self._of(leaves, self.params), 'backbone')}
        stats = unflatten(self._of(leaves, self.stats), 'backbone')
        if stats:
            variables['batch_stats'] = stats
        outputs: dict[str, Any] = {}
        found = dict(stats)
        features, start = inputs, None
        for stop, names in self._by_stop(self.heads if heads is None else heads):
            features, changed = self.backbone.apply(
                variables, features, modes, start=start, stop=stop, constrain=constrain, rngs=rngs, mutable=['batch_stats']
            )
            found |= changed.get('batch_stats', {})
            start = stop
            for name in names:
                head_rngs = {} if key is None else {'dropout': derive(key, 'heads', name)}
                params = unflatten(leaves, f'heads/{name}') | {k: leaves[path] for k, path in self.attachments[name].ties.items()}
                outputs[name] = self.heads[name].apply({'params': params}, features, head_mode, rngs=head_rngs)
        return outputs, flatten(found, 'backbone')

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
        for name in wanted:
            features = _zeros(_features(self.backbone, self.inputs, self.attachments[name]))
            tied = {k: jnp.zeros(self.params[path].shape, self.params[path].dtype) for k, path in self.attachments[name].ties.items()}
            found |= flatten(_head_params(self.heads[name], derive(key, 'heads', name), features, tied), f'heads/{name}')
        return {path: found[path] for path in paths}

    def read_by(self, head: str) -> frozenset[str]:
        """The parameters that the outputs of a head depend on, by name: its own, those of the stages before it, and of no stage."""
        read = [stage.name for stage in self.backbone.between(None, self.attachments[head].stop)]
        unread = {stage.name for stage in self.backbone.stages} - set(read)
        return frozenset(
            path
            for path in self.params
            if path.startswith(f'heads/{head}/') or (path.startswith('backbone/') and path.split('/')[1] not in unread)
        )

    def only(self, head: str) -> 'Net':
        """The net with one of its heads."""
        params = {path: spec for path, spec in self.params.items() if not path.startswith('heads/') or path.startswith(f'heads/{head}/')}
        return replace(self, heads={head: self.heads[head]}, attachments={head: self.attachments[head]}, params=params)

    def _by_stop(self, heads: Iterable[str]) -> list[tuple[str | None, list[str]]]:
        """Heads in groups that read the same features, in the order of the chain; without heads the whole chain."""
        names = [stage.name for stage in self.backbone.stages]
        groups: dict[str | None, list[str]] = {}
        for name in heads:
            groups.setdefault(self.attachments[name].stop, []).append(name)
        return sorted((groups or {None: []}).items(), key=lambda item: len(names) if item[0] is None else names.index(item[0]))

    def _of(self, leaves: Leaves, known: Mapping[str, Any]) -> dict[str, Any]:
        return {path: leaf for path, leaf in leaves.items() if path in known}


def make_net(
    backbone: Backbone,
    heads: Mapping[str, nn.Module],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    attachments: Mapping[str, Attachment] | None = None,
) -> Net:
    """A `Net` with its shapes, from shapes alone.

    Args:
      backbone: with the tasks' own stages.
      heads: called as `head(features, mode)`.
      inputs: of one example, as `Model.inputs` gives them.
      attachments: of the heads; those left out read what the backbone ends with.

    Raises:
      UserError: a head is tied to a parameter that the backbone does not have.
    """
    attachments = {name: (attachments or {}).get(name, Attachment()) for name in heads}
    params, stats = init_shapes(backbone, inputs)
    order = [stage.name for stage in backbone.stages]
    params = dict(sorted(params.items(), key=lambda item: _position(item[0], order)))
    stats = dict(sorted(stats.items(), key=lambda item: _position(item[0], order)))
    key = jax.eval_shape(partial(jax.random.key, 0))
    for name, head in heads.items():
        features = _features(backbone, inputs, attachments[name])
        missing = [path for path in attachments[name].ties.values() if path not in params]
        if missing:
            raise UserError(f'The head {name!r} shares {missing[0]} with the backbone, which has no such parameter.')
        ties = {k: params[path] for k, path in attachments[name].ties.items()}
        own = flatten(jax.eval_shape(partial(_head_params, head), key, features, ties), f'heads/{name}')
        params |= {path: spec for path, spec in own.items() if path.removeprefix(f'heads/{name}/') not in ties}
    return Net(backbone, dict(heads), attachments, dict(inputs), params, stats)


def _head_params(head: nn.Module, key: jax.Array, features: Features, tied: Mapping[str, Any]) -> dict[str, Any]:
    """A head's initial parameters beside the tied ones, whose shapes may decide theirs."""
    return head.apply({'params': dict(tied)}, features, rngs={'params': key}, mutable=['params'])[1].get('params', {})


def _position(path: str, order: list[str]) -> int:
    name = path.split('/')[1]
    return order.index(name) if name in order else -1


def _features(backbone: Backbone, inputs: Mapping[str, jax.ShapeDtypeStruct], attachment: Attachment) -> Any:
    """Shapes of the features that a head reads, for one example."""

    def run(key: jax.Array, batch: Any) -> Any:
        return backbone.init_with_output(key, batch, stop=attachment.stop)[0]

    batch = {k: jax.ShapeDtypeStruct((1, *s.shape), s.dtype) for k, s in {**inputs, **attachment.inputs}.items()}
    return jax.eval_shape(run, jax.eval_shape(partial(jax.random.key, 0)), batch)


def _zeros(shapes: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
