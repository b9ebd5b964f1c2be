"""CoNLL columns: a token and its tag a line, a blank line between sentences."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from jtl.data.base import SPLIT_NAMES, Data, Split, fingerprint
from jtl.data.lines import lines_of, split_files
from jtl.data.rows import Rows, check_splits
from jtl.data.texts import Words, places_of, texts_digest
from jtl.errors import UserError, did_you_mean

SUFFIXES = ('.conll', '.txt', '.iob', '.bio', '.tsv')
"""Of files in a folder; a file that `data.root` names may end in anything."""

_PREFIXES = tuple('BIELSUM')  # of tags in IOB1, IOB2, IOBES, BILOU, BMES


class Sentence(NamedTuple):
    """One sentence: the line of its first word (the next word stands on the next line), its words, and their tags."""

    line: int
    words: tuple[str, ...]
    tags: tuple[str, ...]


def conll(section: Mapping[str, Any]) -> Data:
    """`data.name='conll'`: `data.root` is a file of columns, or a folder with train.conll and, where there are any, files of the other splits.

    EU      NNP  B-ORG          (the columns of the token and of the tag are `data.columns`, default (0, -1): the first and the last)
    rejects VBZ  O
                                (a blank line ends a sentence, as a line that begins with -DOCSTART- does)

    Columns are separated by tabs, where the first line has one, else by spaces. A line that begins with '# ' before a sentence's first token
    is a comment, unless it has the columns of the other lines and in one of them (the tag's, say) what others have there: then '#' is a
    token. In a folder, files end in one of SUFFIXES.

    Examples are `Words`; targets are (N, W) int32 class numbers of tags, W the length of the longest sentence of all splits, -1 where
    there is no word. Labels are the tags as the files spell them, 'O' first, then in alphabetical order; which scheme they follow is the
    task's concern. A tag that train lacks is accepted where train has its type (I-ORG beside B-ORG).

    Raises:
      UserError: with file and line: another number of columns than the first line's, a token or a tag that is missing, a tag of a type
        that train lacks, or bytes that are not of `data.encoding`.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError(
            "data.root: data.name='conll' needs a file of columns here, or a folder with train.conll (validation.conll, test.conll)."
        )
    files = split_files(root, SUFFIXES, 'CoNLL file')
    columns, encoding = tuple(section.get('columns') or (0, -1)), section.get('encoding') or 'utf-8'
    splits: dict[str, Rows] = {}
    for source, own in files:
        for line, words, tags in sentences_of(source, columns, encoding):
            splits.setdefault(own or 'train', Rows()).add(words, tags, source, line)
    check_splits(splits, files, root)
    labels = _labels(splits)
    number = {label: k for k, label in enumerate(labels)}
    width = max(len(tags) for rows in splits.values() for tags in rows.labels)
    found, content = {}, hashlib.sha256()
    for name in (name for name in SPLIT_NAMES if name in splits):
        rows = splits[name]
        targets = np.full((len(rows.labels), width), -1, np.int32)
        for row, tags in zip(targets, rows.labels, strict=True):
            row[: len(tags)] = [number[tag] for tag in tags]
        places = places_of(rows.places, root)
        content.update(texts_digest(word for words in rows.contents for word in words))
        found[name] = Split(Words(tuple(rows.contents), targets, places), targets, places)
    return Data(found, labels, (), fingerprint(found, labels, content.hexdigest()))


def sentences_of(path: epath.Path, columns: Sequence[int] = (0, -1), encoding: str = 'utf-8') -> Iterator[Sentence]:
    """The sentences of a file of columns.

    Args:
      path: of the file.
      columns: the positions of the token and of the tag; negative ones count from the last.
      encoding: of the file.

    Raises:
      UserError: see `conll`.
    """
    lines = [text.rstrip('\r\n') for text in lines_of(path, encoding)]
    first, text = next(((line, text) for line, text in enumerate(lines, 1) if not _ends(text) and not text.startswith('# ')), (0, ''))
    if not first:
        return
    rows = [[] if _ends(line) else _cells(line, tabs='\t' in text) for line in lines]
    count = len(rows[first - 1])
    token, tag = _positions(columns, rows[first - 1], f'{path}, line {first}')
    whole = [cells for cells, line in zip(rows, lines, strict=True) if len(cells) == count and not line.startswith('# ')]
    known = [{cells[k] for cells in whole} if k != token else set() for k in range(count)]
    place = f'data.root: {path}'  # said once: a path is slow to spell
    held: list[tuple[str, str]] = []
    for line, cells in enumerate([*rows, []], 1):
        if not cells:
            if held:
                words, tags = zip(*held, strict=True)
                yield Sentence(line - len(held), words, tags)
            held = []
        elif lines[line - 1].startswith('# ') and not held and not (len(cells) == count and _like(cells, known)):
            continue  # a comment
        else:
            where = f'{place}, line {line}'
            if len(cells) != count:
                raise UserError(
                    f'{where}: {_columns(cells)}, but line {first} has {_columns(rows[first - 1])}. Every token needs its tag '
                    "('O' outside of entities) and as many columns as the first; a blank line ends a sentence."
                )
            for position, what in ((token, 'token'), (tag, 'tag')):
                if not cells[position]:
                    raise UserError(
                        f"{where}: the {what} is missing (column {position}, data.columns). Write it; a tag outside of entities is 'O'."
                    )
            held.append((cells[token], cells[tag]))


def _ends(text: str) -> bool:
    """Whether a line ends a sentence."""
    return not text.strip(' \t') or text.startswith('-DOCSTART-')


def _cells(text: str, tabs: bool) -> list[str]:
    """The columns of a line. Only tabs and spaces separate: a token may be any other white space."""
    return [cell.strip(' ') for cell in text.split('\t')] if tabs else [cell for cell in re.split('[ \t]+', text) if cell]


def _like(cells: Sequence[str], known: Sequence[set[str]]) -> bool:
    """Whether one of the columns holds what it holds in other lines."""
    return any(cell in others for cell, others in zip(cells, known, strict=True))


def _positions(columns: Sequence[int], cells: Sequence[str], where: str) -> tuple[int, int]:
    """The positions of token and tag, from 0, in a file whose first line has these cells."""
    for column in columns:
        if not -len(cells) <= column < len(cells):
            raise UserError(
                f'data.columns: there is no column {column} in {where}: {_columns(cells)}, numbered from 0, or from the last, which is -1. '
                'Columns are separated by tabs or spaces.'
            )
    token, tag = (column % len(cells) for column in columns)
    if token == tag:
        raise UserError(
            f'data.root: {where}: {_columns(cells)}, and data.columns={tuple(columns)} finds token and tag in the same one. '
            'Every token needs its tag in a column of its own, separated by a tab or a space.'
        )
    return token, tag


def _columns(cells: Sequence[str]) -> str:
    """What a line has, for a message."""
    shown = ' | '.join(cells[:6]) + (' | ...' if len(cells) > 6 else '')
    return f'{len(cells)} column{"s" if len(cells) > 1 else ""} ({shown})'


def _labels(splits: Mapping[str, Rows]) -> tuple[str, ...]:
    """The tags of all splits, 'O' first. UserError for one of a type that train lacks."""
    known = {tag for tags in splits['train'].labels for tag in tags}
    types = {_type(tag) for tag in known}
    for rows in splits.values():
        for (path, line), tags in zip(rows.places, rows.labels, strict=True):
            for k, tag in enumerate(tags):
                if _type(tag) not in types:
                    raise UserError(
                        f'data.root: {path}, line {line + k}: {tag!r} is of no type that training sentences have. {did_you_mean(tag, known)} '
                        'Every type needs training examples: mend the tag, or move sentences to train.'
                    )
            known.update(tags)
    return tuple(sorted(known, key=lambda tag: (tag != 'O', tag)))


def _type(tag: str) -> str:
    """What a tag is about, without the prefix that says where in an entity it stands."""
    prefix, dash, rest = tag.partition('-')
    return rest if dash and prefix in _PREFIXES else tag
