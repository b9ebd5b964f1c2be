"""Text held in memory: whole texts (or pairs of them), and sentences already split into words."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from etils import epath

from jtl.data.base import SPLIT_NAMES, Data, Example, Split, UnreadableError, fingerprint
from jtl.data.rows import Rows, names_of, notes_of, targets_of


@dataclass(frozen=True, eq=False)
class Lines:
    """Where examples stand in files: called with a position, it says '<file>, line <n>'.

    Attributes:
      files: names, as a person knows them.
      file: (N,) int32, which of the files each example stands in.
      line: (N,) int32, the line on which it begins, from 1.
    """

    files: tuple[str, ...]
    file: np.ndarray
    line: np.ndarray

    def __call__(self, index: int) -> str:
        """The name of one example."""
        return f'{self.files[self.file[index]]}, line {self.line[index]}'


@dataclass(frozen=True, eq=False)
class Texts:
    """Examples `{'text': str}`, with `'pair': str` where each has a second text, and `'label'` where there are targets.

    >>> Texts(('Good.', 'Bad.'), targets=np.array([1, 0]))[1]['text']
    'Bad.'

    Attributes:
      texts: one an example.
      pairs: as many second texts, or none at all.
      targets: (N, ...) or None, of which `label` is a row.
      name_of: what to call an example in messages.
    """

    texts: Sequence[str]
    pairs: Sequence[str] = ()
    targets: np.ndarray | None = None
    name_of: Callable[[int], str] = 'text {}'.format

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Example:
        """One example. Raises UnreadableError for an empty text, or one that is no Unicode."""
        self._content(index)
        example: Example = {'text': self.texts[index]}
        if self.pairs:
            example['pair'] = self.pairs[index]
        return example if self.targets is None else {**example, 'label': self.targets[index]}

    def digest(self, index: int) -> bytes:
        """SHA-256 of the text, and of its pair."""
        return hashlib.sha256(b'\0'.join(self._content(index))).digest()

    def _content(self, index: int) -> list[bytes]:
        parts = [self.texts[index], *([self.pairs[index]] if self.pairs else [])]
        for part, what in zip(parts, ('text', 'second text'), strict=False):
            if not part.strip():
                raise UnreadableError(f'{self.name_of(index)}: the {what} is empty.')
        return [_encoded(part, self.name_of, index) for part in parts]


@dataclass(frozen=True, eq=False)
class Words:
    """Examples `{'words': tuple[str, ...]}`, and `'label'` where there are targets: (len(words),), one for each word.

    Attributes:
      sentences: the words of each example.
      targets: (N, W) int32 class numbers of words, -1 where a sentence has no word; or None.
      name_of: what to call an example in messages.
    """

    sentences: Sequence[tuple[str, ...]]
    targets: np.ndarray | None = None
    name_of: Callable[[int], str] = 'sentence {}'.format

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> Example:
        """One example. Raises UnreadableError for a sentence without words, an empty word, or one that is no Unicode."""
        self._content(index)
        words = tuple(self.sentences[index])
        return {'words': words} if self.targets is None else {'words': words, 'label': self.targets[index][: len(words)]}

    def digest(self, index: int) -> bytes:
        """SHA-256 of the words."""
        return hashlib.sha256(b'\0'.join(self._content(index))).digest()

    def _content(self, index: int) -> list[bytes]:
        words = self.sentences[index]
        if not words or not all(words):
            raise UnreadableError(f'{self.name_of(index)}: ' + ('a word is empty.' if words else 'the sentence has no words.'))
        return [_encoded(word, self.name_of, index) for word in words]


def data_of_texts(splits: Mapping[str, Rows], kind: str, root: str, notes: Sequence[str] = ()) -> Data:
    """The data that rows of texts are.

    Args:
      splits: by name, train among them; contents are `(text,)` or `(text, pair)`.
      kind: what labels are: 'classes', 'labels', 'values', or '' for none (targets are zeros).
      root: `data.root`, relative to which files are named.
      notes: a sentence each.

    Raises:
      UserError: a label that train lacks, or another count of values.
    """
    labels = names_of(splits['train'], kind) if kind else ()
    found, content = {}, hashlib.sha256()
    for name in (name for name in SPLIT_NAMES if name in splits):
        rows = splits[name]
        columns = tuple(zip(*rows.contents, strict=True))
        targets = targets_of(rows, kind, labels, splits['train']) if kind else np.zeros(len(rows.contents), np.int32)
        places = places_of(rows.places, root)
        content.update(texts_digest(text for column in columns for text in column))
        found[name] = Split(Texts(columns[0], columns[1] if len(columns) > 1 else (), targets, places), targets, places)
    return Data(found, labels, (*notes, *notes_of(labels, kind, 'text')), fingerprint(found, labels, content.hexdigest()))


def places_of(places: Sequence[tuple[epath.Path, int]], root: str) -> Lines:
    """The names of examples that stand at (file, line), files relative to the folder `root`, so that they are the same wherever it lies."""
    top = epath.Path(root).expanduser()
    files = list(dict.fromkeys(path for path, _ in places))
    number = {path: k for k, path in enumerate(files)}
    names = tuple(str(path.relative_to(top)) if path != top else path.name for path in files)
    return Lines(names, np.array([number[path] for path, _ in places], np.int32), np.array([line for _, line in places], np.int32))


def texts_digest(texts: Iterable[str]) -> bytes:
    """SHA-256 of texts in order, with their boundaries."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode('utf-8', 'surrogatepass') + b'\0')
    return digest.digest()


def _encoded(text: str, name_of: Callable[[int], str], index: int) -> bytes:
    """In UTF-8. UnreadableError where that cannot be: JSON can spell half a surrogate pair, and a source may escape bytes as such halves."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnreadableError(f'{name_of(index)}: no Unicode text, it holds {text[error.start]!a}.') from None
