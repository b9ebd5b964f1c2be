"""What a report is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Thumbnail = Callable[[str, int], np.ndarray]
"""From a split's name and a position to an (H, W, C) uint8 picture of that example."""

Text = Callable[[str, int], str]
"""From a split's name and a position to the text of that example, as `jtl.report.texts.readable` gives it."""


@dataclass(frozen=True)
class SplitOutputs:
    """What the final model says of one split.

    Attributes:
      name: 'train', 'validation', 'test'.
      outputs: (N, K) logits or values, (N, W, K) logits of words, or (N, S) what the task keeps of them (`Task.summary`).
      targets: as in `jtl.data.base.Split`.
      losses: (N,) loss of each example.
      names: what a person calls each example.
      metrics: by name, without the split's.
      baseline: the same figures of a constant guess; empty where the task has none.
    """

    name: str
    outputs: np.ndarray
    targets: np.ndarray
    losses: np.ndarray
    names: tuple[str, ...]
    metrics: Mapping[str, float]
    baseline: Mapping[str, float]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report is made of.

    Attributes:
      title: of the run.
      config: nested plain data.
      plan: the content of plan.json.
      rows: of metrics.jsonl, in order.
      result: the content of result.json.
      kind: of the task; of kinds other than those of `jtl.report.kinds.SECTIONS` metrics and curves alone are shown.
      labels: class or output names in output order.
      splits: evaluated with the final model; figures of single examples are of 'test', else 'validation', else the last.
      thumbnail: None where examples are no pictures.
      text: None where examples are no text.
      lengths: tokens of each text as the model reads it, (N,) by split; None where examples are no text.
      buckets: the lengths, ascending, to which texts are filled up.
      notes: of the preflight, a sentence each.
    """

    title: str
    config: Mapping[str, Any]
    plan: Mapping[str, Any]
    rows: list[dict[str, Any]]
    result: Mapping[str, Any]
    kind: str
    labels: tuple[str, ...]
    splits: tuple[SplitOutputs, ...]
    thumbnail: Thumbnail | None = None
    text: Text | None = None
    lengths: Mapping[str, np.ndarray] | None = None
    buckets: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
