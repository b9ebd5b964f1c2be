"""A plan as text for a terminal: phases, leaves with repeated layers collapsed, rules with their hits, totals."""

from collections.abc import Mapping
from typing import Any

from jtl.checkpoint.collapse import collapse
from jtl.checkpoint.load_report import STATUSES
from jtl.report.format import count, size
from jtl.report.tables import text_table


def plan_text(plan: Mapping[str, Any]) -> str:
    """Tables of a plan.

    Args:
      plan: the content of plan.json.
    """
    parts = list(plan['notes'])
    parts.append(_phases(plan))
    parts.append(_leaves(plan))
    if plan['rules']:
        parts.append(_rules(plan))
    if plan['ignored']:
        parts.append('Ignored keys of the checkpoint: ' + ', '.join(name for name, _ in collapse(plan['ignored'])) + '.')
    parts.append(_totals(plan['totals']))
    return '\n\n'.join(parts)


def _phases(plan: Mapping[str, Any]) -> str:
    rows = []
    for phase in plan['phases']:
        for k, (name, group) in enumerate(phase['groups'].items()):
            first = [phase['name'], f'{phase["steps"]:,}', count(phase['trainable_parameters']), size(phase['optimizer_bytes'])]
            rows.append(
                [
                    *(first if k == 0 else [''] * len(first)),
                    name,
                    count(group['parameters']),
                    group['optimizer'],
                    f'{group["lr"]:.3g}',
                    group['schedule'],
                    f'{group["weight_decay"]:g}',
                ]
            )
    heads = ['phase', 'steps', 'trained', 'optimizer state', 'group', 'parameters', 'optimizer', 'lr', 'schedule', 'decay']
    return text_table(heads, rows)


def _leaves(plan: Mapping[str, Any]) -> str:
    """A row for leaves of one pattern that share everything else."""
    leaves = {leaf['path']: leaf for leaf in plan['leaves']}

    def alike(leaf: Mapping[str, Any]) -> tuple[Any, ...]:
        return (tuple(leaf['shape']), leaf['dtype'], leaf['status'], leaf['how'], tuple(leaf['groups']), leaf['sharding'])

    rows, split = [], any(leaf['sharding'] != 'whole' for leaf in leaves.values())
    for pattern, paths in collapse(list(leaves), [alike(leaf) for leaf in leaves.values()]):
        leaf = leaves[paths[0]]
        sources = [leaves[path]['source'] for path in paths if leaves[path]['source']]
        origin = collapse(sources)[0][0] if sources else ''
        shape = 'x'.join(map(str, leaf['shape'])) or 'scalar'
        what = f'{leaf["status"]}: {leaf["how"]}' if leaf['how'] else leaf['status']
        rows.append(
            [pattern, shape, leaf['dtype'], what, origin, ' > '.join(dict.fromkeys(leaf['groups'])), *([leaf['sharding']] if split else [])]
        )
    present = {leaf['status'] for leaf in leaves.values()}
    legend = [f'{status}: {meaning}.' for status, meaning in STATUSES.items() if status in present]
    heads = ['leaf', 'shape', 'dtype', 'start', 'from', 'group in each phase', *(['split over'] if split else [])]
    return '\n'.join([text_table(heads, rows), *legend])


def _rules(plan: Mapping[str, Any]) -> str:
    rows = [
        [rule['what'], rule['phase'], rule['pattern'], str(rule['value']), str(rule['hits']), rule['origin']]
        for rule in plan['rules']
        if rule['hits']
    ]
    return text_table(['rule', 'phase', 'pattern', 'value', 'hits', 'from'], rows)


def _totals(totals: Mapping[str, int]) -> str:
    starts = ', '.join(f'{totals[status]} {status}' for status in ('loaded', 'renamed', 'adapted', 'new') if totals[status])
    return (
        f'{totals["parameters"]:,} parameters: {totals["trainable"]:,} train in some phase, {totals["frozen"]:,} never. '
        f'{totals["statistics"]:,} BatchNorm statistics. {size(totals["bytes"])}. Leaves: {starts}.'
    )
