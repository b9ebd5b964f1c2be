"""Files of word vectors, read in one pass: a few rows of a file that may be larger than memory.

| format | what it is |
|-|-|
| GloVe text | a line a word: the word, then its numbers, separated by spaces. A word may hold spaces (glove.840B has such) |
| word2vec text | the same below a line `count dim`; fastText's `.vec` too |
| word2vec binary | a line `count dim`; then the word, a space, `dim` little-endian float32, and perhaps a newline |
| npy | a 2-d array, and beside it an index, the word of each row (`word_vector_index.read_npy`) |

Text and binary may be compressed with gzip. The format is told by the content.
"""

import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import BinaryIO, NamedTuple, cast

import numpy as np
from etils import epath
from jaxtyping import Float32

from jtl.checkpoint.base import CheckpointError

GLOVE, TEXT, BINARY, NPY = 'GloVe text', 'word2vec text', 'word2vec binary', 'npy with index'
MAX_DIM = 65_536  # numbers of a word; more is a damaged header
DAMAGED = 'It is truncated or damaged: download or copy it again.'
_BOM = b'\xef\xbb\xbf'

_MAX_LINE = 1 << 22  # bytes
_MAX_WORD = 1 << 16  # bytes
_CHUNK = 1 << 20  # bytes read at a time; more than a word and its numbers have
_HEAD = 1 << 18  # bytes that tell a format: some lines of it
_HEADER = re.compile(rb'(?:\xef\xbb\xbf)?(\d{1,15})[ \t]+(\d{1,15})[ \t]*\r?\n')
_OTHERS = {
    b'PK\x03\x04': 'a zip archive. Unpack it first',
    b'\xba\x16\x4f\x2f': "fastText's own binary format. Take the .vec file, or write one from it",
    b'version https://git-lfs': 'a Git LFS pointer, not the file itself. Fetch it: git lfs pull',
    b'<!DOCTYPE': 'a web page. The download went wrong',
    b'<html': 'a web page. The download went wrong',
}

Row = Float32[np.ndarray, ' d']


class Found(NamedTuple):
    """What was read: the format, the numbers of a word, and a row for each word that was asked for and is there, as UTF-8."""

    format: str
    dim: int
    rows: dict[bytes, Row]


def word_vector_format(path: epath.Path, name: str) -> str | None:
    """The format that the content tells; None for what is no word vectors. CheckpointError where it cannot be read."""
    head = _head(path, name)
    if head.startswith(b'\x93NUMPY'):
        return NPY
    header = _HEADER.match(head)
    if header:
        return TEXT if _is_text(head[header.end() :], int(header[2])) else BINARY
    return GLOVE if _dim_of(head) else None


def read_lines_or_binary(path: epath.Path, name: str, wanted: Collection[bytes], form: str | None) -> Found:
    """The rows of the words `wanted`; of a word that occurs twice, the first.

    Words are compared as bytes, so that one that is no valid UTF-8 does no harm. How many numbers a row has is checked in every row, the
    numbers themselves in those that are kept.

    Args:
      path: a local or remote file.
      name: of the file, for messages.
      wanted: words as UTF-8.
      form: as `word_vector_format` found it, but not NPY.

    Raises:
      CheckpointError: no word vectors, or damaged; with the line, or the word's place in the file.
    """
    head = _head(path, name)
    if form is None:
        what = next((what for magic, what in _OTHERS.items() if head.startswith(magic)), '')
        raise CheckpointError(
            f'{name}: {what or "no word vectors of a known format (GloVe, fastText or word2vec text, word2vec binary, .npy with its index)"}; '
            f'it begins with {head[:12]!r}.'
        )
    with reading(path, name) as file:
        if form == GLOVE:
            return Found(form, dim := _dim_of(head), _text(file, name, wanted, dim))
        header = _HEADER.match(file.readline(_MAX_LINE))
        assert header is not None, 'the format says so'
        count, dim = int(header[1]), int(header[2])
        if not count or not 1 <= dim <= MAX_DIM:
            raise CheckpointError(
                f'{name}: its first line says {count:,} words of {dim:,} numbers, which cannot be (at most {MAX_DIM:,} numbers).'
            )
        return Found(form, dim, (_text if form == TEXT else _binary)(file, name, wanted, dim, count))


@contextmanager
def reading(path: epath.Path, name: str) -> Iterator[BinaryIO]:
    """The file, decompressed where it is compressed. CheckpointError for what goes wrong while it is read."""
    try:
        with path.open('rb') as raw:
            packed = raw.read(2) == b'\x1f\x8b'
            raw.seek(0)
            yield cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=raw)), _CHUNK)) if packed else raw
    except (OSError, EOFError, zlib.error) as error:
        raise CheckpointError(f'{name}: cannot be read ({error}).') from None


def lines(file: BinaryIO, name: str, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """Lines as they are, but for a byte order mark, with their numbers from `first` on. CheckpointError for one without end."""
    for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE), b''), first):
        if len(line) == _MAX_LINE:
            raise CheckpointError(f'{name}, line {number:,}: longer than {_MAX_LINE:,} bytes. {DAMAGED}')
        yield number, line.removeprefix(_BOM) if number == 1 else line


