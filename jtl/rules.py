"""Ordered rules over the paths of a tree: the one mechanism behind freezing, rates, decay, BatchNorm switches and loading.

A rule is a pattern and a value. A pattern is a Python regular expression that must match a whole path such as
`backbone/block_3/conv/kernel`. Rules are tried in order and the first match wins. Nothing fails silently:

  * a path that no rule covers takes `otherwise`, or is an error where there is no `otherwise`;
  * a rule that matches nothing, or whose every match was taken by earlier rules, is an error, unless it is `optional`
    (rules written by a recipe or by a family's table are; rules that a user writes are not).

>>> rules = as_rules([('heads/.*', 1.0), (r'backbone/block_[45]/.*', 0.1)])
>>> resolve(rules, ['backbone/stem/kernel', 'backbone/block_4/kernel', 'backbone/block_5/kernel', 'heads/main/bias'], otherwise=0.0).values
{'backbone/stem/kernel': 0.0, 'backbone/block_4/kernel': 0.1, 'backbone/block_5/kernel': 0.1, 'heads/main/bias': 1.0}
"""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from jtl.errors import UserError, nearest

_REQUIRED: Final = object()


class RuleError(UserError):
    """A rule is malformed, matches nothing, is wholly shadowed, or a path is left uncovered."""


@dataclass(frozen=True)
class Rule:
    """`value` for every path that `pattern` matches in full. `origin` says who wrote it, for messages and the plan."""

    pattern: str
    value: Any
    optional: bool = False
    origin: str = ''

    def match(self, path: str) -> re.Match[str] | None:
        """The full match of `pattern` on `path`; RuleError where the pattern is no regular expression."""
        return _compile(self).fullmatch(path)


@dataclass(frozen=True)
class Assignment:
    """What `resolve` found: the value of each path, the rule that gave it (-1: `otherwise`), and the hits of each rule."""

    rules: tuple[Rule, ...]
    values: dict[str, Any]
    by: dict[str, int]

    @property
    def hits(self) -> tuple[int, ...]:
        """How many paths each rule decided, in the order of the rules."""
        counts = [0] * len(self.rules)
        for index in self.by.values():
            if index >= 0:
                counts[index] += 1
        return tuple(counts)

    def match(self, path: str) -> re.Match[str] | None:
        """The match of the rule that decided `path` (for back-references); None where `otherwise` did."""
        index = self.by[path]
        return None if index < 0 else self.rules[index].match(path)


def as_rules(pairs: Iterable[Rule | Sequence[Any]], *, optional: bool = False, origin: str = '') -> tuple[Rule, ...]:
    """Rules from `(pattern, value)` pairs, as a config writes them; rules among them are kept.

    Raises RuleError for anything that is not a pair whose first item is a regular expression.
    """
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | Mapping):
        raise RuleError(f'{origin or "rules"}: rules are pairs (pattern, value), found {pairs!r}.')
    rules = []
    for pair in pairs:
        if isinstance(pair, Rule):
            rules.append(replace(pair, origin=pair.origin or origin))
            continue
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):
            raise RuleError(f'{origin or "rules"}: a rule is a pair (pattern, value), found {pair!r}.')
        rules.append(Rule(pair[0], pair[1], optional, origin))
    for rule in rules:
        _compile(rule)
    return tuple(rules)


def resolve(rules: Sequence[Rule], paths: Iterable[str], *, otherwise: Any = _REQUIRED, what: str = 'rule') -> Assignment:
    """Give every path the value of the first rule that matches it in full.

    Args:
      rules: in order of precedence.
      paths: slash-separated; their order is kept in the result.
      otherwise: the value of paths that no rule matches; without it such a path is an error.
      what: what these rules decide ('learning-rate rule'), for messages.

    Raises:
      RuleError: a rule that is not optional decides no path (the message names the nearest paths, or the rules that took
        its paths), or a path is uncovered.
    """
    paths = list(dict.fromkeys(paths))
    values: dict[str, Any] = {}
    by: dict[str, int] = {}
    takers: dict[int, set[int]] = {}  # rule -> the earlier rules that took paths it matches
    for path in paths:
        for index, rule in enumerate(rules):
            if rule.match(path) is None:
                continue
            if path not in by:
                by[path], values[path] = index, rule.value
            else:
                takers.setdefault(index, set()).add(by[path])
        if path not in by:
            by[path], values[path] = -1, otherwise
    result = Assignment(tuple(rules), values, by)

    problems = []
    for index, (rule, count) in enumerate(zip(rules, result.hits, strict=True)):
        if count or rule.optional:
            continue
        if index in takers:
            taken = ', '.join(repr(rules[k].pattern) for k in sorted(takers[index]))
            problems.append(
                f'{_called(rule, what)} decides nothing: every path it matches is taken by the earlier {taken}. Put it first or drop it.'
            )
        else:
            near = nearest(_plain(rule.pattern), paths)
            hint = (
                f' The nearest paths are {", ".join(near)}.'
                if near
                else f' Paths look like {", ".join(paths[:3])}.'
                if paths
                else ' There are no paths.'
            )
            problems.append(f'{_called(rule, what)} matches no path.{hint}')
    if otherwise is _REQUIRED:
        bare = [path for path, index in by.items() if index < 0]
        if bare:
            problems.append(
                f'No {what} covers {len(bare)} of {len(paths)} paths, such as {", ".join(bare[:3])}. Add a rule, or a last one with the pattern ".*".'
            )
    if problems:
        raise RuleError('\n'.join(problems))
    return result


def _called(rule: Rule, what: str) -> str:
    return f'{what[:1].upper()}{what[1:]} {rule.pattern!r}' + (f' (from {rule.origin})' if rule.origin else '')


def _compile(rule: Rule) -> re.Pattern[str]:
    try:
        return _pattern(rule.pattern)
    except (re.error, OverflowError, RecursionError) as error:  # the last two: absurd repetitions, absurd nesting
        raise RuleError(f'{rule.origin or "rules"}: {rule.pattern!r} is no regular expression: {error}.') from None


@functools.lru_cache(8192)  # that of `re` holds 512, and a table may have a rule for each leaf
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _plain(pattern: str) -> str:
    """The pattern without its regular-expression signs, to compare its spelling with real paths."""
    return re.sub(r'\\[dwDWsS]|[\\^$.*+?()\[\]{}|]', '', pattern)
