"""What is wrong with a data set, found before anything is compiled."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from jtl.data.base import Data, Split, UnreadableError, content_digest
from jtl.data.select import drop, label_counts
from jtl.errors import UserError
from jtl.parallel.hosts import ONE, Hosts

NAMED = 10
"""How many of a kind of finding are named one by one."""

_TOLD = 20_000  # examples that hosts tell each other of at a time: a megabyte


@dataclass(frozen=True)
class Preflight:
    """What was found.

    Attributes:
      data: the data without the examples that cannot be read.
      labels: class names.
      counts: for each split, the number of examples (of words, where these have tags) of each class, in the order of `labels`; for data
        without classes, of all: (n,).
      checked: for each split, how many examples were opened.
      duplicates: pairs of names of examples with the same content in two different splits.
      unreadable: messages, one for each example that was left out.
      warnings: what a person should know before they believe a result.
      notes: what opening the data said.
    """

    data: Data
    labels: Sequence[str]
    counts: Mapping[str, tuple[int, ...]]
    checked: Mapping[str, int]
    duplicates: tuple[tuple[str, str], ...] = ()
    unreadable: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    def text(self) -> str:
        """A table of counts, then notes and warnings, a line each."""
        head = ['class', *self.counts]
        rows = []
        if self.labels:
            rows = [[label, *(str(counts[k]) for counts in self.counts.values())] for k, label in enumerate(self.labels)]
        sizes = {name: len(split) for name, split in self.data.splits.items()}
        tagged = bool(self.labels) and all(
            split.targets.dtype.kind == 'i' and split.targets.ndim == 2 for split in self.data.splits.values()
        )
        rows.append(['sentences' if tagged else 'all', *map(str, sizes.values())])
        if self.checked != sizes:
            rows.append(['opened', *(str(self.checked[split]) for split in self.counts)])
        widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]
        lines = [
            '  '.join(cell.rjust(w) if k else cell.ljust(w) for k, (cell, w) in enumerate(zip(row, widths, strict=True)))
            for row in [head, *rows]
        ]
        return '\n'.join([*(line.rstrip() for line in lines), *self.remarks()])

    def remarks(self) -> list[str]:
        """Notes and warnings, in lines."""
        said = [f'note: {note}' for note in self.notes] + [f'warning: {warning}' for warning in self.warnings]
        return [line.rstrip() for remark in said for line in remark.splitlines()]


def preflight(data: Data, *, max_unreadable: int = 0, limit: int = 20_000, hosts: Hosts = ONE) -> Preflight:
    """Open the examples once: which cannot be read, which occur in two splits, which classes lack examples.

    Args:
      data: as loaded.
      max_unreadable: so many unreadable examples are left out and named; more are an error.
      limit: of each split at most so many are opened, evenly spread over it; the result says so. With `max_unreadable` above 0
        all are, for one that was not looked at cannot be left out.
      hosts: of the run, each of which calls this, opens its share and tells the others.

    Raises:
      UserError: more unreadable examples than allowed, or a training split that lacks every example.
    """
    bad: dict[str, list[int]] = {}
    messages: list[str] = []
    digests: dict[bytes, tuple[str, str]] = {}  # content -> (split, name) where it was first seen
    checked: dict[str, int] = {}
    duplicates: list[tuple[str, str]] = []
    for name, split in data.splits.items():
        indices = _spread(len(split), len(split) if max_unreadable else limit)
        checked[name] = len(indices)
        for index, found in zip(indices.tolist(), _open_all(split, indices, hosts), strict=True):
            if isinstance(found, UnreadableError):
                bad.setdefault(name, []).append(index)
                messages.append(str(found))
                continue
            first = digests.setdefault(found, (name, split.name_of(index)))
            if first[0] != name:
                duplicates.append((first[1], split.name_of(index)))
    if len(messages) > max_unreadable:
        raise UserError(
            f'data: {len(messages)} of the {sum(checked.values())} examples opened cannot be read, and data.max_unreadable is {max_unreadable}:\n'
            + _listing(messages)
            + f'\nMend or remove them, or set data.max_unreadable={len(messages)} to leave them out.'
        )
    notes = tuple(data.notes)
    for name, indices_of in bad.items():
        data = drop(data, name, indices_of, f'{name}: {len(indices_of)} unreadable examples are left out.')
        checked[name] -= len(indices_of)
    counts = {name: label_counts(split.targets, data.labels) or (len(split),) for name, split in data.splits.items()}
    warnings = [f'left out: {message}' for message in messages] + _class_warnings(counts, data.labels)
    if not len(data.splits['train']):
        raise UserError('data: the training split has no examples left.')
    if duplicates:
        pairs = [f'{a} = {b}' for a, b in duplicates]
        warnings.append(f'{len(pairs)} examples have the same content as one of another split, so scores are too good:\n{_listing(pairs)}')
    for name, count in checked.items():
        if count < len(data.splits[name]):
            warnings.append(
                f'{name}: only {count} of {len(data.splits[name])} examples were opened, evenly spread; the others may hold duplicates or damage.'
            )
    return Preflight(data, tuple(data.labels), counts, checked, tuple(duplicates), tuple(messages), tuple(warnings), notes)


def _spread(n: int, limit: int) -> np.ndarray:
    """At most `limit` positions out of `n`, evenly spread."""
    return np.arange(n) if n <= limit else np.linspace(0, n - 1, limit).astype(np.int64)


def _open_all(split: Split, indices: np.ndarray, hosts: Hosts) -> list[bytes | UnreadableError]:
    """The digest of each example, or why it cannot be read; hosts take turns at the examples."""
    found: list[bytes | UnreadableError] = []
    for first in range(0, len(indices), _TOLD) if hosts.count > 1 else ():
        part = indices[first : first + _TOLD]
        mine = [one.hex() if isinstance(one, bytes) else [str(one)] for one in _open(split, part[hosts.index :: hosts.count])]
        told = [json.loads(text) for text in hosts.exchange('what their examples hold', json.dumps(mine))]
        turns = [told[k % hosts.count][k // hosts.count] for k in range(len(part))]
        found += [bytes.fromhex(one) if isinstance(one, str) else UnreadableError(one[0]) for one in turns]
    return found if hosts.count > 1 else _open(split, indices)


def _open(split: Split, indices: np.ndarray) -> list[bytes | UnreadableError]:
    def one(index: int) -> bytes | UnreadableError:
        try:
            return content_digest(split.examples, index)
        except UnreadableError as error:
            return error

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool:  # decoding and hashing release the interpreter lock
        return list(pool.map(one, indices.tolist()))


def _class_warnings(counts: Mapping[str, tuple[int, ...]], labels: Sequence[str]) -> list[str]:
    warnings = []
    for split, numbers in counts.items():
        absent = [label for label, count in zip(labels, numbers, strict=True) if not count] if labels else []
        if absent:
            names = ', '.join(absent[:NAMED]) + (f' and {len(absent) - NAMED} more' if len(absent) > NAMED else '')
            meant = 'cannot be learnt' if split == 'train' else 'is not measured there'
            warnings.append(f'{split} has no example of {names}: what is absent {meant}.')
    return warnings


def _listing(lines: Sequence[str]) -> str:
    more = [f'  and {len(lines) - NAMED} more'] if len(lines) > NAMED else []
    return '\n'.join([f'  {line}' for line in lines[:NAMED]] + more)
