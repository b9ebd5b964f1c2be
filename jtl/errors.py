"""Errors that a user can mend: one message that says what, where, and what to do.

The command line prints the message of a `UserError` on stderr and exits with 2, without a traceback. Every other exception is a bug.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Something outside jtl is wrong: a config field, a file, a shape, a pattern, a data row."""


@contextmanager
def within(where: str) -> Iterator[None]:
    """A `UserError` from inside begins with `where`, the part of the config that it is about; with '' it stays as it is."""
    try:
        yield
    except UserError as error:
        if not where:
            raise
        raise type(error)(f'{where}: {error}') from None


def nearest(word: str, choices: Iterable[str], n: int = 3) -> list[str]:
    """The at most `n` choices that are spelled most like `word`, best first; an exact one leads, else case does not matter."""
    choices = dict.fromkeys(choices)
    folded: dict[str, list[str]] = {}  # choices by their spelling without case
    for choice in sorted(choices, key=lambda c: c != word):
        folded.setdefault(choice.casefold(), []).append(choice)
    close = difflib.get_close_matches(word.casefold(), folded, n=n, cutoff=0.5)
    return [choice for spelling in close for choice in folded[spelling]][:n]


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """A sentence naming the nearest choices, or all of them where none is near and they are few; '' where neither helps."""
    choices = sorted(set(choices))
    close = nearest(word, choices)
    if close:
        return f'Did you mean {" or ".join(repr(c) for c in close)}?'
    if choices and len(choices) <= 12:
        return f'Known: {", ".join(choices)}.'
    return ''


def some_of(names: Sequence[str]) -> str:
    """The first five names, and how many there are where there are more."""
    return ', '.join(map(str, names[:5])) + (f', ... ({len(names)})' if len(names) > 5 else '')
