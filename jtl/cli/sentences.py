"""Raw texts for `jtl predict`, one at a time: from standard input, plain lines, CSV and JSON Lines."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from etils import epath

from jtl.data.csv_rows import read_csv
from jtl.data.lines import lines_of
from jtl.errors import UserError, did_you_mean
from jtl.predictions import Text

STDIN = '-'
_SUFFIXES = ('.txt', '.csv', '.tsv', '.jsonl', '.json')


class Sentence(NamedTuple):
    """One text, or what is wrong with it.

    Attributes:
      name: of the file, a colon and the line.
      text: as `Bundle.predict` takes it.
      problem: a sentence; '' for a text that can be read.
    """

    name: str
    text: Text = ''
    problem: str = ''


@dataclass(frozen=True)
class Reader:
    """How texts are found in files.

    Attributes:
      text_key: of the text, a column of a CSV or a member of JSON objects.
      pair_key: of the second text of a pair; '' where there are no pairs. In plain lines a tab stands between the two.
      encoding: of files; standard input is UTF-8.
      words: whether JSON may hold a list of words in the place of a text.
    """

    text_key: str
    pair_key: str
    encoding: str
    words: bool

    def read(self, places: Sequence[str]) -> Iterator[Sentence]:
        """The texts in these places, in order, read as they are asked for.

        Raises:
          UserError: at once, a place that is not there or no file of text; when it is come to, a file that cannot be read to its end.
        """
        files = [_file(place) for place in places]
        return (sentence for place, path in zip(places, files, strict=True) for sentence in self._sentences(place, path))

    def _sentences(self, place: str, path: epath.Path | None) -> Iterator[Sentence]:
        if path is None:
            for number, line in enumerate(sys.stdin.buffer, 1):
                yield self._of_bytes(f'stdin:{number}', line, first=number == 1)
            return
        try:
            if path.suffix.lower() in ('.csv', '.tsv'):
                keys = {'text_key': self.text_key, **({'pair_key': self.pair_key} if self.pair_key else {})}
                for number, row in read_csv(path, keys, encoding=self.encoding, blank=('text_key', 'pair_key', 'split')):
                    yield _checked(f'{place}:{number}', [row[key] for key in keys])
            else:
                read = self._of_line if path.suffix.lower() == '.txt' else self._of_json
                for number, line in enumerate(lines_of(path, self.encoding), 1):
                    yield read(f'{place}:{number}', line)
        except UserError as error:  # in the words of this command, where they are those of a config
            said = str(error).removeprefix('data.root: ')
            raise UserError(said.replace('data.text_key: ', '--text-key: ').replace('data.pair_key: ', '--pair-key: ')) from None

    def _of_bytes(self, name: str, line: bytes, first: bool) -> Sentence:
        try:
            return self._of_line(name, line.decode('utf-8-sig' if first else 'utf-8'))
        except UnicodeDecodeError as error:
            return Sentence(name, problem=f'no UTF-8 (byte 0x{line[error.start]:02x}).')

    def _of_line(self, name: str, line: str) -> Sentence:
        if not self.pair_key or not line.strip():
            return _checked(name, [line])
        parts = line.rstrip('\r\n').split('\t')
        if len(parts) != 2:
            return Sentence(name, problem=f'the model reads pairs of texts, with a tab between the two; here are {len(parts) - 1} tabs.')
        return _checked(name, parts)

    def _of_json(self, name: str, line: str) -> Sentence:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Sentence(name, problem=f'no JSON ({error}).' if line.strip() else 'the line is empty.')
        if not isinstance(found, dict):
            return Sentence(name, problem='no JSON object.')
        parts = []
        for option, key in (('--text-key', self.text_key), ('--pair-key', self.pair_key)):
            if not key:
                continue
            if key not in found:
                return Sentence(name, problem=f'the object has no {key!r} ({option}). {did_you_mean(key, found)}'.rstrip())
            parts.append(found[key])
        if self.words and _is_words(parts[0]):
            return Sentence(name, tuple(parts[0]))
        if not all(isinstance(part, str) for part in parts):
            return Sentence(name, problem=f'{self.text_key!r} is {"neither a text nor a list of words" if self.words else "no text"}.')
        return _checked(name, parts)


def _file(place: str) -> epath.Path | None:
    """The file at a place, None for standard input."""
    if place == STDIN:
        return None
    path = epath.Path(place).expanduser()
    if not path.exists():
        raise UserError(f'{place}: there is no such file.')
    if path.is_dir() or path.suffix.lower() not in _SUFFIXES:
        what = 'a folder' if path.is_dir() else 'no file of text by its name'
        raise UserError(f'{place}: {what}. The model reads text: give {", ".join(_SUFFIXES)} files, or - for standard input.')
    return path


def _checked(name: str, parts: Sequence[str]) -> Sentence:
    """A text or a pair, without the spaces around it."""
    parts = [part.strip() for part in parts]
    if not all(parts):
        return Sentence(name, problem='the text is empty.' if len(parts) == 1 else 'a text of the pair is empty.')
    if any('\ud800' <= letter <= '\udfff' for part in parts for letter in part):
        return Sentence(name, problem='no Unicode text, it holds half a surrogate pair.')
    return Sentence(name, parts[0] if len(parts) == 1 else tuple(parts))


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(word, str) and word.strip() for word in value)
