"""A CSV file that names pictures and their labels, a row each."""

import csv
import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jtl.data.base import Data, Split, fingerprint
from jtl.data.files import SPLIT_NAMES, FileExamples, place_of
from jtl.errors import UserError, did_you_mean

SPLIT_COLUMN = 'split'
SEPARATORS = ';|'  # between several labels or values in a cell
_NAMED = 5  # missing files that are named one by one


class Row(NamedTuple):
    """One row that was read: the line on which it begins, and its cells without surrounding spaces."""

    line: int
    path: str
    label: str
    split: str


@dataclass
class _Rows:
    """The rows of one split; `values` are a class name, a tuple of label names, or a tuple of numbers each."""

    source: epath.Path
    files: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)


def table(section: Mapping[str, Any]) -> Data:
    """`data.name='csv'`: `data.root` is a CSV file, or a folder with train.csv and, where there are any, validation.csv and test.csv.

    path,label,split            (the first line names the columns; more columns do no harm)
    shoes/1.jpg,shoes,train
    "old, worn/2.jpg",shoes,validation

    The pictures' paths (column `data.image_key`, default 'path') are relative to the CSV's folder, or absolute. What the label column
    (`data.label_key`, default 'label') holds is said by `data.targets`:

      'classes'  one class name, taken whole: (N,) int32 class numbers, in the alphabetical order of train's names.
      'labels'   label names between ';' or '|'; a separator alone means none of them: (N, K) float32 of 0 and 1.
      'values'   a number, or several between ';' or '|': (N,) or (N, K) float32.

    Without a column 'split' all rows are of train (of the split that the file is called after), and `data.validation` and `data.test`
    take their share. Comma-separated UTF-8, with or without a byte order mark, quoted as Python's `csv` reads it; blank lines are left
    out. Rows are read one by one, pictures when they are asked for.

    Raises:
      UserError: with file and line: a missing column, an empty cell, a number of fields that is not the first line's, a picture
        that is not there or named twice, a class that train lacks, no number, bad quoting, or bytes that are no UTF-8.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='csv' needs a CSV file here, or a folder with train.csv (validation.csv, test.csv).")
    kind = section.get('targets') or 'classes'
    keys = (section.get('image_key') or 'path', section.get('label_key') or 'label')
    splits: dict[str, _Rows] = {}
    seen: dict[str, str] = {}  # picture -> the row that names it
    for source, own in _sources(root):
        for row in read_rows(source, *keys):
            where = f'data.root: {source}, line {row.line}'
            split = _split(row.split, own, where)
            same = os.path.normpath(place_of(str(source.parent), row.path))
            if same in seen:
                raise UserError(f'{where}: {row.path} has a row already, {seen[same]}. One row a picture: remove one of them.')
            seen[same] = f'line {row.line}' if own is None else f'{source.name}, line {row.line}'
            rows = splits.setdefault(split, _Rows(source))
            rows.files.append(row.path)
            rows.values.append(_value(row.label, kind, keys[1], where))
            rows.lines.append(row.line)
    if 'train' not in splits:
        raise UserError(f'data.root: {root} has no rows of train.')
    labels = () if kind == 'values' else _names(splits['train'], kind)
    found, sizes = {}, hashlib.sha256()
    for name in (name for name in SPLIT_NAMES if name in splits):
        rows = splits[name]
        folder, files = str(rows.source.parent), tuple(rows.files)
        sizes.update(repr(_lengths(folder, rows)).encode())
        targets = _targets(rows, kind, labels, splits['train'])
        found[name] = Split(FileExamples(folder, files, targets), targets, files.__getitem__)
    return Data(found, labels, _notes(labels, kind), fingerprint(found, labels, sizes.hexdigest()))


def read_rows(path: epath.Path, image_key: str, label_key: str) -> Iterator[Row]:
    """The rows of a CSV file, one at a time; `split` is '' where the file has no such column.

    Args:
      path: of the file.
      image_key, label_key: names of the columns to read.

    Raises:
      UserError: see `table`.
    """
    try:
        with path.open('rb') as file:
            reader = csv.reader(_decoded(file, path), skipinitialspace=True, strict=True)
            header: list[str] = []
            columns: dict[str, int] = {}
            for line, cells in _records(reader, path):
                if not columns:
                    header = [cell.strip() for cell in cells]
                    columns = _columns(header, path, image_key, label_key)
                    continue
                where = f'data.root: {path}, line {line}'
                if len(cells) != len(header):
                    raise UserError(
                        f'{where}: {len(cells)} fields, but the first line names {len(header)} ({", ".join(header)}). '
                        'A field that holds a comma must stand in double quotes.'
                    )
                row = Row(line, *(cells[columns[key]].strip() if key in columns else '' for key in (image_key, label_key, SPLIT_COLUMN)))
                for key, cell in ((image_key, row.path), (label_key, row.label), (SPLIT_COLUMN, row.split)):
                    if key in columns and not cell:
                        raise UserError(f'{where}: the column {key!r} is empty. Fill it, or remove the row.')
                yield row
    except OSError as error:
        raise UserError(f'data.root: {path} cannot be read ({error}).') from None


def _sources(root: str) -> list[tuple[epath.Path, str | None]]:
    """The CSV files, each with the split it is called after; None for one file that may hold several."""
    top = epath.Path(root).expanduser()
    if not top.is_dir():
        if not top.exists():
            raise UserError(f'data.root: there is no file or folder {root}.')
        return [(top, None)]
    found: list[tuple[epath.Path, str | None]] = []
    for split, names in SPLIT_NAMES.items():
        there = [top / f'{name}.csv' for name in names if (top / f'{name}.csv').is_file()]
        if len(there) > 1:
            raise UserError(f'data.root: {top} has {" and ".join(path.name for path in there)}, which both mean {split}. Keep one.')
        found += [(path, split) for path in there]
    if not found or found[0][1] != 'train':
        other = sorted(path.name for path in top.iterdir() if path.suffix.lower() == '.csv')
        held = f'only {", ".join(other[:_NAMED])}' if other else 'no CSV file'
        raise UserError(f'data.root: the folder {top} has no train.csv, {held}. Name a CSV file, or a folder with a train.csv.')
    return found


def _decoded(file: Any, path: epath.Path) -> Iterator[str]:
    """The lines of a binary file as text. UserError for the first that is no UTF-8."""
    for number, line in enumerate(file, 1):
        try:
            text = line.decode('utf-8-sig' if number == 1 else 'utf-8')
        except UnicodeDecodeError as error:
            raise UserError(
                f'data.root: {path}, line {number}: no UTF-8 (byte 0x{line[error.start]:02x}). Save the file as UTF-8, as a spreadsheet offers it.'
            ) from None
        yield text


def _records(reader: Any, path: epath.Path) -> Iterator[tuple[int, list[str]]]:
    """What Python's reader gives, with the line on which each record begins, and without blank lines."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f'data.root: {path}, line {line}: bad quoting or line end ({error}). A field that holds a comma, a quote or a line end '
                'stands in double quotes, with the quotes in it doubled.'
            ) from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _columns(header: Sequence[str], path: epath.Path, image_key: str, label_key: str) -> dict[str, int]:
    """Where the columns are."""
    for field_name, key in (('image_key', image_key), ('label_key', label_key)):
        if header.count(key) > 1:
            raise UserError(f'data.{field_name}: {path}, line 1 names the column {key!r} twice.')
        if key not in header:
            other = next((mark for mark in ';\t' if len(header) == 1 and mark in header[0]), '')
            hint = f'It seems to be separated by {other!r}: save it with commas.' if other else did_you_mean(key, header)
            raise UserError(f'data.{field_name}: {path}, line 1 has no column {key!r}. {hint}'.rstrip())
    return {key: header.index(key) for key in (image_key, label_key, SPLIT_COLUMN) if key in header}


