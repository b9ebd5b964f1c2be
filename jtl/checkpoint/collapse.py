"""Long lists of names made short: `encoder.layer.{0...11}.bias` for twelve names."""

import itertools
import re
from collections.abc import Hashable, Iterator, Sequence

_NUMBER = re.compile(r'(\d+)')
# A box is one set of numbers for each numeric position of a template; it stands for their whole product.
_Box = tuple[frozenset[str], ...]


def collapse(names: Sequence[str], properties: Sequence[Hashable] | None = None) -> list[tuple[str, list[str]]]:
    """Groups names that differ only in numbers, for tables that people read.

    A group's pattern says exactly its members: `{0...11}` is a run, `{0,2}` a choice, and with several numeric positions every
    combination is there. Nothing is collapsed that the pattern would misstate.

    Args:
      names: distinct names, such as parameter paths or checkpoint keys.
      properties: what else is known of each name (shape, dtype, status), parallel to `names`; only names with equal properties
        are grouped.

    Returns:
      (pattern, members) in order of each group's first member; members in the order of `names`. A group of one has its own name
      as pattern.
    """
    if properties is not None and len(properties) != len(names):
        raise ValueError(f'collapse: {len(names)} names but {len(properties)} properties')
    place = {name: i for i, name in enumerate(names)}
    templates: dict[tuple[tuple[str, ...], Hashable], list[str]] = {}
    for i, name in enumerate(names):
        text = tuple(_NUMBER.split(name)[::2])
        templates.setdefault((text, properties[i] if properties is not None else None), []).append(name)
    groups = []
    for (text, _), members in templates.items():
        for box in _boxes([tuple(_NUMBER.findall(name)) for name in members]):
            inside = [_join(text, numbers) for numbers in itertools.product(*box)]
            groups.append((_join(text, [_show(numbers) for numbers in box]), sorted(inside, key=place.__getitem__)))
    return sorted(groups, key=lambda group: place[group[1][0]])


def _join(text: Sequence[str], between: Sequence[str]) -> str:
    return ''.join(itertools.chain.from_iterable(itertools.zip_longest(text, between, fillvalue='')))


def _boxes(points: list[tuple[str, ...]]) -> list[_Box]:
    """Disjoint boxes that hold the points and nothing else: the fewest among the orders of merging positions."""
    start: list[_Box] = [tuple(frozenset([number]) for number in point) for point in dict.fromkeys(points)]
    if len(start) == 1:
        return start
    return min((_merge(start, order) for order in _orders([p for p in range(len(start[0])) if len({b[p] for b in start}) > 1])), key=len)


def _orders(positions: list[int]) -> Iterator[tuple[int, ...]]:
    """All orders of a few positions; of many, one from the innermost out and one from the outermost in."""
    if len(positions) <= 4:
        yield from itertools.permutations(positions)
    else:
        yield tuple(reversed(positions))
        yield tuple(positions)


def _merge(boxes: list[_Box], order: Sequence[int]) -> list[_Box]:
    """Joins, one position after the other, the boxes that differ only there."""
    for p in order:
        joined: dict[_Box, frozenset[str]] = {}
        for box in boxes:
            rest = box[:p] + box[p + 1 :]
            joined[rest] = joined.get(rest, frozenset()) | box[p]
        boxes = [(*rest[:p], numbers, *rest[p:]) for rest, numbers in joined.items()]
    return boxes


def _show(numbers: frozenset[str]) -> str:
    """'7', '{0,2}', '{0...11}', '{0...3,5...7}'."""
    ordered = sorted(numbers, key=lambda number: (int(number), number))
    if len(ordered) == 1:
        return ordered[0]
    runs: list[list[str]] = []
    for number in ordered:
        # '09' is followed by '10', but '9' is not followed by '010': a run's ends must say how each number is written.
        if runs and number == str(int(runs[-1][-1]) + 1).zfill(len(runs[-1][-1])):
            runs[-1].append(number)
        else:
            runs.append([number])
    return '{' + ','.join(f'{run[0]}...{run[-1]}' if len(run) > 2 else ','.join(run) for run in runs) + '}'
