"""A CSV or TSV file of texts and their labels, a row each."""

from collections.abc import Mapping
from typing import Any

from jtl.data.base import Data
from jtl.data.csv_rows import read_csv
from jtl.data.lines import split_files
from jtl.data.rows import SPLIT_COLUMN, Rows, check_splits, label_of, split_of
from jtl.data.texts import data_of_texts
from jtl.errors import UserError


def text_csv(section: Mapping[str, Any]) -> Data:
    """`data.name='text_csv'`: `data.root` is a .csv or .tsv file, or a folder with train.csv and, where there are any, validation.csv and test.csv.

    text,label,split            (the first line names the columns; more columns do no harm)
    "Where is my card, please?",card_arrival,train

    The text is the column `data.text_key` (default 'text'), of pairs the second the column `data.pair_key`, the label the column
    `data.label_key` (default 'label'): a class, several labels or values, by `data.targets` and in the form that `jtl.data.csv_file.table`
    describes, as the column 'split', the quoting and `data.encoding` are too. Spaces around a text are left out. An empty text is
    found by the preflight, not here; the same text may stand in several rows.

    Raises:
      UserError: with file and line: a missing column, a label that is empty or that train lacks, a number of fields that is not the
        first line's, no number, bad quoting, or bytes that are not of the encoding.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError(
            "data.root: data.name='text_csv' needs a .csv or .tsv file here, or a folder with train.csv (validation.csv, test.csv)."
        )
    kind, label_key = section.get('targets') or 'classes', section.get('label_key') or 'label'
    pair_key = {'pair_key': section['pair_key']} if section.get('pair_key') else {}
    keys = {'text_key': section.get('text_key') or 'text', **pair_key, 'label_key': label_key}
    splits: dict[str, Rows] = {}
    files = split_files(root, ('.csv', '.tsv'), 'CSV file')
    for source, own in files:
        place = f'data.root: {source}'
        for line, row in read_csv(source, keys, encoding=section.get('encoding') or 'utf-8', blank=('text_key', 'pair_key')):
            where = f'{place}, line {line}'
            content = tuple(row[key] for key in ('text_key', 'pair_key') if key in keys)
            split = split_of(row.get(SPLIT_COLUMN, ''), own, where)
            splits.setdefault(split, Rows()).add(content, label_of(row['label_key'], kind, label_key, where), source, line)
    check_splits(splits, files, root)
    return data_of_texts(splits, kind, root)
