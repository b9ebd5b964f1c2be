"""Labelled rows, whatever file they come from: what a label's cell means, and the targets of a split."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from etils import epath

from jtl.data.base import SPLIT_NAMES
from jtl.errors import UserError, did_you_mean

SPLIT_COLUMN = 'split'
SEPARATORS = ';|'  # between several labels or values in a cell


@dataclass
class Rows:
    """The rows of one split, as they were read.

    Attributes:
      contents: what each is about: a picture's path, or a tuple of a text and, where there are pairs, its second.
      labels: a class name, a tuple of label names, or a tuple of numbers each.
      places: the file and the line on which each begins.
    """

    contents: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    places: list[tuple[epath.Path, int]] = field(default_factory=list)

    def add(self, content: Any, label: Any, path: epath.Path, line: int) -> None:
        """One more row."""
        self.contents.append(content)
        self.labels.append(label)
        self.places.append((path, line))

    def where(self, index: int) -> str:
        """The file and line of a row, for a message."""
        path, line = self.places[index]
        return f'data.root: {path}, line {line}'


def split_of(cell: str, own: str | None, where: str) -> str:
    """The split that a cell of the split column names; without that column ('') the file's own, else train."""
    if not cell:
        return own or 'train'
    for split, names in SPLIT_NAMES.items():
        if cell.lower() in names:
            if own and split != own:
                raise UserError(f'{where}: the split is {cell!r}, but the file is that of {own}.')
            return split
    known = [name for names in SPLIT_NAMES.values() for name in names]
    raise UserError(f'{where}: there is no split {cell!r}. {did_you_mean(cell, known) or "Known: train, validation, test."}')


def check_splits(splits: Mapping[str, Any], files: Sequence[tuple[epath.Path, str | None]], root: str) -> None:
    """UserError where no row is of train, or where the file of a split held none."""
    if 'train' not in splits:
        raise UserError(f'data.root: {root} has no rows of train.')
    for path, own in files:
        if own and own not in splits:
            raise UserError(f'data.root: {path} holds no rows. Fill it, or remove it: {own} is taken from train where it has no file.')


def label_of(cell: str, kind: str, key: str, where: str) -> Any:
    """What a label's cell means by `data.targets`: a class name, a tuple of label names, or a tuple of numbers.

    Args:
      cell: not empty.
      kind: 'classes', 'labels' or 'values'.
      key: the column, for messages.
      where: file and line, for messages.
    """
    if kind == 'classes':
        return cell
    parts = [part.strip() for part in re.split(f'[{SEPARATORS}]', cell)]
    if kind == 'labels':
        if not any(parts) and len(parts) == 2:
            return ()
        if not all(parts):
            raise UserError(f'{where}: an empty name among the labels {cell!r}. A separator alone means no label.')
        return tuple(parts)
    try:
        numbers = tuple(float(part) for part in parts)
    except ValueError:
        numbers = (math.nan,)
    if not all(map(math.isfinite, numbers)):
        raise UserError(
            f"{where}: {key} must be a number (or several, between ';'), found {cell!r}. For class names set data.targets='classes'."
        )
    return numbers


def names_of(train: Rows, kind: str) -> tuple[str, ...]:
    """The labels that training rows have, in alphabetical order; () for values."""
    if kind == 'values':
        return ()
    return tuple(sorted({name for label in train.labels for name in ((label,) if kind == 'classes' else label)}))


def targets_of(rows: Rows, kind: str, names: Sequence[str], train: Rows) -> np.ndarray:
    """The targets of a split.

    Args:
      rows: of the split.
      kind: 'classes', 'labels' or 'values'.
      names: of classes or labels, in the order of their numbers.
      train: the training rows, the first of which says how many values a row has.

    Returns:
      (N,) int32 class numbers, (N, K) float32 of 0 and 1, or (N,) or (N, K) float32 values.

    Raises:
      UserError: with file and line: a name that train lacks, or another count of values.
    """
    n = len(rows.labels)
    if kind == 'values':
        width = len(train.labels[0])
        for k, values in enumerate(rows.labels):
            if len(values) != width:
                path, line = train.places[0]
                raise UserError(f'{rows.where(k)}: {len(values)} values, but {path.name}, line {line} has {width}.')
        return np.array(rows.labels, np.float32).reshape((n,) if width == 1 else (n, width))
    number = {name: k for k, name in enumerate(names)}
    targets = np.zeros(n, np.int32) if kind == 'classes' else np.zeros((n, len(names)), np.float32)
    for k, label in enumerate(rows.labels):
        for name in (label,) if kind == 'classes' else label:
            if name not in number:
                raise UserError(
                    f'{rows.where(k)}: {name!r} is no label of any training row. {did_you_mean(name, names)} '
                    'Every class needs training examples: mend the name, or move rows to train.'
                )
            if kind == 'classes':
                targets[k] = number[name]
            else:
                targets[k, number[name]] = 1
    return targets


def notes_of(names: Sequence[str], kind: str, what: str) -> tuple[str, ...]:
    """A sentence where classes look like several labels in one cell; `what` is what an example is."""
    several = [name for name in names if kind == 'classes' and re.search(f'[{SEPARATORS}]', name)]
    if not several:
        return ()
    return (f"{len(several)} class names hold ';' or '|', such as {several[0]!r}; for several labels a {what} set data.targets='labels'.",)
