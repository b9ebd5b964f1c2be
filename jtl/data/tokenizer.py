"""Tokenizers: a checkpoint's own, one from elsewhere, or a vocabulary of the words in the training texts."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jtl.errors import UserError
from jtl.models.text import TextPreprocessing

PAD, UNK, BOS, EOS = SPECIAL = ('<pad>', '<unk>', '<bos>', '<eos>')
"""Special tokens of word vocabularies, in id order from 0."""

BUCKETS = (16, 32, 64, 128, 256, 512)
"""Lengths, tokens, to which sequences are filled up where `text.buckets` names none."""


def defaults() -> dict[str, Any]:
    """The config's `text` section; data and models without text read nothing of it."""
    return {
        'tokenizer': '',  # '': the checkpoint's own; 'words': the words of the training texts; or where a tokenizer.json or vocab.txt lies (path, package:, hf://)
        'max_length': 0,  # tokens, special ones included; longer texts are cut. 0: min(512, what the model can read)
        'buckets': (),  # lengths to which batches are filled up, rising; (): 16, 32, 64, 128, 256, 512 up to max_length
        'lowercase': True,  # of 'words' alone, as are the next two
        'min_count': 1,  # how often a word must occur to have an id of its own
        'max_words': 0,  # so many words, the most frequent ones, have an id; 0: all
    }


def text_preprocessing(section: Mapping[str, Any], *, tokenizer: str, positions: int) -> TextPreprocessing:
    """What a config's `text` section and the model make of a tokenizer.

    Args:
      section: the fields of `defaults()`; those left out take their default.
      tokenizer: JSON.
      positions: the longest sequence that the model can read, tokens; 0: any.

    Raises:
      UserError: a length that the model cannot read, buckets out of order, options of 'words' for another tokenizer.
    """
    section = {**defaults(), **section}
    longest = section['max_length'] or min(512, positions or 512)
    if positions and longest > positions:
        raise UserError(
            f'text.max_length={longest}: the model has {positions} positions and can read no longer text. Set text.max_length={positions} or less.'
        )
    buckets = tuple(section['buckets']) or (*(length for length in BUCKETS if length < longest), longest)
    return TextPreprocessing(tokenizer, longest, buckets)


def check_vocabulary(preprocessing: TextPreprocessing, rows: int, where: str) -> None:
    """UserError where the tokenizer has ids that the word table of `where` (rows, D) lacks. Rows to spare are fine: many checkpoints have them."""
    raise NotImplementedError


def checkpoint_tokenizer(beside: Callable[[str], bytes | None], where: str) -> str | None:
    """The tokenizer that lies beside a checkpoint's weights, as JSON; None where there is none.

    Args:
      beside: the content of the file of that name, None where there is none.
      where: what to call the checkpoint.
    """
    raise NotImplementedError


def named_tokenizer(where: str) -> str:
    """The tokenizer at a place, as JSON: a tokenizer.json or vocab.txt, or a folder, package or repository that holds one."""
    raise NotImplementedError


def word_tokenizer(texts: Iterable[str | Sequence[str]], *, lowercase: bool = True, min_count: int = 1, max_words: int = 0) -> str:
    """A tokenizer of whole words, as JSON: the words of `texts` by falling count, then in alphabetical order, after `SPECIAL`.

    Args:
      texts: texts, or sentences already split into words, which stay whole.
      lowercase: whether words are told apart without regard to case.
      min_count: how often a word must occur.
      max_words: how many words are kept; 0: all.
    """
    raise NotImplementedError
