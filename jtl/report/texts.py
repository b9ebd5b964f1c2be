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
    """How long training texts are, (N,) tokens, where the buckets lie, and how much of a batch is filling; None without texts."""
    if not len(lengths):
        return None
    longest = max(buckets, default=int(lengths.max()))
    kept, cut = np.minimum(lengths, longest), int((lengths > longest).sum())
    said = f'Half of the {plural(len(lengths), "training text")} have {int(np.median(lengths)):,} tokens or fewer, the longest {int(lengths.max()):,}.'
    if cut:
        said += f' {cut:,} ({100 * cut / len(lengths):.1f} %) are longer than {longest:,} and lose their end.'
    filling = None
    if buckets:
        bounds = np.asarray(sorted(buckets))
        own = bounds[np.searchsorted(bounds, kept)]
        shares = [100 * (1 - kept.sum() / padded.sum()) for padded in (own, np.full(len(kept), longest))]
        filling = tag(
            'p',
            f'Padded each to its own bucket ({", ".join(f"{b:,}" for b in bounds)}), {shares[0]:.0f} % of all tokens are filling; '
            f'padded all to {longest:,}, {shares[1]:.0f} %.',
        )
    drawn = figure(length_plot(kept, buckets), 'Training texts by their number of tokens; dashed where a bucket ends.')
    return join(tag('p', said), filling, drawn)
