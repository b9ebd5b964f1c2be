"""Text without labels, a line an example: what language models learn from."""

from collections.abc import Mapping
from typing import Any

from jtl.data.base import Data
from jtl.data.lines import lines_of, split_files
from jtl.data.rows import Rows, check_splits
from jtl.data.texts import data_of_texts
from jtl.errors import UserError


def text_lines(section: Mapping[str, Any]) -> Data:
    """`data.name='text_lines'`: `data.root` is a text file, or a folder with train.txt and, where there are any, validation.txt and test.txt.

    Blank lines are left out, and spaces around a text. There are no labels: targets are (N,) int32 zeros. Of one file, and where a split is
    missing, `data.validation` and `data.test` take their share of train's lines, drawn at random.

    Raises:
      UserError: nothing there, no text in train, or, with file and line, bytes that are not of `data.encoding`.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='text_lines' needs a text file here, or a folder with train.txt (validation.txt, test.txt).")
    splits: dict[str, Rows] = {}
    files = split_files(root, ('.txt',), 'text file')
    for source, own in files:
        for line, text in enumerate(lines_of(source, section.get('encoding') or 'utf-8'), 1):
            if text.strip():
                splits.setdefault(own or 'train', Rows()).add((text.strip(),), '', source, line)
    check_splits(splits, files, root)
    return data_of_texts(splits, '', root)
