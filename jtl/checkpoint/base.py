"""One view of every checkpoint: keys with shapes and dtypes first, then leaf by leaf."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from jtl.errors import UserError


class CheckpointError(UserError):
    """A checkpoint is missing, damaged, of an unknown format, or not what the model needs."""


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint of any format.

    Attributes:
      origin: what the user wrote.
      format: 'safetensors', 'torch zip', 'flax msgpack', ...
      specs: shape and dtype of each key, read without the data. Nested formats join their keys with '/'.
      read: the array of one key, read alone (memory-mapped where the format allows). CheckpointError for damaged data.
      metadata: JSON data the checkpoint carries (of a jtl run or bundle: its preprocessing, labels, config).
      beside: the content of a file of that name that lies beside the weights (config.json, tokenizer.json), None where there is none.
    """

    origin: str
    format: str
    specs: Mapping[str, jax.ShapeDtypeStruct]
    read: Callable[[str], np.ndarray]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    beside: Callable[[str], bytes | None] = lambda name: None
