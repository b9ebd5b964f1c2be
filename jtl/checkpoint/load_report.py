"""What loading a checkpoint did, or why it cannot be done, as tables that people read: repeated layers are one row."""

import math
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from jtl.checkpoint.collapse import collapse
from jtl.checkpoint.leaf import describe
from jtl.checkpoint.origin import Adaptation, Source
from jtl.errors import nearest

_T = TypeVar('_T')
_MOST_ROWS = 30

STATUSES: Final = {
    'loaded': 'read under its own name',
    'renamed': 'read from a key of another name, unchanged',
    'adapted': 'read and rearranged by leaf functions',
    'new': 'declared not to come from a checkpoint, starts from its initial value',
    'ignored': 'in the checkpoint, declared not to be read',
}

PROBLEMS: Final = {
    'missing': 'the model has the leaf, the checkpoint does not have its key. Give config.init_rules a pair (pattern on the '
    "model's paths, key in the checkpoint), or (pattern, None) to start the leaf new.",
    'mismatched': 'the key is there, its shape or dtype does not become the leaf. Mend the leaf functions in config.init_rules, or start the '
    "leaf new with (pattern, None); a head for other classes starts new with config.init_head='new'.",
    'unexpected': 'the checkpoint has the key, no leaf reads it. If nothing is lost, name it in config.init_ignore; else give config.init_rules a '
    'rule that reads it.',
    'ambiguous': 'one rule reads one key for several leaves, most likely for want of a back-reference such as \\1. To tie leaves on purpose, '
    'write a rule for each.',
    'partly read': 'a key is split and some of its parts are dropped. Read them by rules of config.init_rules, or name the key in config.init_ignore.',
}


class Problem(NamedTuple):
    """One thing that keeps a checkpoint from loading: `kind` is a key of PROBLEMS, or 'rule' with a whole sentence as `name`."""

    kind: str
    name: str
    detail: str = ''
    key: str | None = None
    subtree: str = ''


class LoadRow(NamedTuple):
    """A row of the load table.

    Attributes:
      names: the leaves' paths, or the ignored keys, collapsed.
      status: a key of STATUSES.
      key: the source keys, collapsed; '' for new and ignored.
      done: leaf functions, casts and ties; for an ignored key, what declares it.
      shape: of the leaf (of an ignored key: of the key), '' where the row's differ.
      leaves: how many.
      values: how many numbers in all.
      members: every path or key of the row.
    """

    names: str
    status: str
    key: str
    done: str
    shape: str
    leaves: int
    values: int
    members: tuple[str, ...]


def load_table(adaptation: Adaptation) -> list[LoadRow]:
    """The rows of a load, in the model's order, then the ignored keys."""
    origins = adaptation.origins
    readers: dict[tuple[str | None, str | None, Any], int] = {}  # leaves that read a key in the same way are tied
    for o in origins.values():
        readers[o.subtree, o.key, o.functions] = readers.get((o.subtree, o.key, o.functions), 0) + 1

    def done(path: str) -> str:
        o = origins[path]
        tied = o.key is not None and readers[o.subtree, o.key, o.functions] > 1
        cast = f'cast {o.source.dtype} to {o.target.dtype}' if o.source is not None and o.cast else ''
        return ', '.join(filter(None, (describe(o.functions), cast, 'tied' if tied else '')))

    rows = []
    groups = _groups(list(origins), lambda p: p, lambda p: (origins[p].status, done(p), origins[p].subtree, _blank(origins[p].key)))
    for names, paths in groups:
        keys = list(dict.fromkeys(key for path in paths if (key := origins[path].key) is not None))
        specs = [origins[path].target for path in paths]
        rows.append(_row(names, origins[paths[0]].status, _short(keys), done(paths[0]), specs, paths))
    for names, left in _groups(adaptation.ignored, lambda i: i.key, lambda i: (i.subtree, i.by)):
        rows.append(_row(names, 'ignored', '', left[0].by, [i.spec for i in left], [i.key for i in left]))
    return rows


def load_text(adaptation: Adaptation) -> str:
    """The load table as text: sources, rows, a sentence for each status, and totals."""
    rows = load_table(adaptation)
    lines = [
        f'{subtree or "whole model"}: {source.checkpoint.origin} ({source.checkpoint.format}), names by {source.table.name}'
        + (f' below {source.table.prefix!r}' if source.table.prefix else '')
        for subtree, source in adaptation.sources.items()
    ]
    heading = ('status', 'leaves', 'key', 'done', 'shape', 'values')
    lines += _columns([heading] + [(row.status, row.names, row.key, row.done, row.shape, f'{row.values:,}') for row in rows])
    present = {row.status for row in rows}
    lines += [f'{status}: {says}.' for status, says in STATUSES.items() if status in present]
    return '\n'.join([*lines, _totals(rows)])


