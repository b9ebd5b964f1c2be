"""Text as token ids: each example is tokenised once, and batches are cut out of flat arrays."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jtl.data.base import Data, Example, Examples, Split, UnreadableError, content_digest
from jtl.errors import UserError
from jtl.models.text import TextPreprocessing, json_of

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_CHUNK = 1000  # examples that are held in the library's own form at a time


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised examples, in flat arrays.

    Attributes:
      examples: the raw ones.
      preprocessing: with which they were tokenised.
      ids: (sum of lengths,) int32, one example after the other.
      segments: as `ids`, token types.
      ends: (N + 1,) int64: example i has the ids from ends[i] to ends[i + 1].
      word_starts: of examples already split into words, (sum of words,) int32: where in the example's ids each word begins; -1: it was
        cut off. None for whole texts.
      word_ends: (N + 1,) int64, as `ends`; None for whole texts.
      cut: (N,) int32, how many words (of whole texts: 0 or 1) an example lost because it was longer than max_length.
      unread: (N,) bool, which examples could not be read. They hold special tokens alone, and cannot be batched.
    """

    examples: Examples
    preprocessing: TextPreprocessing
    ids: np.ndarray
    segments: np.ndarray
    ends: np.ndarray
    word_starts: np.ndarray | None
    word_ends: np.ndarray | None
    cut: np.ndarray
    unread: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """(N,) int32, tokens of each example, special ones included."""
        return np.diff(self.ends).astype(np.int32)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Example:
        """The raw example with `ids`, `segments` and, of words, `word_starts`: (T,), (T,) and (W,) int32 without filling."""
        place = slice(self.ends[index], self.ends[index + 1])
        example = {**self.examples[index], 'ids': self.ids[place], 'segments': self.segments[place]}
        if self.word_starts is not None and self.word_ends is not None:
            example['word_starts'] = self.word_starts[self.word_ends[index] : self.word_ends[index + 1]]
        return example

    def digest(self, index: int) -> bytes:
        """The digest of the raw example's content."""
        return content_digest(self.examples, index)


def tokenized(split: Split, preprocessing: TextPreprocessing) -> Split:
    """The split with `Tokens` as its examples: special tokens added, cut to `max_length` (of a pair, the longer text first).

    Words stay apart: a tokenizer of whole words takes each as it is, one of bytes puts a space before each, and a word of which the tokenizer
    would leave nothing is unknown to it, so that every word that is not cut off has a token. Examples that cannot be read are left to the
    preflight, which tells of them all.

    Raises:
      UserError: examples without text, or a max_length without room for pairs.
    """
    kind = next((kind for example in _raw(split, range(len(split))) if (kind := _kind(example))), 'text')
    encoder = _encoder(preprocessing.tokenizer, preprocessing.max_length, kind == 'words')
    special = encoder.num_special_tokens_to_add(kind == 'pair')
    if special >= preprocessing.max_length:
        raise UserError(
            f'text.max_length={preprocessing.max_length} leaves no room for pairs: the tokenizer adds {special} special tokens.'
        )
    parts, unread = [_flat([])], [False] * len(split)
    for first in range(0, len(split), _CHUNK):
        raw = list(_raw(split, range(first, min(first + _CHUNK, len(split)))))
        other = next((found for example in raw if (found := _kind(example)) not in (None, kind)), None)
        if other:
            raise UserError(f'data: some examples are {kind} and others {other}; they must all be of one kind.')
        unread[first : first + len(raw)] = [example is None for example in raw]
        parts.append(_flat(_word_rows(encoder, raw, preprocessing) if kind == 'words' else _rows(encoder, raw)))
    ids, segments, lengths, starts, counts, cut = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    words = kind == 'words'
    tokens = Tokens(
        split.examples,
        preprocessing,
        ids,
        segments,
        _ends(lengths),
        starts if words else None,
        _ends(counts) if words else None,
        cut,
        np.array(unread, bool),
    )
    return Split(tokens, split.targets, split.name_of)


def as_read(data: Data, preprocessing: Any) -> Data:
    """The data as they are batched: texts tokenised, with a note of those that are cut; pictures as they are."""
    if not isinstance(preprocessing, TextPreprocessing):
        return data
    splits = {name: tokenized(split, preprocessing) for name, split in data.splits.items()}
    cut = [cut_note(name, split.examples) for name, split in splits.items() if isinstance(split.examples, Tokens)]
    return replace(data, splits=splits, notes=(*data.notes, *filter(None, cut)))


def cut_note(name: str, tokens: Tokens) -> str | None:
    """A sentence on how many texts of a split were cut; None where none was."""
    cut = np.count_nonzero(tokens.cut)
    if not cut:
        return None
    what, lost = ('texts', '') if tokens.word_starts is None else ('sentences', f': {tokens.cut.sum():,} words are lost')
    return f'{name}: {cut:,} of {len(tokens):,} {what} are longer than {tokens.preprocessing.max_length} tokens and are cut{lost}.'


