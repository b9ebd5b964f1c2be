"""From a split to batches of numpy arrays, read ahead by threads or worker processes.

A batch is a function of (split, seed, step, batch size) and of nothing else: a resumed run, another number of hosts or of
workers sees the same batches in the same order.
"""

import math
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jtl.data.base import Examples, Split
from jtl.data.images import prepare
from jtl.data.sampling import ClassOrder, class_order, order
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing

_FOREVER = 2**40  # steps; grain wants a length


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    size: tuple[int, int] | None = None,
    preprocessing: Preprocessing,
    crop: float = 1.0,
    slots: slice | None = None,
    workers: int = 0,
    sampling: str = 'natural',
) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end. Every epoch is a new permutation of the split (or a round of its classes, by `sampling`); a batch may lie
    across two epochs.

    Args:
      split: at least one example.
      batch_size: of the global batch.
      seed: of the order.
      first_step: the step of the first batch: `next(train_batches(..., first_step=7))` is batch 7.
      size: height and width that the network reads; None: those of `preprocessing`.
      preprocessing: of the weights.
      crop: `augment.crop`; below 1, pictures come as `padded_size(size, crop)` and the device crops.
      slots: the contiguous part of the global batch that this host reads; None: all of it.
      workers: processes that read; 0: threads of this process.
      sampling: one of `jtl.data.sampling.SAMPLINGS`; other than 'natural' for class numbers as targets alone.

    Yields:
      `image` (b, H, W, C) uint8, or float32 where the data are; `label` (b, ...) int32 or float32; `index` (b,) int32, the position in the split.
    """
    if not len(split):
        raise UserError('The training split has no examples.')
    positions = range(batch_size)[slots or slice(None)]
    drawn = None if sampling == 'natural' else class_order(split.targets, sampling, seed)
    batches = _TrainBatches(
        split.examples, split.targets, _sized(preprocessing, size), crop, batch_size, seed, first_step, positions, drawn
    )
    return _read_ahead(batches, workers)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing,
    size: tuple[int, int] | None = None,
    crop: float | None = None,
    slots: slice | None = None,
    workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Each example exactly once, in order. The last batch is filled up with repetitions of the last example, marked.

    Args:
      split: may be empty: no batches.
      batch_size: of the global batch.
      preprocessing: of the weights.
      size: height and width that the network reads; None: those of `preprocessing`.
      crop: None for pictures as evaluation crops them; else they come as `padded_size(size, crop)`, and the device takes views of them.
      slots: the contiguous part of the global batch that this host reads; None: all of it.
      workers: processes that read; 0: threads of this process.

    Yields:
      As `train_batches`, and `real` (b,) float32: 1, or 0 for filling. Shapes never change.
    """
    positions = range(batch_size)[slots or slice(None)]
    return _read_ahead(_EvalBatches(split.examples, split.targets, _sized(preprocessing, size), crop, batch_size, positions), workers)


def epoch_steps(n: int, batch_size: int) -> int:
    """Steps that see `n` examples at least once: `ceil(n / batch_size)`."""
    return math.ceil(n / batch_size)


@dataclass(frozen=True)
class _TrainBatches:
    """Random access: `[k]` is this host's part of batch `first_step + k`."""

    examples: Examples
    targets: np.ndarray
    preprocessing: Preprocessing
    crop: float
    batch_size: int
    seed: int
    first_step: int
    positions: range
    drawn: ClassOrder | None = None  # in place of an even draw

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        first = (self.first_step + k) * self.batch_size + self.positions.start
        count = len(self.positions)
        indices = self.drawn(first, count) if self.drawn else order(len(self.examples), self.seed, first, count)
        return _batch(self.examples, self.targets, indices, self.preprocessing, self.crop)


@dataclass(frozen=True)
class _EvalBatches:
    """Random access to the batches of one pass."""

    examples: Examples
    targets: np.ndarray
    preprocessing: Preprocessing
    crop: float | None
    batch_size: int
    positions: range

    def __len__(self) -> int:
        return epoch_steps(len(self.examples), self.batch_size)

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        last = len(self.examples) - 1
        wanted = k * self.batch_size + np.arange(self.positions.start, self.positions.stop)
        real = wanted <= last
        # Filling costs nothing: every host reads the last example at most once for it.
        batch = _batch(self.examples, self.targets, np.minimum(wanted, last).astype(np.int32), self.preprocessing, self.crop)
        return {**batch, 'real': real.astype(np.float32)}


def _batch(
    examples: Examples, targets: np.ndarray, indices: np.ndarray, preprocessing: Preprocessing, crop: float | None
) -> dict[str, np.ndarray]:
    pictures: dict[int, np.ndarray] = {}
    for index in indices.tolist():
        if index not in pictures:
            pictures[index] = prepare(np.asarray(examples[index]['image']), preprocessing, crop)
    image = np.stack([pictures[index] for index in indices.tolist()])
    return {'image': image, 'label': targets[indices], 'index': indices}


def _sized(preprocessing: Preprocessing, size: tuple[int, int] | None) -> Preprocessing:
    return preprocessing if size is None else replace(preprocessing, size=size)


def _read_ahead(batches: Any, workers: int) -> Iterator[dict[str, np.ndarray]]:
    """An iterator over `batches`, in order, that has the next ones read meanwhile."""
    if not len(batches):
        return iter(())
    import grain

    threads = 1 if workers else min(8, os.cpu_count() or 1)
    source = grain.MapDataset.source(batches).to_iter_dataset(grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads))
    if workers:
        _ready_for_processes()
        source = source.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2))
    held = [iter(source)]
    stream = _stream(held, len(batches))
    # Threads, processes and shared memory must end with the stream, and before the interpreter's own end, which grain does not survive quietly.
    weakref.finalize(stream, _close, held)
    return stream


def _stream(held: list[Any], count: int) -> Iterator[dict[str, np.ndarray]]:
    for _ in range(count):
        # Copies let go of the shared memory in which processes hand over their arrays: who keeps a batch keeps no segment of it.
        yield {key: np.array(value) for key, value in next(held[0]).items()}


def _close(held: list[Any]) -> None:
    held.pop().close()


def _ready_for_processes() -> None:
    """What grain's worker processes need: parsed absl flags (a notebook has none), and a user's file by value, for they cannot import it."""
    import cloudpickle
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    for name, module in list(sys.modules.items()):
        if name.startswith('jtl_file_'):
            cloudpickle.register_pickle_by_value(module)
