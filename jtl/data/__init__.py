"""Data sets: from a config's `data` section to named splits of examples."""

import re
from collections.abc import Mapping
from typing import Any

from jtl.data.base import Data
from jtl.data.lines import check_encoding
from jtl.data.orientations import with_orientations
from jtl.data.sampling import check_sampling, with_shares
from jtl.data.select import keep_classes, keep_examples, keep_shots, make_split
from jtl.errors import UserError, did_you_mean
from jtl.names import lookup

DATA = {
    'arrays': 'jtl.data.arrays:arrays',
    'conll': 'jtl.data.conll:conll',
    'csv': 'jtl.data.csv_file:table',
    'digits': 'jtl.data.digits:digits',
    'folder': 'jtl.data.folder:folder',
    'text_csv': 'jtl.data.text_csv:text_csv',
    'text_files': 'jtl.data.text_files:text_files',
    'text_jsonl': 'jtl.data.text_jsonl:text_jsonl',
    'text_lines': 'jtl.data.text_lines:text_lines',
    'tfds': 'jtl.data.tfds_source:directory',
}
"""jtl's own sources: name -> 'module:function', imported when asked for. Every other name is a function's, or TFDS's."""

TARGETS = ('classes', 'labels', 'values')
"""What a CSV's label column may hold: `data.targets`."""

_WITH_TARGETS = ('csv', 'text_csv', 'text_jsonl')


def defaults() -> dict[str, Any]:
    """The config's `data` section."""
    return {
        # digits, folder, csv, arrays; of text: text_csv, text_jsonl, text_files (one class a file), text_lines (no labels), conll; tfds (a prepared
        # directory), a TFDS name such as 'mnist:3.0.1', or 'file.py:function'
        'name': 'digits',
        'root': '',  # the folder, the file, the TFDS data directory; '' is the source's own (gs:// works for all but digits)
        'examples': 0,  # training examples in all, before validation is taken from them, chosen by data.seed (VTAB-1k: 1000); 0: all
        'shots': 0,  # training examples a class, chosen by data.seed; 0: all
        'sampling': 'natural',  # of training batches: as the data are, 'balanced' (every class as often), or 'sqrt' (between the two)
        'classes': (),  # class names to keep, numbered in this order; (): all
        'orientations': 1,  # 4 or 8: every picture turned (and mirrored), each orientation of a class a class of its own
        'validation': 0.1,  # share of train that becomes validation where the data bring none; 0.0: no validation
        'test': 0.2,  # the same for test
        'seed': 0,  # of splits and shots; apart from the run's seed, so that seeds compare on the same data
        'max_unreadable': 0,  # damaged pictures or empty texts that may be left out before the run refuses to start
        'workers': 0,  # processes that read; 0: threads (never changes the batches)
        'image_key': '',  # TFDS: which feature is the image, where there are several; CSV: which column, '' is 'path'
        'text_key': '',  # TFDS: which feature is the text, where there are several; text_csv, text_jsonl: which column, '' is 'text'
        'pair_key': '',  # the second text, where there are pairs: which feature or column; '' for single texts
        'label_key': '',  # TFDS: which feature is the label, where there are several; CSV and JSONL: which column, '' is 'label'
        'targets': '',  # CSV, JSONL: what that column holds: 'classes' (also ''), 'labels' (several, between ';' or '|') or 'values' (numbers)
        'columns': (0, -1),  # conll: which column is the token and which the tag; the last is -1
        'encoding': 'utf-8',  # of CSV, JSONL and text files: 'latin-1', 'cp1252', 'utf-16', ...
        'download': False,  # TFDS: download and prepare what is not there yet
    }


def load_data(section: Mapping[str, Any]) -> Data:
    """The data set that a config's `data` section means, its classes, splits and shots chosen.

    Args:
      section: the fields of `defaults()`; those left out take their default. `name` may be a user's own function,
        `(section) -> Data`, to whose result `classes`, `validation`, `test`, `shots` and `orientations` apply as to any other.

    Returns:
      The data; `notes` says what was chosen and what fell short.

    Raises:
      UserError: an unknown name, a missing or damaged source, a field out of its range.
    """
    section = {**defaults(), **section}
    _check(section)
    data = _source(section['name'])(section)
    if not isinstance(data, Data) or 'train' not in data.splits:
        found = f'splits {", ".join(data.splits)}' if isinstance(data, Data) else type(data).__name__
        raise UserError(f"data.name: {section['name']} must return a jtl.data.base.Data with a 'train' split, found {found}.")
    if section['classes']:
        data = keep_classes(data, tuple(section['classes']))
    # test first: it does not change when the share of validation does
    for name in ('test', 'validation'):
        if name not in data.splits and section[name] > 0:
            data = make_split(data, name, section[name], section['seed'])
        if name == 'test' and section['examples']:
            data = keep_examples(data, section['examples'], section['seed'])
    if section['shots']:
        data = keep_shots(data, section['shots'], section['seed'])
    data = with_orientations(data, section['orientations'])
    check_sampling(data, section['sampling'])
    return with_shares(data, section['sampling'])


def _source(name: str) -> Any:
    """The function behind a name: jtl's own, a user's `module:function`, or TFDS's (`mnist`, `glue/sst2`, `mnist:3.0.1`)."""
    if name in DATA or _is_users(name):
        return lookup(name, DATA, 'data')
    from jtl.data.tfds_source import named

    return named


def _is_users(name: str) -> bool:
    """Whether a name is that of a user's own function, not of a TFDS version."""
    return ':' in name and not re.fullmatch(r'[\d*]+\.[\d*]+\.[\d*]+', name.rpartition(':')[2])


def _check(section: Mapping[str, Any]) -> None:
    if not isinstance(section['name'], str) or not section['name']:
        raise UserError(f'data.name must be the name of a data set, found {section["name"]!r}. {did_you_mean("", DATA)}')
    for key in section:
        if key not in defaults() and not _is_users(section['name']):
            raise UserError(f'data.{key}: there is no such field. {did_you_mean(key, defaults())}'.rstrip())
    for key in ('examples', 'shots', 'workers', 'max_unreadable', 'seed'):
        if not isinstance(section[key], int) or section[key] < 0:
            raise UserError(f'data.{key} must be a whole number, 0 or more, found {section[key]!r}.')
    for key in ('validation', 'test'):
        if not 0 <= section[key] < 1:
            raise UserError(f'data.{key} is a share of the training split, in [0, 1), found {section[key]!r}.')
    if section['targets'] not in ('', *TARGETS):
        raise UserError(f'data.targets must be one of {", ".join(TARGETS)}, found {section["targets"]!r}.')
    if section['targets'] and section['name'] not in _WITH_TARGETS and not _is_users(section['name']):
        raise UserError(
            f'data.targets={section["targets"]!r}: only data.name={", ".join(map(repr, _WITH_TARGETS))} reads it; other data say themselves '
            'what their targets are.'
        )
    columns = section['columns']
    if not isinstance(columns, tuple | list) or [type(column) for column in columns] != [int, int]:
        raise UserError(f'data.columns must be two whole numbers, those of the token and of the tag, such as (0, -1), found {columns!r}.')
    check_encoding(section['encoding'])
    if isinstance(section['classes'], str):
        raise UserError(f'data.classes must be a tuple of class names, found {section["classes"]!r}. Write ({section["classes"]!r},).')