def _split(cell: str, own: str | None, where: str) -> str:
    """The split that a cell of the split column names; without that column the file's own, else train."""
    if not cell:
        return own or 'train'
    for split, names in SPLIT_NAMES.items():
        if cell.lower() in names:
            if own and split != own:
                raise UserError(f'{where}: the split is {cell!r}, but the file is that of {own}.')
            return split
    known = [name for names in SPLIT_NAMES.values() for name in names]
    raise UserError(f'{where}: there is no split {cell!r}. {did_you_mean(cell, known) or "Known: train, validation, test."}')


def _value(cell: str, kind: str, key: str, where: str) -> Any:
    """What a label's cell means: a class name, a tuple of label names, or a tuple of numbers."""
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


def _names(train: _Rows, kind: str) -> tuple[str, ...]:
    return tuple(sorted({name for value in train.values for name in ((value,) if kind == 'classes' else value)}))


def _targets(rows: _Rows, kind: str, labels: Sequence[str], train: _Rows) -> np.ndarray:
    """The targets of a split. UserError for a name that train lacks, or another count of values than its first row has."""
    if kind == 'values':
        width = len(train.values[0])
        for value, line in zip(rows.values, rows.lines, strict=True):
            if len(value) != width:
                raise UserError(
                    f'data.root: {rows.source}, line {line}: {len(value)} values, but {train.source.name}, line {train.lines[0]} has {width}.'
                )
        return np.array(rows.values, np.float32).reshape((len(rows.values),) if width == 1 else (len(rows.values), width))
    number = {name: k for k, name in enumerate(labels)}
    targets = np.zeros(len(rows.values), np.int32) if kind == 'classes' else np.zeros((len(rows.values), len(labels)), np.float32)
    for k, (value, line) in enumerate(zip(rows.values, rows.lines, strict=True)):
        for name in (value,) if kind == 'classes' else value:
            if name not in number:
                raise UserError(
                    f'data.root: {rows.source}, line {line}: {name!r} is no label of any training row. {did_you_mean(name, labels)} '
                    'Every class needs training examples: mend the name, or move rows to train.'
                )
            if kind == 'classes':
                targets[k] = number[name]
            else:
                targets[k, number[name]] = 1
    return targets


def _lengths(folder: str, rows: _Rows) -> list[int]:
    """The size of each file in bytes. UserError where one is not there."""

    def length(file: str) -> int:
        try:
            found = place_of(folder, file).stat()
            return -1 if found.is_directory else found.length
        except (OSError, ValueError):  # ValueError: a null character in a name
            return -1

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool:
        found = list(pool.map(length, rows.files))
    missing = [f'line {line}: {file}' for file, line, size in zip(rows.files, rows.lines, found, strict=True) if size < 0]
    if missing:
        more = f'\n  and {len(missing) - _NAMED} more' if len(missing) > _NAMED else ''
        raise UserError(
            f'data.root: {rows.source} names {len(missing)} pictures that are not there (paths are relative to {folder}, or absolute):\n  '
            + '\n  '.join(missing[:_NAMED])
            + more
        )
    return found


def _notes(labels: Sequence[str], kind: str) -> tuple[str, ...]:
    several = [name for name in labels if kind == 'classes' and re.search(f'[{SEPARATORS}]', name)]
    if not several:
        return ()
    return (f"{len(several)} class names hold ';' or '|', such as {several[0]!r}; for several labels a picture set data.targets='labels'.",)
