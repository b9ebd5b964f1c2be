"""The rows of CSV and TSV files."""

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from jtl.data.lines import lines_of
from jtl.data.rows import SPLIT_COLUMN
from jtl.errors import UserError, did_you_mean

_DELIMITERS = {'.tsv': '\t', '.tab': '\t'}
"""What separates fields, by the file's suffix; a comma in all others."""


def read_csv(
    path: epath.Path, keys: Mapping[str, str], *, encoding: str = 'utf-8', blank: Collection[str] = ()
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file, one at a time, quoted as Python's `csv` reads it; blank lines are left out. The first line names the columns.

    >>> for line, cells in read_csv(epath.Path('reviews.csv'), {'text_key': 'text'}): print(line, cells['text_key'])

    Args:
      path: of the file; fields are separated by tabs in one that ends in .tsv or .tab, else by commas.
      keys: field of the `data` section -> name of the column to read.
      encoding: of the file.
      blank: fields whose cells may be empty.

    Yields:
      The line on which a row begins, from 1, and its cells by field, without surrounding spaces; with 'split', where there is such a column.

    Raises:
      UserError: with file and line: a missing column, an empty cell, a number of fields that is not the first line's, bad quoting, or
        bytes that are not of the encoding.
    """
    place = f'data.root: {path}'  # said once: a path is slow to spell
    delimiter = _DELIMITERS.get(path.suffix.lower(), ',')
    reader = csv.reader(lines_of(path, encoding), delimiter=delimiter, skipinitialspace=True, strict=True)
    header: list[str] = []
    columns: dict[str, int] = {}
    for line, cells in _records(reader, path):
        if not header:
            header = [cell.strip() for cell in cells]
            columns = _columns(header, path, keys, delimiter)
            continue
        where = f'{place}, line {line}'
        if len(cells) != len(header):
            named = 'a comma' if delimiter == ',' else 'a tab'
            raise UserError(
                f'{where}: {len(cells)} fields, but the first line names {len(header)} ({", ".join(header)}). '
                f'A field that holds {named} must stand in double quotes.'
            )
        row = {key: cells[place].strip() for key, place in columns.items()}
        for key, cell in row.items():
            if not cell and key not in blank:
                raise UserError(f'{where}: the column {keys.get(key, key)!r} is empty. Fill it, or remove the row.')
        yield line, row


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


def _columns(header: Sequence[str], path: epath.Path, keys: Mapping[str, str], delimiter: str) -> dict[str, int]:
    """Where the columns are."""
    for field_name, key in keys.items():
        if header.count(key) > 1:
            raise UserError(f'data.{field_name}: {path}, line 1 names the column {key!r} twice.')
        if key not in header:
            other = next((mark for mark in ';\t,' if len(header) == 1 and mark in header[0]), '')
            right = 'commas' if delimiter == ',' else 'tabs'
            hint = f'It seems to be separated by {other!r}: save it with {right}.' if other else did_you_mean(key, header)
            raise UserError(f'data.{field_name}: {path}, line 1 has no column {key!r}. {hint}'.rstrip())
    places = {field_name: header.index(key) for field_name, key in keys.items()}
    return {**places, SPLIT_COLUMN: header.index(SPLIT_COLUMN)} if SPLIT_COLUMN in header else places
