"""From raw pictures or texts to what a task says of them, in batches of few shapes, so that little is compiled."""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from jtl.data.base import Examples, Split
from jtl.data.images import prepare
from jtl.data.lengths import evaluation_order
from jtl.data.texts import Texts, Words
from jtl.data.tokens import Tokens, bucket_of, collate, tokenized
from jtl.data.views import Views
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing
from jtl.tasks.base import Task

Text = str | Sequence[str]
"""A text, a pair of them, or, for tasks that say something of each word, a sentence's words."""

_BEFORE = '([{"“„«‹‘\''
_AFTER = ')]}"”»›’\',;:!?….'
_ABBREVIATION = re.compile(r'[^\W\d_](\.[^\W\d_])*')  # U.S, J


def of_pictures(
    outputs: Callable[[Mapping[str, Any]], np.ndarray],
    task: Task,
    preprocessing: Preprocessing,
    images: Sequence[np.ndarray],
    batch_size: int,
    views: Views | None = None,
) -> list[dict[str, Any]]:
    """What the task says of each picture, (H, W, C) uint8 of any size.

    `outputs` is the net, from a batch to (B, K); with `views` it reads pictures of `views.crop`.
    """
    crop = views.crop if views else None
    found: list[dict[str, Any]] = []
    for first in range(0, len(images), batch_size):
        rows = np.stack([prepare(image, preprocessing, crop) for image in images[first : first + batch_size]])
        found += [task.describe(row) for row in outputs({'image': rows[_filled(len(rows), batch_size)]})[: len(rows)]]
    return found


def of_texts(
    outputs: Callable[[Mapping[str, Any]], np.ndarray],
    task: Task,
    preprocessing: TextPreprocessing,
    texts: Sequence[Text],
    batch_size: int,
) -> list[dict[str, Any]]:
    """What the task says of each text, and of sentences in words with 'words', and 'text' beside 'start' and 'end' of each entity.

    Texts are sorted by length, so that each bucket is compiled at most once and little of a batch is filling; the order of what comes back
    is theirs.

    Raises:
      UserError: an empty text, or texts of several kinds.
    """
    examples = _examples(texts, reads_words(task))
    raw = [examples[index] for index in range(len(examples))]
    tokens = tokenized(Split(examples, np.zeros(len(raw), np.int32), 'text {}'.format), preprocessing).examples
    assert isinstance(tokens, Tokens)
    order = evaluation_order(tokens.lengths)
    found: list[dict[str, Any]] = [{}] * len(raw)
    for first in range(0, len(raw), batch_size):
        rows = order[first : first + batch_size]
        filled = rows[_filled(len(rows), batch_size)]
        batch = collate(tokens, filled, bucket_of(int(tokens.lengths[rows].max()), preprocessing.buckets))
        for index, row in zip(rows.tolist(), outputs({**batch, 'index': filled}), strict=False):
            found[index] = task.describe(row)
            if 'words' in raw[index]:
                found[index] = _named(found[index], raw[index]['words'])
    return found


def reads_words(task: Task) -> bool:
    """Whether the task says something of each word of a sentence."""
    return 'word_starts' in task.inputs


def words_of(sentence: str) -> tuple[str, ...]:
    """The words of a raw sentence, as corpora of words have them: punctuation at a word's ends is a word of its own.

    That of smileys, user names and the like stays, and so does the full stop of an abbreviation in single letters. Whoever has words gives
    words.

    >>> words_of('"Where (in the U.S.) is @ada?!" :)')
    ('"', 'Where', '(', 'in', 'the', 'U.S.', ')', 'is', '@ada', '?', '!', '"', ':)')
    """
    found: list[str] = []
    for chunk in sentence.split():
        rest = chunk.lstrip(_BEFORE)
        word = rest.rstrip(_AFTER)
        before, after = chunk[: len(chunk) - len(rest)], rest[len(word) :]
        if not word:
            found.append(chunk)
            continue
        if after.startswith('.') and _ABBREVIATION.fullmatch(word):
            word, after = f'{word}.', after[1:]
        found += [*before, word, *(''.join(run) for _, run in groupby(after))]
    return tuple(found)


def _examples(texts: Sequence[Text], words: bool) -> Examples:
    """The texts as a data set has them."""
    if words:
        return Words([words_of(text) if isinstance(text, str) else tuple(text) for text in texts])
    pairs = [text for text in texts if not isinstance(text, str)]
    if not pairs:
        return Texts([text for text in texts if isinstance(text, str)])
    if len(pairs) < len(texts) or any(len(pair) != 2 for pair in pairs):
        raise UserError('Either every text to be predicted is one string, or every one is a pair of strings.')
    return Texts([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _named(said: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """What is said of the words of a sentence, with the words themselves."""
    entities = [{'text': ' '.join(words[entity['start'] : entity['end']]), **entity} for entity in said.get('entities', ())]
    return {'words': list(words), **said, 'entities': entities}


def _filled(count: int, batch_size: int) -> np.ndarray:
    """Which rows fill a batch, the last one again and again: one number of rows, one compilation."""
    return np.minimum(np.arange(batch_size), count - 1)
