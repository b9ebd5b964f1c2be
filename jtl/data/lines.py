"""Text files: their lines in any encoding, and which file is which split."""

import codecs
from collections.abc import Iterator, Sequence

from etils import epath

from jtl.data.base import SPLIT_NAMES
from jtl.errors import UserError

_BLOCK = 1 << 20  # bytes read at once
_NAMED = 5  # files that are named one by one


def lines_of(path: epath.Path, encoding: str = 'utf-8') -> Iterator[str]:
    """The lines of a file, one by one, each with its end. Nothing but a line feed ends one; a byte order mark is left out.

    Args:
      path: of the file.
      encoding: `data.encoding`, one that Python knows.

    Raises:
      UserError: an unknown encoding, a file that cannot be read, or, with its line, a byte that is none of that encoding.
    """
    held: list[str] = []  # what was read of a line whose end was not
    for text in _decoded(path, encoding):
        first, *more = text.split('\n')
        held.append(first)
        for following in more:
            yield ''.join(held) + '\n'
            held = [following]
    if any(held):
        yield ''.join(held)


def check_encoding(encoding: str) -> None:
    """UserError for an encoding that Python does not know, or that is none of text."""
    try:
        ' '.encode(encoding)  # Python looks up no encoding of nothing
    except (LookupError, ValueError, TypeError):
        raise UserError(
            f"data.encoding: there is no encoding {encoding!r}. Common ones: 'utf-8', 'utf-16', 'latin-1', 'cp1252', 'shift_jis', 'gb18030'."
        ) from None


def split_files(root: str, suffixes: Sequence[str], kind: str) -> list[tuple[epath.Path, str | None]]:
    """The files of a data set, each with the split it is called after; None for one file that `root` itself names.

    Args:
      root: `data.root`: a file of any name, or a folder with train<suffix> and, where there are any, files of the other splits.
      suffixes: those that count in a folder.
      kind: what to call such a file in messages.

    Raises:
      UserError: nothing there, a folder without a file of train, or with two of one split.
    """
    top = epath.Path(root).expanduser()
    if not top.is_dir():
        if not top.exists():
            raise UserError(f'data.root: there is no file or folder {root}.')
        return [(top, None)]
    found: list[tuple[epath.Path, str | None]] = []
    for split, names in SPLIT_NAMES.items():
        there = [path for name in names for suffix in suffixes if (path := top / f'{name}{suffix}').is_file()]
        if len(there) > 1:
            raise UserError(f'data.root: {top} has {" and ".join(path.name for path in there)}, which both mean {split}. Keep one.')
        found += [(path, split) for path in there]
    if not found or found[0][1] != 'train':
        other = sorted(path.name for path in top.iterdir() if path.suffix.lower() in suffixes)
        held = f'only {", ".join(other[:_NAMED])}' if other else f'no {kind}'
        wanted = ' or '.join(f'train{suffix}' for suffix in suffixes)
        raise UserError(f'data.root: the folder {top} has no {wanted}, {held}. Name a {kind}, or a folder with a train{suffixes[0]}.')
    return found


def _decoded(path: epath.Path, encoding: str) -> Iterator[str]:
    """The content of a file, piece by piece."""
    check_encoding(encoding)
    decoder = codecs.getincrementaldecoder(encoding)()
    line, start, block = 1, b'', b'-'
    try:
        with path.open('rb') as file:
            while block:
                block, state = file.read(_BLOCK), decoder.getstate()
                begins = not start
                start = start or block[:2]
                try:
                    text = decoder.decode(block, final=not block)
                except UnicodeDecodeError as error:
                    decoder.setstate(state)  # it holds the bytes of a character that the last block cut in two
                    line += decoder.decode(block[: max(error.start - len(state[0]), 0)]).count('\n')
                    raise _undecodable(path, line, encoding, error.object[error.start], start) from None
                line += text.count('\n')
                yield text.removeprefix('\ufeff') if begins else text
    except OSError as error:
        raise UserError(f'data.root: {path} cannot be read ({error}).') from None


def _undecodable(path: epath.Path, line: int, encoding: str, byte: int, start: bytes) -> UserError:
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        hint = "It begins as UTF-16 does: set data.encoding='utf-16'."
    elif encoding.lower().replace('_', '-') in ('utf-8', 'utf8'):
        hint = "Save the file as UTF-8, as a spreadsheet offers it, or name its encoding: data.encoding='latin-1', 'cp1252', ..."
    else:
        hint = 'Name the encoding that the file has in data.encoding.'
    return UserError(f'data.root: {path}, line {line}: no {encoding.upper()} (byte 0x{byte:02x}). {hint}')
