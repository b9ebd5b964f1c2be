"""What tests of text encoders share: the way from a checkpoint to jtl's features and to the outputs of a kept head."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from scipy.special import erf

from jtl.checkpoint.adapt import LeafOrigin, Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint
from jtl.models.base import WORDS, Features, Model, flatten, init_shapes, unflatten
from jtl.tasks.heads import Head

HEAD = 'heads/main'


def origins(model: Model, checkpoint: Checkpoint, head: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, LeafOrigin]:
    """Where all leaves of the backbone and of a head are read from, as `init_from` finds it; with a head as `init_head='keep'` does.

    Args:
      model: of any text family.
      checkpoint: open.
      head: shapes of its parameters.
    """
    heads = {f'{HEAD}/{path}': jax.ShapeDtypeStruct(shape, np.float32) for path, shape in (head or {}).items()}
    targets = {**init_shapes(model.backbone, model.inputs((2,)))[0], **heads}
    table = choose_table(checkpoint, [weights.table for weights in model.weights], targets)
    found = adapt(targets, {'': Source(checkpoint, table)}, head='keep' if heads else 'new').origins
    assert all(origin.status != 'new' for origin in found.values())
    return dict(found)


def load(model: Model, checkpoint: Checkpoint, head: Mapping[str, tuple[int, ...]] | None = None) -> dict[str, np.ndarray]:
    """The leaves of `origins`, read."""
    return {path: read(origin, checkpoint) for path, origin in origins(model, checkpoint, head).items()}


def run(model: Model, leaves: dict[str, Any], inputs: dict[str, np.ndarray]) -> Features:
    """What the backbone ends with."""
    wanted = model.inputs(inputs['ids'].shape[1:])
    return model.backbone.apply({'params': unflatten(leaves, 'backbone')}, {name: inputs[name] for name in wanted})


def dense_head(width: int, outputs: int, hidden: tuple[int, ...] = (), activation: str = 'relu') -> tuple[Head, dict[str, tuple[int, ...]]]:
    """jtl's linear or MLP head, and the shapes of its parameters."""
    head = Head(outputs, hidden, activation=activation)
    variables = jax.eval_shape(head.init, jax.random.key(0), {'pooled': jax.ShapeDtypeStruct((1, width), np.float32)})
    return head, {path: leaf.shape for path, leaf in flatten(variables['params']).items()}


def dense_outputs(head: Head, leaves: dict[str, Any], x: Any) -> np.ndarray:
    """The head's outputs on vectors (..., D)."""
    out = head.apply({'params': unflatten(leaves, HEAD)}, {'pooled': x.reshape(-1, x.shape[-1])})
    return np.asarray(out).reshape(*x.shape[:-1], -1)


def words_head(width: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the parameters of a masked language model's head, whose last layer is the word table."""
    return {
        'transform/kernel': (width, width),
        'transform/bias': (width,),
        'norm/scale': (width,),
        'norm/bias': (width,),
        'bias': (vocabulary,),
    }


def words_outputs(leaves: dict[str, Any], tokens: Any, epsilon: float) -> np.ndarray:
    """Logits (B,T,V) of every word by that head, by hand: dense, GELU, norm, word table."""
    p = {path: leaves[f'{HEAD}/{path}'] for path in ('transform/kernel', 'transform/bias', 'norm/scale', 'norm/bias', 'bias')}
    x = np.asarray(tokens) @ p['transform/kernel'] + p['transform/bias']
    x = x * 0.5 * (1 + erf(x / 2**0.5))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon) * p['norm/scale'] + p['norm/bias']
    return x @ np.asarray(leaves[WORDS]).T + p['bias']
