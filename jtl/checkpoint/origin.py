"""What loading a checkpoint means for each leaf: values that `jtl.checkpoint.adapt` makes and the load report shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from jtl.checkpoint.base import Checkpoint
from jtl.checkpoint.leaf import Function
from jtl.checkpoint.tables import NameTable
from jtl.rules import Rule

Spec = jax.ShapeDtypeStruct


class Source(NamedTuple):
    """An open checkpoint and the table to read it by."""

    checkpoint: Checkpoint
    table: NameTable


@dataclass(frozen=True)
class LeafOrigin:
    """Where one leaf of the model comes from.

    Attributes:
      path: of the leaf.
      status: 'loaded' (under its own name, perhaps below a prefix), 'renamed', 'adapted' (by leaf functions), or 'new'.
      target: shape and dtype in the model.
      key: in the checkpoint; None for 'new'.
      functions: done to the array of `key`, in order.
      source: shape and dtype of `key`.
      subtree: which of the sources; None for 'new'.
      rule: the loading rule that decided; None where no source covers the path.
    """

    path: str
    status: Literal['loaded', 'renamed', 'adapted', 'new']
    target: Spec
    key: str | None = None
    functions: tuple[Function, ...] = ()
    source: Spec | None = None
    subtree: str | None = None
    rule: Rule | None = None

    @property
    def cast(self) -> bool:
        """Whether the float dtype changes on the way."""
        return self.source is not None and self.source.dtype != self.target.dtype


class Ignored(NamedTuple):
    """A key of a checkpoint that is declared not to be read, and by what."""

    subtree: str
    key: str
    spec: Spec
    by: str


@dataclass(frozen=True)
class Adaptation:
    """Every leaf with its origin in the order of the targets, every ignored key, and the sources by subtree."""

    origins: dict[str, LeafOrigin]
    ignored: tuple[Ignored, ...]
    sources: Mapping[str, Source]