def collate(tokens: Tokens, indices: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """The rows `indices` (b,), filled up.

    Args:
      tokens: of the split.
      indices: positions in it.
      width: tokens to fill up to, at least those of the longest row. It has room for the words too: one that was not cut off has a token.

    Returns:
      `ids` (b, width) int32, `mask` (b, width) bool, `segments` (b, width) int32 and, of words, `word_starts` (b, width) int32.

    Raises:
      UnreadableError: one of them could not be read; the message names it.
    """
    for index in indices[tokens.unread[indices]].tolist():
        tokens.examples[index]
    ids, mask = _filled(tokens.ids, tokens.ends, indices, width, tokens.preprocessing.pad_id)
    segments, _ = _filled(tokens.segments, tokens.ends, indices, width, 0)
    batch = {'ids': ids, 'mask': mask, 'segments': segments}
    if tokens.word_starts is not None and tokens.word_ends is not None:
        batch['word_starts'], _ = _filled(tokens.word_starts, tokens.word_ends, indices, width, -1)
    return batch


def bucket_of(longest: int, buckets: Sequence[int]) -> int:
    """The smallest of the buckets, which are in rising order, that holds so many tokens."""
    return buckets[bisect_left(buckets, longest)]


def _filled(flat: np.ndarray, ends: np.ndarray, indices: np.ndarray, width: int, filling: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a flat array (b, width), and where they are real."""
    counts = ends[indices + 1] - ends[indices]
    if len(counts) and counts.max() > width:
        raise ValueError(f'rows of up to {counts.max()} do not fit into {width}')
    real = np.arange(width) < counts[:, None]
    found = np.full(real.shape, filling, flat.dtype)
    found[real] = flat[(ends[indices][:, None] + np.arange(width))[real]]
    return found, real


class _Row(NamedTuple):
    """One tokenised example."""

    ids: list[int]
    segments: list[int]
    starts: list[int]  # of words, see Tokens
    cut: int


def _raw(split: Split, indices: range) -> Iterator[Example | None]:
    """The examples; None for those that cannot be read."""
    for index in indices:
        try:
            yield split.examples[index]
        except UnreadableError:
            yield None


def _kind(example: Example | None) -> str | None:
    """'words', 'pair' or 'text'; None for an example that cannot be read."""
    if example is None:
        return None
    kind = next((key for key in ('words', 'pair', 'text') if key in example), None)
    if kind is None:
        raise UserError(f'data: the model reads text, but the examples hold {", ".join(key for key in example if key != "label")}.')
    return kind


@lru_cache(maxsize=4)
def _encoder(tokenizer: str, max_length: int, words: bool) -> 'Tokenizer':
    """A tokenizer that cuts; of words, one that takes them as they are."""
    from tokenizers import Tokenizer

    found = Tokenizer.from_str(json.dumps(_for_words(json_of(tokenizer))) if words else tokenizer)
    found.enable_truncation(max_length, strategy='longest_first')
    return found


def _for_words(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """The tokenizer's JSON for words that are already split: one of whole words splits none further, one of bytes begins each with a space."""
    if tokenizer['model'].get('type') == 'WordLevel':
        return {**tokenizer, 'pre_tokenizer': None}
    return {**tokenizer, 'pre_tokenizer': _spaced(tokenizer.get('pre_tokenizer'))}


def _spaced(part: Any) -> Any:
    if isinstance(part, list):
        return [_spaced(value) for value in part]
    if not isinstance(part, dict):
        return part
    part = {key: _spaced(value) for key, value in part.items()}
    return {**part, 'add_prefix_space': True} if part.get('type') == 'ByteLevel' else part


def _rows(encoder: 'Tokenizer', raw: Sequence[Example | None]) -> list[_Row]:
    """Whole texts and pairs of them."""
    texts = [_text(example) for example in raw]
    return [_row(encoding, [], int(bool(encoding.overflowing))) for encoding in encoder.encode_batch_fast(texts)]


def _text(example: Example | None) -> str | tuple[str, str]:
    if example is None:
        return ''
    return (example['text'], example['pair']) if 'pair' in example else example['text']


def _word_rows(encoder: 'Tokenizer', raw: Sequence[Example | None], preprocessing: TextPreprocessing) -> list[_Row]:
    """Sentences; a word of which the tokenizer leaves nothing gets the unknown token."""
    unknown = None if preprocessing.unk_id is None else preprocessing.words[preprocessing.unk_id]
    sentences = [list(example['words']) if example else [] for example in raw]
    rows = []
    for words, encoding in zip(sentences, encoder.encode_batch(sentences, is_pretokenized=True), strict=True):
        first = _first_tokens(encoding)
        reached = 1 + max(first, default=-1) if encoding.overflowing else len(words)
        if len(first) < reached and unknown is not None:
            again = [unknown if k < reached and k not in first else word for k, word in enumerate(words)]
            encoding = encoder.encode(again, is_pretokenized=True)
            first = _first_tokens(encoding)
        room = preprocessing.max_length if encoding.overflowing else len(encoding.ids)
        starts = [first.get(k, -1) for k in range(min(len(words), room))]
        rows.append(_row(encoding, starts, len(words) - len(first)))
    return rows


def _first_tokens(encoding: 'Encoding') -> dict[int, int]:
    """From the number of a word to the position of its first token."""
    found: dict[int, int] = {}
    for position, word in enumerate(encoding.word_ids):
        if word is not None:
            found.setdefault(word, position)
    return found


def _row(encoding: 'Encoding', starts: list[int], cut: int) -> _Row:
    return _Row(encoding.ids, encoding.type_ids, starts, cut)


def _flat(rows: Sequence[_Row]) -> tuple[np.ndarray, ...]:
    """int32 arrays: ids and segments one row after the other, and each row's number of them; word starts likewise; and what was cut."""
    ids, segments, starts = [row.ids for row in rows], [row.segments for row in rows], [row.starts for row in rows]
    return _joined(ids), _joined(segments), _counted(ids), _joined(starts), _counted(starts), np.array([row.cut for row in rows], np.int32)


def _joined(lists: Sequence[Sequence[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(lists), np.int32)


def _counted(lists: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array([len(values) for values in lists], np.int32)


def _ends(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
