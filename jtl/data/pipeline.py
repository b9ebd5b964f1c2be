"""From a split to batches of numpy arrays, read ahead by threads or worker processes.

A batch is a function of (split, seed, step, batch size) and of nothing else: a resumed run, another number of hosts or of
workers sees the same batches in the same order.
"""

import math
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from jtl.data.base import Examples, Split
from jtl.data.images import prepare
from jtl.data.lengths import LengthOrder, evaluation_order
from jtl.data.sampling import class_order, order
from jtl.data.tokens import Tokens, bucket_of, collate
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing

_FOREVER = 2**40  # steps; grain wants a length


def train_batches(
    split: Split,
    *,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    size: tuple[int, int] | None = None,
    preprocessing: Preprocessing | TextPreprocessing,
    crop: float = 1.0,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
    sampling: str = 'natural',
) -> Iterator[dict[str, np.ndarray]]:
    """Batches without end. Every epoch is a new permutation of the split (or a round of its classes, by `sampling`); a batch may lie
    across two epochs. Texts of about the same length come together, see `jtl.data.lengths`.

    Args:
      split: at least one example.
      batch_size: of the global batch.
      seed: of the order.
      first_step: the step of the first batch: `next(train_batches(..., first_step=7))` is batch 7.
      size: height and width that the network reads; None: those of `preprocessing`.
      preprocessing: of the weights.
      crop: `augment.crop`; below 1, pictures come as `padded_size(size, crop)` and the device crops.
      rows: of the global batch that this host reads; None: all of it.
      workers: processes that read; 0: threads of this process.
      sampling: one of `jtl.data.sampling.SAMPLINGS`; other than 'natural' for class numbers as targets alone.

    Yields:
      `image` (b, H, W, C) uint8, or float32 where the data are; of text `ids`, `segments` (b, T) int32 and `mask` (b, T) bool, and of words
      `word_starts` (b, T) int32; `label` (b, ...) int32 or float32; `index` (b,) int32, the position in the split.
    """
    if not len(split):
        raise UserError('The training split has no examples.')
    mine = np.arange(batch_size) if rows is None else np.asarray(rows)
    drawn: Callable[[int, int], np.ndarray] = (
        partial(order, len(split), seed) if sampling == 'natural' else class_order(split.targets, sampling, seed)
    )
    read = _reader(split, preprocessing, size, crop)
    if isinstance(read, _Texts):
        drawn = LengthOrder(read.examples.lengths, drawn, seed, batch_size)
    batches = _TrainBatches(read, split.targets, drawn, batch_size, first_step, mine)
    return _read_ahead(batches, workers)


def eval_batches(
    split: Split,
    *,
    batch_size: int,
    preprocessing: Preprocessing | TextPreprocessing,
    size: tuple[int, int] | None = None,
    crop: float | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    workers: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Each example exactly once, in the order of `eval_order`. The last batch is filled up with repetitions of its last example, marked.

    Args:
      split: may be empty: no batches.
      batch_size: of the global batch.
      preprocessing: of the weights.
      size: height and width that the network reads; None: those of `preprocessing`.
      crop: None for pictures as evaluation crops them; else they come as `padded_size(size, crop)`, and the device takes views of them.
      rows: of the global batch that this host reads; None: all of it.
      workers: processes that read; 0: threads of this process.

    Yields:
      As `train_batches`, and `real` (b,) float32: 1, or 0 for filling. The shapes of pictures never change, those of text go by its buckets.
    """
    mine = np.arange(batch_size) if rows is None else np.asarray(rows)
    return _read_ahead(_EvalBatches(_reader(split, preprocessing, size, crop), split.targets, eval_order(split), batch_size, mine), workers)


def eval_order(split: Split) -> np.ndarray:
    """(N,) positions in the split in the order in which it is evaluated: texts by length, everything else as it is."""
    lengths = getattr(split.examples, 'lengths', None)
    return np.arange(len(split), dtype=np.int32) if lengths is None else evaluation_order(lengths)


def epoch_steps(n: int, batch_size: int) -> int:
    """Steps that see `n` examples at least once: `ceil(n / batch_size)`."""
    return math.ceil(n / batch_size)


@dataclass(frozen=True)
class _Pictures:
    """From positions in a split to arrays: pictures prepared for the net."""

    examples: Examples
    preprocessing: Preprocessing
    crop: float | None

    def __call__(self, indices: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        for index in indices.tolist():
            if index not in found:
                found[index] = prepare(np.asarray(self.examples[index]['image']), self.preprocessing, self.crop)
        return {'image': np.stack([found[index] for index in indices.tolist()])}


@dataclass(frozen=True)
class _Texts:
    """The same for texts, padded to the bucket of the longest one in the global batch, which is `among`."""

    examples: Tokens
    buckets: tuple[int, ...]

    def __call__(self, indices: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
        return collate(self.examples, indices, bucket_of(int(self.examples.lengths[among].max()), self.buckets))


Reader = _Pictures | _Texts


def _reader(split: Split, preprocessing: Preprocessing | TextPreprocessing, size: tuple[int, int] | None, crop: float | None) -> Reader:
    if isinstance(preprocessing, TextPreprocessing):
        assert isinstance(split.examples, Tokens), 'texts must be tokenized before they are batched'
        return _Texts(split.examples, preprocessing.buckets)
    return _Pictures(split.examples, preprocessing if size is None else replace(preprocessing, size=size), crop)


@dataclass(frozen=True)
class _TrainBatches:
    """Random access: `[k]` is this host's part of batch `first_step + k`."""

    read: Reader
    targets: np.ndarray
    drawn: Callable[[int, int], np.ndarray]
    batch_size: int
    first_step: int
    rows: np.ndarray

    def __len__(self) -> int:
        return _FOREVER

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        indices = self.drawn((self.first_step + k) * self.batch_size, self.batch_size)
        return _batch(self.read, self.targets, indices[self.rows], indices)


@dataclass(frozen=True)
class _EvalBatches:
    """Random access to the batches of one pass."""

    read: Reader
    targets: np.ndarray
    order: np.ndarray
    batch_size: int
    rows: np.ndarray

    def __len__(self) -> int:
        return epoch_steps(len(self.order), self.batch_size)

    def __getitem__(self, k: int) -> dict[str, np.ndarray]:
        last = len(self.order) - 1
        places = k * self.batch_size + np.arange(self.batch_size)
        indices = self.order[np.minimum(places, last)].astype(np.int32)
        # Filling costs nothing: every host reads the last example at most once for it.
        return {**_batch(self.read, self.targets, indices[self.rows], indices), 'real': (places[self.rows] <= last).astype(np.float32)}


def _batch(read: Reader, targets: np.ndarray, indices: np.ndarray, among: np.ndarray) -> dict[str, np.ndarray]:
    batch = read(indices, among)
    label = targets[indices]
    if 'word_starts' in batch:  # a tag for each word that the batch has room for
        width = batch['word_starts'].shape[1]
        label = np.pad(label[:, :width], ((0, 0), (0, max(0, width - label.shape[1]))), constant_values=-1)
    return {**batch, 'label': label, 'index': indices}


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
