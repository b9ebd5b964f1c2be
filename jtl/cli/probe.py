"""`jtl probe`: what features are worth without training: nearest neighbours and a linear probe in closed form."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from jtl.cli.common import prepare_jax, read_config, user_cache
from jtl.errors import UserError

if TYPE_CHECKING:
    from jtl.train.probes import Probed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.usage = '%(prog)s (RUN_OR_BUNDLE | --config=FILE[:arg]) [options]'
    parser.add_argument('--config', metavar='FILE[:arg]', help='the features that a run by this config would start from')
    parser.add_argument('--evaluators', default='', metavar='A,B', help='knn, linear; default: config.evaluators, or both')
    parser.add_argument('--stage', default='', help='the last stage of the backbone that runs, pooled as task.pool says; default: all')
    parser.add_argument('--cache', metavar='DIR', help='where features are kept; default: RUN/features, or ~/.cache/jtl/features')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = (
        'Fields: --config.probe.k=5 and so on; other data: --config.data.<field>=<value>. Every evaluator is fitted on train; the linear '
        "probe's strength is chosen on validation."
    )


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a row for each metric, with the constant guess beside each split."""
    # By hand: argparse takes a field's value with a space in it for a place.
    places, fields = [a for a in rest if not a.startswith('-')], [a for a in rest if a.startswith('-')]
    if not args.config and len(places) != 1:
        raise UserError('give a config, --config=FILE, or the place of one finished run or bundle.')
    names = tuple(name.strip() for name in args.evaluators.split(',') if name.strip())
    say = partial(print, file=sys.stderr) if args.json else print
    prepare_jax()
    from jtl.train import probes

    if args.config:
        config = read_config(args, rest)
        found = probes.probe_config(config, names, stage=args.stage, cache=args.cache or user_cache() / 'features', say=say)
    else:
        from etils import epath

        from jtl.bundle import load_bundle

        bundle, inside = load_bundle(places[0]), epath.Path(places[0]).expanduser()
        cache = args.cache or (inside if (inside / 'bundle').exists() else user_cache()) / 'features'
        found = probes.probe_bundle(bundle, sections(bundle.metadata['config'], fields), names, stage=args.stage, cache=cache, say=say)
    print(json.dumps(found.to_json(), indent=1) if args.json else f'\n{table(found)}')
    return 0


def sections(config: dict[str, Any], rest: Sequence[str]) -> dict[str, Any]:
    """The `data` and `probe` sections of a run's config with the arguments over them. UserError for any other argument."""
    from ml_collections import ConfigDict

    from jtl.config import frozen, override, plain
    from jtl.tasks.probes import defaults

    chosen = ConfigDict({'data': frozen(config['data']), 'probe': {**defaults(), **frozen(config.get('probe', {}))}})
    for argument in rest:
        if not argument.startswith(('--config.data.', '--config.probe.')) or '=' not in argument:
            raise UserError(f'there is no argument {argument!r}. For a run: --config.data.<field>=<value>, --config.probe.<field>=<value>.')
    return plain(override(chosen, rest))


def table(found: 'Probed') -> str:
    """A row a metric, a pair of columns a split: the evaluator and the constant guess."""
    from jtl.report.format import number
    from jtl.report.tables import text_table

    names = dict.fromkeys(name for split in reversed(list(found.sizes)) for name in found.metrics[split])  # test first: train lacks some
    headers = ['metric', *(text for split, n in found.sizes.items() for text in (f'{split} ({n:,})', 'constant'))]
    rows = []
    for name in names:
        cells = [(number(name, found.metrics[s].get(name)), number(name, found.baseline[s].get(name))) for s in found.sizes]
        rows.append([name.replace('_', ' ', 1), *(cell for pair in cells for cell in pair)])
    return text_table(headers, rows)
