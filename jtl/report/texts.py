"""Text for people to read: an example in one string, cut where it is long, and how long the texts of a run are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jtl.report.format import plural
from jtl.report.page import Markup, figure, join, tag
from jtl.report.plots import length_plot

SHOWN = 300  # letters of a text in a table
_HARD_SPACE = '\u00a0'


def readable(example: Mapping[str, Any]) -> str:
    r"""A raw example in one string: its text, the two of a pair with ' ⏎ ' between them, or its words with spaces between them.

    Spaces within a word become hard ones, so that `split(' ')` gives as many words as the example has.

    >>> readable({'text': 'Where to?', 'pair': 'Home.'})
    'Where to? ⏎ Home.'
    >>> readable({'words': ('New York', 'calls')})
    'New\xa0York calls'
    """
    if 'words' in example:
        return ' '.join(word.replace(' ', _HARD_SPACE) for word in example['words'])
    return ' ⏎ '.join(example[key] for key in ('text', 'pair') if key in example)


def clipped(text: str, limit: int = SHOWN) -> str:
    """At most `limit` letters of a text, cut between words where there are any near."""
    if len(text) <= limit:
        return text
    kept = text[: limit - 1]
    space = kept.rfind(' ', limit * 3 // 4)
    return (kept if space < 0 else kept[:space]).rstrip() + '…'


def lengths_of_texts(lengths: np.ndarray, buckets: Sequence[int]) -> Markup | None:
    """How long training texts are as the model reads them, (N,) tokens, and how much of a batch is filling; None without texts.

    `buckets` are the lengths, ascending, to which texts are filled up.
    """
    if not len(lengths):
        return None
    said = f'Half of the {plural(len(lengths), "training text")} have {int(np.median(lengths)):,} tokens or fewer, the longest {lengths.max():,}.'
    if buckets:
        own = np.asarray(buckets)[np.searchsorted(buckets, lengths)]
        shares = [100 * (1 - lengths.sum() / padded.sum()) for padded in (own, np.full(len(lengths), buckets[-1]))]
        said += (
            f' Filled up each to its own bucket ({", ".join(f"{b:,}" for b in buckets)}), {shares[0]:.0f} % of all tokens are filling; '
            f'filled up all to {buckets[-1]:,}, {shares[1]:.0f} %.'
        )
    return join(
        tag('p', said), figure(length_plot(lengths, buckets), 'Training texts by their number of tokens; dashed where a bucket ends.')
    )
