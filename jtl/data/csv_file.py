"""A CSV file that names pictures and their labels, a row each."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jtl.data.base import SPLIT_NAMES, Data, Split, fingerprint
from jtl.data.csv_rows import read_csv
from jtl.data.files import FileExamples, place_of
from jtl.data.lines import split_files
from jtl.data.rows import SPLIT_COLUMN, Rows, check_splits, label_of, names_of, notes_of, split_of, targets_of
from jtl.errors import UserError

_NAMED = 5  # missing files that are named one by one


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
    take their share. Comma-separated `data.encoding` (UTF-8), with or without a byte order mark, quoted as Python's `csv` reads it; blank
    lines are left out. Rows are read one by one, pictures when they are asked for.

    Raises:
      UserError: with file and line: a missing column, an empty cell, a number of fields that is not the first line's, a picture
        that is not there or named twice, a class that train lacks, no number, bad quoting, or bytes that are no UTF-8.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='csv' needs a CSV file here, or a folder with train.csv (validation.csv, test.csv).")
    kind = section.get('targets') or 'classes'
    keys = {'image_key': section.get('image_key') or 'path', 'label_key': section.get('label_key') or 'label'}
    splits: dict[str, Rows] = {}
    seen: dict[str, str] = {}  # picture -> the row that names it
    sources = split_files(root, ('.csv',), 'CSV file')
    for source, own in sources:
        for line, row in read_csv(source, keys, encoding=section.get('encoding') or 'utf-8'):
            where, path = f'data.root: {source}, line {line}', row['image_key']
            split = split_of(row.get(SPLIT_COLUMN, ''), own, where)
            same = os.path.normpath(place_of(str(source.parent), path))
            if same in seen:
                raise UserError(f'{where}: {path} has a row already, {seen[same]}. One row a picture: remove one of them.')
            seen[same] = f'line {line}' if own is None else f'{source.name}, line {line}'
            label = label_of(row['label_key'], kind, keys['label_key'], where)
            splits.setdefault(split, Rows()).add(path, label, source, line)
    check_splits(splits, sources, root)
    labels = names_of(splits['train'], kind)
    found, sizes = {}, hashlib.sha256()
    for name in (name for name in SPLIT_NAMES if name in splits):
        rows = splits[name]
        folder, files = str(rows.places[0][0].parent), tuple(rows.contents)
        sizes.update(repr(_lengths(folder, rows)).encode())
        targets = targets_of(rows, kind, labels, splits['train'])
        found[name] = Split(FileExamples(folder, files, targets), targets, files.__getitem__)
    return Data(found, labels, notes_of(labels, kind, 'picture'), fingerprint(found, labels, sizes.hexdigest()))


def _lengths(folder: str, rows: Rows) -> list[int]:
    """The size of each file in bytes. UserError where one is not there."""

    def length(file: str) -> int:
        try:
            found = place_of(folder, file).stat()
            return -1 if found.is_directory else found.length
        except (OSError, ValueError):  # ValueError: a null character in a name
            return -1

    with ThreadPoolExecutor(min(16, (os.cpu_count() or 1) + 1)) as pool:
        found = list(pool.map(length, rows.contents))
    missing = [f'line {line}: {file}' for file, (_, line), size in zip(rows.contents, rows.places, found, strict=True) if size < 0]
    if missing:
        more = f'\n  and {len(missing) - _NAMED} more' if len(missing) > _NAMED else ''
        raise UserError(
            f'data.root: {rows.places[0][0]} names {len(missing)} pictures that are not there (paths are relative to {folder}, or absolute):\n  '
            + '\n  '.join(missing[:_NAMED])
            + more
        )
    return found
