"""Dynamic loss scaling for float16, whose smallest gradients would vanish (Micikevicius et al. 2018, Mixed Precision Training).

The loss is multiplied by a scale before it is differentiated, and the gradients are divided by it. A step whose gradients overflow is left
out, and halves the scale; after PATIENCE steps without one it doubles. bfloat16 has the range of float32 and needs none of this.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

FIRST = 2.0**15
PATIENCE = 2000

LossScale = Mapping[str, Any]
"""`scale` () float32, `good` () int32: steps since it last changed. Empty where nothing is scaled."""


def initial() -> dict[str, np.ndarray]:
    """The scale of the first step of a phase, on the host."""
    return {'scale': np.full((), FIRST, np.float32), 'good': np.zeros((), np.int32)}


def unscaled(grads: Any, by: LossScale) -> Any:
    """The gradients divided by the scale, in their dtypes."""
    return jax.tree.map(lambda g: (g.astype(jnp.float32) / by['scale']).astype(g.dtype), grads)


def adjusted(by: LossScale, finite: jax.Array) -> dict[str, jax.Array]:
    """The scale of the next step. It does not fall below 1: gradients that overflow there are no matter of scale."""
    grown = by['good'] + 1 >= PATIENCE
    scale = jnp.where(finite, jnp.where(grown, 2 * by['scale'], by['scale']), jnp.maximum(by['scale'] / 2, 1.0))
    return {'scale': scale, 'good': jnp.where(finite & ~grown, by['good'] + 1, 0)}


def kept(new: Any, old: Any, finite: jax.Array) -> Any:
    """`new` where the step counts, else `old`, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
