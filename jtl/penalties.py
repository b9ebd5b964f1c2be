"""Penalties added to the loss: L1, L2, and L2-SP, which pulls towards where the fine-tuning started.

A penalty differs from weight decay: it enters the gradient, and so the clip, the moments and the adaptive step.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jtl.errors import UserError, did_you_mean

PENALTIES = ('l1', 'l2', 'l2sp')

Term = tuple[str, float]
"""The kind of a penalty, one of `PENALTIES`, and its coefficient c."""


def penalty(params: Mapping[str, jax.Array], terms: Mapping[str, Term], anchors: Mapping[str, jax.Array]) -> Float[Array, '']:
    """The sum over leaves of what `terms` ask for, a float32 scalar to add to the mean loss of a batch.

        l1      c * sum |w|
        l2      c / 2 * sum w^2                 its gradient is c w: coupled weight decay
        l2sp    c / 2 * sum (w - anchor)^2      Li et al. 2018, arXiv:1802.01483, eq. 2 (alpha = c)

    A leaf with an l2sp term but no anchor started new (a head): it is pulled towards zero, plain L2, as in the paper (give it
    an l2 term to choose another coefficient there, the paper's beta).

    Args:
      params: trainable leaves by path.
      terms: at most one term a leaf, from rules over the paths of `params`; leaves without one are free.
      anchors: the values at which the leaves started, for those loaded from a checkpoint; no gradient reaches them.

    Raises:
      UserError: an unknown kind, a negative coefficient, or a term for a path that does not train.
    """
    total = jnp.zeros((), jnp.float32)
    for path, term in sorted(terms.items()):
        kind, c = check_term(term, path)
        if path not in params:
            raise UserError(f'A penalty is set on {path}, which does not train in this phase. {did_you_mean(path, params)}'.rstrip())
        w = params[path].astype(jnp.float32)
        if kind == 'l1':
            total += c * jnp.sum(jnp.abs(w))
            continue
        if kind == 'l2sp' and path in anchors:
            w = w - jax.lax.stop_gradient(anchors[path]).astype(jnp.float32)
        total += c / 2 * jnp.sum(jnp.square(w))
    return total


def check_term(term: Any, where: str) -> Term:
    """`term` as (kind, coefficient). UserError, with `where` in front, unless it is one of `PENALTIES` and a number >= 0."""
    if isinstance(term, str) or not hasattr(term, '__len__') or len(term) != 2:
        raise UserError(f"{where}: a penalty is a pair such as ('l2sp', 0.01), found {term!r}.")
    kind, c = term
    if kind not in PENALTIES:
        raise UserError(f'{where}: there is no penalty {kind!r}. {did_you_mean(str(kind), PENALTIES)}'.rstrip())
    if isinstance(c, bool) or not isinstance(c, int | float) or not math.isfinite(c) or c < 0:
        raise UserError(f'{where}: the coefficient of penalty {kind!r} is {c!r}; expected a finite number >= 0.')
    return kind, float(c)