def load_totals(rows: Iterable[LoadRow]) -> dict[str, dict[str, int]]:
    """Leaves and values that are loaded (whatever was done to them), new, and ignored."""
    totals = {name: {'leaves': 0, 'values': 0} for name in ('loaded', 'new', 'ignored')}
    for row in rows:
        total = totals[row.status if row.status in totals else 'loaded']
        total['leaves'] += row.leaves
        total['values'] += row.values
    return totals


def problem_text(problems: Sequence[Problem], sources: 'Mapping[str, Source]', leaves: int) -> str:
    """The one message of a checkpoint that does not fit: counts, a table that collapses layers, and what to do about each kind."""
    counts = {kind: sum(p.kind == kind for p in problems) for kind in PROBLEMS}
    names = ', '.join(f'{subtree + ": " if subtree else ""}{s.checkpoint.origin} ({s.table.name})' for subtree, s in sources.items())
    tally = ', '.join(f'{count} {kind}' for kind, count in counts.items() if count)
    lines = [f'{names} does not fit the model of {leaves} leaves{": " + tally if tally else ""}.']
    lines += [p.name for p in problems if p.kind == 'rule']
    unread = {s: [p.name for p in problems if p.kind == 'unexpected' and p.subtree == s] for s in sources}
    table: list[tuple[str, ...]] = []
    for kind in PROBLEMS:
        of_kind = [p for p in problems if p.kind == kind]
        groups = _groups(of_kind, lambda p: p.name, lambda p: (p.detail if p.key is None else _blank(p.detail), p.subtree, _blank(p.key)))
        for shown, members in groups[:_MOST_ROWS]:
            first = members[0]
            detail = first.detail + (' (the first)' if len({m.detail for m in members}) > 1 else '')
            if kind == 'missing':  # only a key that no leaf reads can be the one that is meant
                near = nearest(first.key or first.name, unread.get(first.subtree, ()), n=2)
                detail += f'; nearest of the unread {", ".join(near)}' if near else ''
            table.append((kind, shown, _short(list(dict.fromkeys(m.key for m in members if m.key is not None))), detail))
        if len(groups) > _MOST_ROWS:
            table.append((kind, f'... and {sum(len(m) for _, m in groups[_MOST_ROWS:])} more', '', ''))
    lines += _columns(table)
    lines += [f'{kind}: {says}' for kind, says in PROBLEMS.items() if counts[kind]]
    return '\n'.join(lines)


def _row(names: str, status: str, key: str, done: str, specs: Sequence[Any], members: Sequence[str]) -> LoadRow:
    shapes = {tuple(spec.shape) for spec in specs}
    values = sum(math.prod(spec.shape) for spec in specs)
    return LoadRow(names, status, key, done, str(shapes.pop()) if len(shapes) == 1 else '', len(members), values, tuple(members))


def _totals(rows: Sequence[LoadRow]) -> str:
    parts = (f'{name} {total["leaves"]} ({total["values"]:,} values)' for name, total in load_totals(rows).items() if total['leaves'])
    return f'Leaves: {", ".join(parts)}.'


def _groups(items: Sequence[_T], name: Callable[[_T], str], same: Callable[[_T], Hashable]) -> list[tuple[str, list[_T]]]:
    """Items whose names differ only in numbers and that are the same otherwise; two items may bear one name (of two sources)."""
    found: list[tuple[str, list[_T]]] = []
    rest = list(items)
    while rest:
        by_name: dict[str, _T] = {}
        again = []
        for item in rest:
            if name(item) in by_name:
                again.append(item)
            else:
                by_name[name(item)] = item
        found += [(p, [by_name[m] for m in members]) for p, members in collapse(list(by_name), [same(item) for item in by_name.values()])]
        rest = again
    return found


def _blank(text: str | None) -> str | None:
    """The text with its numbers blanked, so that the keys of repeated layers compare equal."""
    return None if text is None else re.sub(r'\d+', '#', text)


def _short(keys: Sequence[str]) -> str:
    """The keys of one row, collapsed."""
    return ', '.join(pattern for pattern, _ in collapse(keys)) if keys else ''


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows as lines with aligned columns; a column that is empty throughout is left out."""
    kept = [column for column in zip(*rows, strict=True) if any(column)]
    widths = [max(map(len, column)) for column in kept]
    return [
        '  ' + '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in zip(*kept, strict=True)
    ]
