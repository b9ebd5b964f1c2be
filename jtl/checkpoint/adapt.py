"""From a checkpoint's keys to jtl's paths: what is read for every leaf and what is done to it, known from shapes alone.

    table = choose_table(checkpoint, tables, targets)
    adaptation = adapt(targets, {'': Source(checkpoint, table)}, head='new')
    for path, origin in adaptation.origins.items():
        if origin.status != 'new':
            leaves[path] = read(origin, checkpoint)

What does not fit is never passed over: every key of the checkpoint is read or declared ignored, every leaf of the model is found
or declared new. One key may feed several leaves only through several rules: `part` rules that split it, or rules that tie the leaves.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.leaf import Function, apply, describe, fit, spec_after
from jtl.checkpoint.load_report import Problem, problem_text
from jtl.checkpoint.origin import Adaptation, Ignored, LeafOrigin, Source, Spec
from jtl.checkpoint.tables import NameTable, choose_table, fits, named_by, source_of
from jtl.errors import UserError, did_you_mean, nearest
from jtl.rules import Rule, RuleError, resolve

__all__ = ['Adaptation', 'Ignored', 'LeafOrigin', 'NameTable', 'Source', 'adapt', 'choose_table', 'fits', 'read', 'split_targets']

_NEW_POOLING = Rule('backbone/pooling/.*', None, optional=True, origin='task.pool')
_NEW_HEAD = Rule('heads/.*', None, optional=True, origin="config.init_head='new'")


def adapt(
    targets: Mapping[str, Spec],
    sources: Mapping[str, Source],
    *,
    rules: Sequence[Rule] = (),
    ignore: Sequence[str] = (),
    head: Literal['new', 'keep'] = 'new',
) -> Adaptation:
    """What every leaf of a model is read from, without reading any data.

    Args:
      targets: shape and dtype of every parameter and statistic of the model, by path.
      sources: by subtree ('backbone', 'heads/main', 'backbone/image'), '' for the whole model; the longest subtree that holds a
        path gives its source, and a path that none holds starts new. A source named for `heads/...` is loaded whatever `head` says.
      rules: the user's loading rules (`config.init_rules`), tried before those of the tables; their templates are whole keys.
        A rule that decides nothing is an error unless it is optional.
      ignore: the user's patterns of whole source keys that need not be read (`config.init_ignore`); each must spare a key.
      head: whether `heads/...` start new or come from the checkpoint (`config.init_head`).

    Raises:
      CheckpointError: one message with everything that is missing, mismatched, unexpected or ambiguous.
      UserError: a subtree holds no path; a rule or a pattern is malformed.
    """
    if head not in ('new', 'keep'):
        raise UserError(f"config.init_head is 'new' or 'keep', found {head!r}.")
    where = split_targets(targets, sources)
    patterns = [Rule(pattern, None, origin='config.init_ignore') for pattern in ignore]
    problems: list[Problem] = []
    try:  # over the whole model: a rule for the head must not fail on the source of the backbone
        resolve(rules, targets, otherwise=None, what='loading rule')
    except RuleError as error:
        problems.append(Problem('rule', str(error)))
    rules = [replace(rule, optional=True) for rule in rules]

    origins: dict[str, LeafOrigin] = {}
    ignored: list[Ignored] = []
    spared: set[int] = set()
    for subtree, source in sources.items():
        mine = {path: target for path, target in targets.items() if where[path] == subtree}
        others = [path for path in targets if where[path] != subtree]
        found, trouble = _origins(mine, subtree, source, rules, head)
        origins |= found
        problems += trouble
        declared = _declared(subtree, source.table, others, head)
        for problem in _unread(subtree, source.checkpoint, found):
            key = problem.name
            hits = [k for k, pattern in enumerate(patterns) if pattern.match(key)]
            spared |= set(hits)
            by = f'config.init_ignore: {ignore[hits[0]]}' if hits else declared(key)
            if by:
                ignored.append(Ignored(subtree, key, source.checkpoint.specs[key], by))
            else:
                problems.append(problem)

    orphans = [path for path in targets if where[path] is None]
    chosen = resolve(rules, orphans, otherwise=None)
    for path in orphans:
        rule = rules[chosen.by[path]] if chosen.by[path] >= 0 else None
        if rule is not None and rule.value is not None:
            problems.append(Problem('missing', path, detail='no source in config.init_from holds this path', key=str(rule.value)))
        origins[path] = LeafOrigin(path, 'new', targets[path], rule=rule)
    for k, pattern in enumerate(patterns):
        if k not in spared:
            problems.append(Problem('rule', _idle(pattern, sources)))
    if problems:
        raise CheckpointError(problem_text(problems, sources, len(targets)))
    return Adaptation({path: origins[path] for path in targets}, tuple(ignored), dict(sources))


def split_targets(paths: Sequence[str] | Mapping[str, Any], subtrees: Sequence[str] | Mapping[str, Any]) -> dict[str, str | None]:
    """The subtree that each path belongs to: the longest that holds it ('' holds all), None where none does.

    Raises:
      UserError: a subtree that holds no path, with the nearest ones there are.
    """
    known = {'/'.join(path.split('/')[:depth]) for path in paths for depth in range(1, path.count('/') + 1)}
    for subtree in subtrees:
        if subtree and not any(_holds(subtree, path) for path in paths):
            raise UserError(f'config.init_from: the model has nothing below {subtree!r}. {did_you_mean(subtree, known)}'.rstrip())
    by_length = sorted(subtrees, key=len, reverse=True)
    return {path: next((subtree for subtree in by_length if _holds(subtree, path)), None) for path in paths}


def read(origin: LeafOrigin, checkpoint: Checkpoint) -> np.ndarray:
    """One leaf, read alone: its key's array with the functions done and cast to the target's dtype.

    Args:
      origin: with a status other than 'new'.
      checkpoint: that of `adaptation.sources[origin.subtree]`.

    Raises:
      CheckpointError: the data is not of the announced shape and dtype, or a cast to a narrower float overflows.
    """
    if origin.key is None or origin.source is None:
        raise ValueError(f'{origin.path} starts new: there is nothing to read')
    x = checkpoint.read(origin.key)
    if x.shape != origin.source.shape or x.dtype != origin.source.dtype:
        raise CheckpointError(
            f'{checkpoint.origin}: {origin.key!r} was announced as {_show(origin.source)} and holds {_show(x)}: the file is damaged.'
        )
    x = apply(origin.functions, x, origin.key)
    if x.shape != origin.target.shape:
        raise CheckpointError(f'{checkpoint.origin}: {origin.key!r} gives {x.shape}, {origin.path} needs {origin.target.shape}.')
    if not origin.cast:
        return x
    with np.errstate(over='ignore'):  # told below
        cast = x.astype(origin.target.dtype)
    if jnp.finfo(cast.dtype).max < jnp.finfo(x.dtype).max and not np.array_equal(np.isfinite(cast), np.isfinite(x)):
        raise CheckpointError(
            f'{checkpoint.origin}: {origin.key!r} has numbers that {cast.dtype} cannot hold (largest {np.nanmax(np.abs(x)):.3g}). '
            'Choose a wider parameter dtype.'
        )
    return cast


def _origins(
    targets: Mapping[str, Spec], subtree: str, source: Source, rules: Sequence[Rule], head: str
) -> tuple[dict[str, LeafOrigin], list[Problem]]:
    """The origins of the targets of one source, and the leaves that have none."""
    checkpoint, table = source
    _, heads = _loads(subtree, head)
    # A pooling that learns is the task's: only a run of jtl's own with the same one has it.
    pooling = [] if any('backbone/pooling/' in key for key in checkpoint.specs) else [_NEW_POOLING]
    all_rules = [*rules, *([] if heads else [_NEW_HEAD]), *pooling, *table.rules, *(table.head if heads else ())]
    chosen = resolve([replace(rule, optional=True) for rule in all_rules], targets, otherwise=None, what='loading rule')
    origins: dict[str, LeafOrigin] = {}
    problems: list[Problem] = []
    readers: dict[tuple[int, str], list[str]] = {}
    for path, target in targets.items():
        index = chosen.by[path]
        if index < 0:
            problems.append(Problem('missing', path, f'no rule of {table.name!r} covers this path', subtree=subtree))
            continue
        rule = all_rules[index]
        found = source_of(rule, path, '' if index < len(rules) else table.prefix)
        if found is None:
            origins[path] = LeafOrigin(path, 'new', target, rule=rule)
            continue
        key, functions = found
        if key not in checkpoint.specs:
            problems.append(Problem('missing', path, 'the checkpoint has no such key', key, subtree))
            continue
        spec = checkpoint.specs[key]
        trouble = ''
        try:
            functions = fit(functions, spec, target.shape, key)
        except UserError as error:
            trouble = str(error).rstrip('.')
        status: Literal['loaded', 'renamed', 'adapted'] = (
            'adapted' if functions else 'loaded' if f'/{key}'.endswith(f'/{path}') else 'renamed'
        )
        origins[path] = LeafOrigin(path, status, target, key, functions, spec, subtree, rule)
        readers.setdefault((index, key), []).append(path)
        trouble = trouble or _mismatch(key, functions, spec, target)
        if trouble:
            problems.append(Problem('mismatched', path, trouble, key, subtree))
    for (_, key), paths in readers.items():
        if len(paths) > 1:
            problems += [Problem('ambiguous', path, f'{len(paths)} leaves read this key by one rule', key, subtree) for path in paths]
    return origins, problems


def _mismatch(key: str, functions: tuple[Function, ...], spec: Spec, target: Spec) -> str:
    """Why the array of `key` cannot become the leaf; '' where it can."""
    try:
        after = spec_after(functions, spec, key)
    except UserError as error:
        return str(error).rstrip('.')
    done = f'{_show(spec)}, after {describe(functions)} {tuple(after.shape)}' if functions else _show(spec)
    if tuple(after.shape) != tuple(target.shape):
        return f'{done}, needed {_show(target)}'
    floats = jnp.issubdtype(spec.dtype, jnp.floating) and jnp.issubdtype(target.dtype, jnp.floating)
    return '' if floats or spec.dtype == target.dtype else f'{done}, needed {_show(target)}: only floats are cast'


def _unread(subtree: str, checkpoint: Checkpoint, origins: Mapping[str, LeafOrigin]) -> list[Problem]:
    """The keys that no leaf reads, or that are split and not all parts of which are read."""
    readers: dict[str, list[LeafOrigin]] = {}
    for origin in origins.values():
        if origin.key is not None:
            readers.setdefault(origin.key, []).append(origin)
    problems = []
    for key, spec in checkpoint.specs.items():
        if key not in readers:
            problems.append(Problem('unexpected', key, _show(spec), subtree=subtree))
        elif dropped := _dropped_parts(readers[key]):
            problems.append(Problem('partly read', key, dropped, subtree=subtree))
    return problems


def _dropped_parts(readers: Sequence[LeafOrigin]) -> str:
    """Which parts of a split key nobody reads; '' where it is read in whole, by one leaf or by all parts of one split."""
    splits: dict[tuple[Any, ...], set[int]] = {}
    cuts: dict[tuple[Any, ...], set[str]] = {}  # 'take' reads what stands before a place, 'skip' the rest
    for origin in readers:
        place = next((k for k, function in enumerate(origin.functions) if function[0] in ('part', 'take', 'skip')), None)
        if place is None:
            return ''
        kind, *numbers = origin.functions[place]
        if kind == 'part':
            i, n, axis = numbers
            splits.setdefault((origin.functions[:place], n, axis), set()).add(i)
        else:
            cuts.setdefault((origin.functions[:place], *numbers), set()).add(kind)
    if any(len(have) == n for (_, n, _), have in splits.items()) or any(len(have) == 2 for have in cuts.values()):
        return ''
    dropped = [f'of {n} parts {sorted(set(range(n)) - have)} are read by no leaf' for (_, n, _), have in splits.items()]
    rest = {'take': 'all but the first', 'skip': 'the first'}
    dropped += [f'{rest[have.pop()]} {n} along axis {axis} are read by no leaf' for (_, n, axis), have in cuts.items()]
    return '; '.join(dropped)


def _declared(subtree: str, table: NameTable, others: Sequence[str], head: str) -> Callable[[str], str]:
    """From a key to what besides the user declares that it need not be read; '' where nothing does."""
    body, heads = _loads(subtree, head)
    ignore = [(f'{table.name}: {pattern}', re.compile(f'(?:{re.escape(table.prefix)})?(?:{pattern})')) for pattern in table.ignore]
    if not heads:
        ignore.append(('the head is not kept', named_by(table.head, table.prefix)))
    if not body:
        ignore.append(('only the head is taken', named_by(table.rules, table.prefix)))
    elsewhere = set()  # what a whole checkpoint holds for the parts of the model that are not taken from it
    rules = [replace(rule, optional=True) for rule in (*table.rules, *table.head)] if subtree else []
    for path, index in resolve(rules, others, otherwise=None).by.items():
        found = source_of(rules[index], path, table.prefix) if index >= 0 else None
        elsewhere |= {found[0]} if found is not None else set()

    def why(key: str) -> str:
        return next((by for by, pattern in ignore if pattern.fullmatch(key)), f'only {subtree} is taken' if key in elsewhere else '')

    return why


def _loads(subtree: str, head: str) -> tuple[bool, bool]:
    """Whether the backbone's rules and whether the heads' rules of the table of a source are used."""
    of_head = _holds('heads', subtree)
    return not of_head, of_head or (head == 'keep' and not subtree)


def _idle(pattern: Rule, sources: Mapping[str, Source]) -> str:
    keys = [key for source in sources.values() for key in source.checkpoint.specs]
    start = f'config.init_ignore: {pattern.pattern!r} '
    if any(pattern.match(key) for key in keys):
        return (
            start
            + 'matches only keys that the model reads. To start those leaves new give config.init_rules the value None for their paths.'
        )
    near = nearest(re.sub(r'\\(.)', r'\1', pattern.pattern), keys)
    return start + f'matches no key of the checkpoint. {"The nearest are " + ", ".join(near) + "." if near else "Drop it."}'


def _holds(subtree: str, path: str) -> bool:
    return not subtree or path == subtree or path.startswith(subtree + '/')


def _show(x: Any) -> str:
    return f'{tuple(x.shape)} {x.dtype}'
