"""Name tables: how one layout of checkpoints maps to the model's paths, and which table fits a checkpoint at hand."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.leaf import Function, as_functions
from jtl.rules import Rule, RuleError, as_rules, resolve


@dataclass(frozen=True)
class NameTable:
    r"""How one layout of checkpoints maps to a family's paths.

    Attributes:
      name: for people, such as 'efficientnet-lite-pytorch'.
      detect: source keys that a checkpoint of this layout has (exact names); all must be there.
      rules: patterns on jtl's own paths (parameters and statistics, `backbone/...`); the value is the source-key template
        with back-references, alone or followed by leaf functions: `(r'_blocks.\1.conv.weight', ('transpose', 2, 3, 1, 0))`;
        None starts the leaf new.
      head: the same for `heads/<task>/...`, used only where the config keeps the checkpoint's head. Where it does not, the
        keys that these templates name (any text for a back-reference) are ignored without being listed in `ignore`.
      ignore: patterns of source keys that nobody misses (counters).
      prefix: what stands before every key of the layout in the checkpoint at hand ('module.', 'model/'); `choose_table` sets it.
        Two tables that differ only here are equal.
      shapes: source keys and the shapes they have, which tell weights of one layout apart (a position embedding of 197 or 577 tokens).
    """

    name: str
    detect: tuple[str, ...]
    rules: tuple[Rule, ...]
    head: tuple[Rule, ...] = ()
    ignore: tuple[str, ...] = ()
    prefix: str = field(default='', compare=False)
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()


def _native(name: str, params: str, statistics: str) -> NameTable:
    def rules(top: str) -> tuple[Rule, ...]:
        pairs = [(rf'{top}/(.+)/(mean|var)', rf'{statistics}{top}/\1/\2'), (rf'{top}/(.+)', rf'{params}{top}/\1')]
        return as_rules(pairs, optional=True, origin=name)

    return NameTable(name, (), rules('backbone'), rules('heads'), ignore=('opt_state/.*', 'step'))


NATIVE = (_native('jtl', '', ''), _native('jtl in Linen collections', 'params/', 'batch_stats/'))
"""Checkpoints under the model's own paths: a run, a bundle, or variables as Linen's `init` returns them."""


def without(table: NameTable, part: str) -> NameTable:
    """The same layout in a file of the bare model, without head: the keys lack `part`, the name that the model has in one with a head.

    It fits wherever `table` does, so it must be tried after that.

    >>> without(NameTable('ResNet', ('resnet.stem.weight',), ()), 'resnet.').detect
    ('stem.weight',)
    """

    def bare(value: Any) -> Any:
        if isinstance(value, tuple):
            return (bare(value[0]), *value[1:])
        return value.replace(part, '', 1) if isinstance(value, str) else value

    return replace(
        table,
        name=f'{table.name} without head',
        detect=tuple(map(bare, table.detect)),
        rules=tuple(replace(rule, value=bare(rule.value)) for rule in table.rules),
        head=(),
        shapes=tuple(map(bare, table.shapes)),
    )


def fits(table: NameTable, checkpoint: Checkpoint) -> bool:
    """Whether all of `table.detect` is among the checkpoint's keys, directly or below one common prefix."""
    return prefix_of(table, checkpoint) is not None


def prefix_of(table: NameTable, checkpoint: Checkpoint) -> str | None:
    """The shortest prefix, '' or ending in '.' or '/', below which all of `table.detect` is found, of the shapes told; None where there is none."""
    if not table.detect:
        return None
    specs = checkpoint.specs
    first, *others = table.detect
    ends = sorted((key[: -len(first)] for key in specs if key.endswith(first)), key=len)

    def fits_below(prefix: str) -> bool:
        there = all(prefix + other in specs for other in others)
        return there and all(prefix + key in specs and specs[prefix + key].shape == shape for key, shape in table.shapes)

    return next((p for p in ends if p[-1:] in ('', '.', '/') and fits_below(p)), None)


