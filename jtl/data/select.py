"""Which examples of a data set a run sees: classes, splits and shots. Pure functions, seeded and stratified."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jtl.data.base import Data, Split, fingerprint, take
from jtl.errors import UserError, did_you_mean


def keep_classes(data: Data, classes: Sequence[str]) -> Data:
    """Only the examples of `classes`, which become class 0, 1, ... in that order.

    Raises UserError for an unknown or repeated name, or where the data have no classes.
    """
    classes = tuple(str(name) for name in classes)
    if not has_classes(data):
        raise UserError(f'data.classes: these data have no classes ({what_instead(data)}).')
    for name in classes:
        if name not in data.labels:
            raise UserError(f'data.classes: there is no class {name!r}. {did_you_mean(name, data.labels)}'.rstrip())
    if len(set(classes)) < len(classes):
        raise UserError(f'data.classes: a class is named twice in {", ".join(classes)}.')
    number = np.full(len(data.labels), -1, np.int32)
    number[[data.labels.index(name) for name in classes]] = np.arange(len(classes))
    splits = {}
    for name, split in data.splits.items():
        kept = np.flatnonzero(number[split.targets] >= 0)
        splits[name] = replace(take(split, kept), targets=number[split.targets[kept]])
    if not len(splits['train']):
        raise UserError(f'data.classes: the training split has no example of {", ".join(classes)}.')
    return _changed(data, splits, f'classes kept: {", ".join(classes)}.', classes)


def make_split(data: Data, name: str, share: float, seed: int) -> Data:
    """`share` of the training split becomes the split `name`: of each class its share, rounded, but never a class's last example.

    Targets that are not class numbers are drawn without regard to their values.
    """
    train = data.splits['train']
    rng = np.random.default_rng([seed, len(name)])  # test (4) and validation (10) are drawn apart
    moved = []
    for members in _groups(data):
        count = min(round(share * len(members)), len(members) - 1)
        if count == 0 and len(members) > 1:
            count = 1
        moved.append(rng.permutation(members)[:count])
    taken = np.sort(np.concatenate(moved)) if moved else np.zeros(0, np.int64)
    if not len(taken):
        raise UserError(f'data.{name}: train has {len(train)} examples, too few to make a {name} split of {share:g}. Set data.{name}=0.0.')
    rest = np.setdiff1d(np.arange(len(train)), taken)
    splits = {**data.splits, 'train': take(train, rest), name: take(train, taken)}
    how = 'stratified' if has_classes(data) else 'random'
    return _changed(
        data, splits, f'{name}: the data bring none; {len(taken)} examples ({share:.0%}, {how}, seed {seed}) are taken from train.'
    )


def keep_examples(data: Data, examples: int, seed: int) -> Data:
    """At most `examples` training examples in all, drawn without regard to their targets, so that rare classes stay rare."""
    train = data.splits['train']
    if examples >= len(train):
        return data
    kept = np.sort(np.random.default_rng([seed, 2]).permutation(len(train))[:examples])
    note = f'examples: {examples} of {len(train)} training examples, seed {seed}.'
    return _changed(data, {**data.splits, 'train': take(train, kept)}, note)


def keep_shots(data: Data, shots: int, seed: int) -> Data:
    """At most `shots` training examples of each class; classes that have fewer are named in the notes."""
    if not has_classes(data):
        raise UserError(f'data.shots: these data have no classes ({what_instead(data)}), so there are no examples a class.')
    train = data.splits['train']
    rng = np.random.default_rng([seed, 1])
    groups = _groups(data)
    kept = np.sort(np.concatenate([rng.permutation(members)[:shots] for members in groups]))
    short = [f'{data.labels[train.targets[members[0]]]} ({len(members)})' for members in groups if len(members) < shots]
    note = f'shots: {shots} a class, {len(kept)} of {len(train)} training examples, seed {seed}.'
    if short:
        note += f' Fewer than that in: {", ".join(short)}.'
    return _changed(data, {**data.splits, 'train': take(train, kept)}, note)


def drop(data: Data, split: str, indices: Sequence[int], note: str) -> Data:
    """Without the examples at `indices` of a split."""
    kept = np.setdiff1d(np.arange(len(data.splits[split])), np.asarray(indices, np.int64))
    return _changed(data, {**data.splits, split: take(data.splits[split], kept)}, note)


def has_classes(data: Data) -> bool:
    """Whether every example has one class."""
    targets = data.splits['train'].targets
    return bool(data.labels) and targets.dtype.kind == 'i' and targets.ndim == 1


def what_instead(data: Data) -> str:
    """What the targets of data without classes are, for a message."""
    targets = data.splits['train'].targets
    if targets.dtype.kind == 'i':
        return 'every word has a tag' if data.labels else 'nothing is labelled'
    return 'an example may have several labels' if data.labels and targets.ndim == 2 else 'their targets are values'


def label_counts(targets: np.ndarray, labels: Sequence[str]) -> tuple[int, ...] | None:
    """How often each label occurs, in the order of `labels`: of examples, or of words where these have tags. None for values.

    Args:
      targets: of a split, (N,) or (N, W) int32 class numbers, -1 where there is no word, or (N, K) float32 of 0 and 1.
      labels: K names.
    """
    if not labels:
        return None
    if targets.dtype.kind == 'i':
        return tuple(np.bincount(targets[targets >= 0], minlength=len(labels)).tolist())
    return tuple((targets > 0.5).sum(axis=0).tolist()) if targets.ndim == 2 and targets.shape[1] == len(labels) else None


def _groups(data: Data) -> list[np.ndarray]:
    """Positions in train of each class that occurs, or of all examples where there are no classes."""
    targets = data.splits['train'].targets
    if not has_classes(data):
        return [np.arange(len(targets))]
    return [np.flatnonzero(targets == label) for label in np.unique(targets)]


def _changed(data: Data, splits: dict[str, Split], note: str, labels: Sequence[str] | None = None) -> Data:
    labels = data.labels if labels is None else labels
    order: dict[str, Split] = {name: splits[name] for name in ('train', 'validation', 'test') if name in splits}
    return Data(order, labels, (*data.notes, note), fingerprint(order, labels, data.fingerprint))
