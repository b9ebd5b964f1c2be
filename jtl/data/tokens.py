"""Text as token ids: each example is tokenised once, and batches are cut out of flat arrays."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jtl.data.base import Example, Examples, Split
from jtl.models.text import TextPreprocessing


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokenised examples, in flat arrays.

    Attributes:
      examples: the raw ones.
      preprocessing: with which they were tokenised.
      ids: (sum of lengths,) int32, one example after the other.
      segments: as `ids`, token types.
      ends: (N + 1,) int64: example i has the ids from ends[i] to ends[i + 1].
      word_starts: of examples already split into words, (sum of word_counts,) int32: where in the example's ids each word begins; -1: it was
        cut off. None for whole texts.
      word_ends: (N + 1,) int64, as `ends`; None for whole texts.
      cut: (N,) int32, how many words (of whole texts: 0 or 1) an example lost because it was longer than max_length.
    """

    examples: Examples
    preprocessing: TextPreprocessing
    ids: np.ndarray
    segments: np.ndarray
    ends: np.ndarray
    word_starts: np.ndarray | None
    word_ends: np.ndarray | None
    cut: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int32, tokens of each example, special ones included."""
        return np.diff(self.ends).astype(np.int32)

    @property
    def word_counts(self) -> np.ndarray | None:
        """(N,) int32, words of each example, at most max_length; None for whole texts."""
        return None if self.word_ends is None else np.diff(self.word_ends).astype(np.int32)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, index: int) -> Example:
        """The raw example with `ids`, `segments` and, of words, `word_starts`: (T,), (T,) and (W,) int32 without filling."""
        raise NotImplementedError

    def digest(self, index: int) -> bytes:
        """The digest of the raw example's content."""
        raise NotImplementedError


def tokenized(split: Split, preprocessing: TextPreprocessing) -> Split:
    """The split with `Tokens` as its examples. Those that cannot be read hold special tokens alone: the preflight tells of them."""
    raise NotImplementedError


def cut_note(name: str, tokens: Tokens) -> str | None:
    """A sentence on how many texts of a split were cut; None where none was."""
    raise NotImplementedError


def collate(tokens: Tokens, indices: np.ndarray, width: int, words: int | None = None) -> dict[str, np.ndarray]:
    """The rows `indices` (b,), filled up.

    Args:
      tokens: of the split.
      indices: positions in it.
      width: tokens to fill up to; at least the longest of the rows.
      words: the same for words; None for `width`, which is always enough: each word that was not cut off has a token.

    Returns:
      `ids` (b, width) int32, `mask` (b, width) bool, `segments` (b, width) int32 and, of words, `word_starts` (b, words) int32.
    """
    raise NotImplementedError


def bucket_of(longest: int, buckets: Sequence[int]) -> int:
    """The smallest of the buckets (ascending) that holds so many tokens; the last where none does."""
    raise NotImplementedError