def finite(row: np.ndarray, where: str) -> Row:
    """The row as float32. CheckpointError where a number is none, or none in float32."""
    with np.errstate(over='ignore'):  # told below
        found = row.astype(np.float32)
    if not np.isfinite(found).all():
        raise CheckpointError(f'{where}: {row[~np.isfinite(found)][0]} is no finite number in float32.')
    return found


def _text(file: BinaryIO, name: str, wanted: Collection[bytes], dim: int, count: int | None = None) -> dict[bytes, Row]:
    """`count` is what the line above the rows said."""
    rows: dict[bytes, Row] = {}
    seen = 0
    for number, line in lines(file, name, 1 if count is None else 2):
        line = line.replace(b'\t', b' ').rstrip(b' \r\n')
        if not line:
            continue
        seen += 1
        word = line[: line.index(b' ')] if line.count(b' ') == dim else _word_with_spaces(line, dim, f'{name}, line {number:,}')
        if word in wanted and word not in rows:
            rows[word] = _numbers(line[len(word) + 1 :].split(b' '), f'{name}, line {number:,}')
    if count is not None and seen != count:
        raise CheckpointError(f'{name}: its first line says {count:,} words, there are {seen:,}. {DAMAGED}')
    return rows


def _word_with_spaces(line: bytes, dim: int, where: str) -> bytes:
    """The word of a line with more pieces than a word and its numbers. CheckpointError where it is rather a line with more or fewer numbers."""
    word, *numbers = line.rsplit(b' ', dim)
    if len(numbers) == dim and _number(word.rpartition(b' ')[2]) is None:
        return word
    raise CheckpointError(
        f'{where}: {_numbers_behind(line.split(b" "))} numbers behind the word, but {dim} are a row of this file. {DAMAGED}'
    )


def _numbers(pieces: list[bytes], where: str) -> Row:
    found = [_number(piece) for piece in pieces]
    if None in found:
        raise CheckpointError(f'{where}: {pieces[found.index(None)].decode(errors="replace")!r} is no number. {DAMAGED}')
    return finite(np.array(found, np.float64), where)


def _number(piece: bytes) -> float | None:
    """What `piece` says in digits; None for anything else, such as the words nan and infinity, which Python reads too."""
    try:
        return None if b'_' in piece or b'n' in piece.lower() else float(piece)
    except ValueError:
        return None


def _binary(file: BinaryIO, name: str, wanted: Collection[bytes], dim: int, count: int) -> dict[bytes, Row]:
    rows: dict[bytes, Row] = {}
    width = dim * 4
    chunk, at = b'', 0
    for number in range(1, count + 1):
        if len(chunk) - at < _MAX_WORD + width:
            chunk, at = chunk[at:] + file.read(_CHUNK), 0
        space = chunk.find(b' ', at, at + _MAX_WORD)
        start, end = space + 1, space + 1 + width
        if space < 0 or end > len(chunk):
            raise CheckpointError(
                f'{name}: its first line says {count:,} words of {dim} numbers, but word {number:,} is not whole. {DAMAGED}'
            )
        word = chunk[at:space].lstrip(b'\n')  # the newline behind the last row, which not all writers write
        if word in wanted and word not in rows:
            rows[word] = finite(np.frombuffer(chunk, '<f4', dim, start), f'{name}, word {number:,}')
        at = end
    if (chunk[at:] + file.read(_CHUNK)).strip(b'\n'):
        raise CheckpointError(f'{name}: its first line says {count:,} words of {dim} numbers, but more follows. {DAMAGED}')
    return rows


def _head(path: epath.Path, name: str) -> bytes:
    with reading(path, name) as file:
        return file.read(_HEAD)


def _is_text(rows: bytes, dim: int) -> bool:
    """Whether what follows the line `count dim` is text: its first line ends in so many numbers, or all of it can be printed."""
    pieces = rows.partition(b'\n')[0].split()
    if len(pieces) > dim > 0 and all(_number(piece) is not None for piece in pieces[-dim:]):
        return True
    sample = rows[:4096]
    try:
        sample.decode()
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 3:  # else the sample ends amid a letter
            return False
    return all(byte >= 32 or byte in b'\t\r\n' for byte in sample)


def _dim_of(head: bytes) -> int:
    """How many numbers stand behind the words of most of the first lines of a GloVe file; 0 where these are no word vectors."""
    whole = head.removeprefix(_BOM).split(b'\n')[: -1 if len(head) == _HEAD else None]
    dims = []
    for line in [line for line in whole if line.strip()][:9]:
        pieces = line.replace(b'\t', b' ').rstrip(b' \r').split(b' ')
        dims.append(min(_numbers_behind(pieces), len(pieces) - 1))  # a word may be a number
    dim = Counter(dims).most_common(1)[0][0] if dims else 0
    return dim if 2 <= dim <= MAX_DIM else 0


def _numbers_behind(pieces: list[bytes]) -> int:
    """How many pieces at the end are numbers."""
    return next((k for k, piece in enumerate(reversed(pieces)) if _number(piece) is None), len(pieces))