def choose_table(checkpoint: Checkpoint, tables: Sequence[NameTable], paths: Iterable[str], rules: Sequence[Rule] = ()) -> NameTable:
    """The table to load this checkpoint by.

    The native one where the checkpoint has any of the model's own paths as keys; else the first of `tables` that fits; else,
    where the user gives `rules`, an empty one. Its `prefix` is set to what was found.

    Args:
      checkpoint: only its keys are looked at.
      tables: of the family's known weights.
      paths: of the whole model, parameters and statistics.
      rules: `config.init_rules`.

    Raises:
      CheckpointError: nothing fits; the message shows keys of both sides.
    """
    paths = list(paths)
    native = _choose_native(checkpoint, paths)
    if native is not None:
        return native
    for table in tables:
        prefix = prefix_of(table, checkpoint)
        if prefix is not None:
            return replace(table, prefix=prefix)
    if rules:
        return NameTable('config.init_rules', (), ())
    known = ''.join(f'\n  {table.name} has keys such as {", ".join(table.detect[:3])}' for table in tables)
    raise CheckpointError(
        f'{checkpoint.origin} ({checkpoint.format}): its keys are in no layout that this model knows.\n'
        f'  the checkpoint has {_some(checkpoint.specs)}\n'
        f'  the model has {_some(paths)}{known}\n'
        "Name another checkpoint in config.init_from, or give config.init_rules: pairs (pattern on the model's paths, key in the checkpoint)."
    )


def source_of(rule: Rule, path: str, prefix: str = '') -> tuple[str, tuple[Function, ...]] | None:
    r"""The key that a loading rule reads for `path` and the leaf functions done to it; None where the rule starts the leaf new.

    Raises:
      UserError: the value is no template, template with leaf functions, or None; or it refers to a group that the pattern lacks.
    """
    if rule.value is None:
        return None
    value: Any = rule.value
    template, *functions = value if isinstance(value, list | tuple) and value else [value]
    where = f'Loading rule {rule.pattern!r}' + (f' (from {rule.origin})' if rule.origin else '')
    if not isinstance(template, str) or not template:
        raise RuleError(
            f"{where}: the value is a key of the checkpoint, a key with leaf functions such as ('conv.weight', ('transpose', 2, 3, 1, 0)), "
            f'or None to start the leaf new; found {rule.value!r}.'
        )
    match = rule.match(path)
    assert match is not None, f'{rule} does not match {path}'
    try:
        key = match.expand(template)
    except (re.error, IndexError) as error:
        raise RuleError(f'{where}: the key template {template!r} does not go with the pattern: {error}.') from None
    return prefix + key, as_functions(functions, where)


def named_by(rules: Iterable[Rule], prefix: str = '') -> re.Pattern[str]:
    """A pattern of the source keys that the templates of `rules` name, any text standing for a back-reference."""
    patterns = []
    for rule in rules:
        template = rule.value[0] if isinstance(rule.value, list | tuple) and rule.value else rule.value
        if isinstance(template, str):
            literal = re.split(r'\\g<\w+>|\\\d+', template)
            patterns.append('.*'.join(re.escape(part) for part in literal))
    return re.compile(re.escape(prefix) + f'(?:{"|".join(patterns)})' if patterns else r'(?!)')


def _choose_native(checkpoint: Checkpoint, paths: Sequence[str]) -> NameTable | None:
    """The native layout and prefix with the most of the model's paths; None where there is none of them."""
    found: list[tuple[int, NameTable]] = []
    for table in NATIVE:
        by = resolve([*table.rules, *table.head], paths, otherwise=None)
        wanted = {source[0] for path, k in by.by.items() if k >= 0 and (source := source_of(by.rules[k], path)) is not None}
        counts: Counter[str] = Counter()
        for key in checkpoint.specs:
            parts = key.split('/')
            for depth in range(len(parts)):
                if '/'.join(parts[depth:]) in wanted:
                    counts['/'.join((*parts[:depth], ''))] += 1
        found += [(count, replace(table, prefix=prefix)) for prefix, count in counts.items()]

    # Moments and averages of a training state bear the same names below another prefix: among equals `params/` is meant.
    def order(item: tuple[int, NameTable]) -> tuple[int, bool, int]:
        start = item[1].prefix + item[1].rules[-1].value
        return -item[0], not start.startswith('backbone/') and 'params/' not in start, len(item[1].prefix)

    return min(found, key=order)[1] if found else None


def _some(keys: Iterable[str]) -> str:
    keys = list(keys)
    return ', '.join(keys[:4]) + (f', ... ({len(keys)} in all)' if len(keys) > 4 else '') if keys else 'no keys at all'
