"""`jtl evaluate`: a finished run's or bundle's metrics on its data, or on other data."""

import argparse
import json
from collections.abc import Sequence

from jtl.cli.common import names_of_views, prepare_jax
from jtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument('model', metavar='RUN_OR_BUNDLE', help='a finished run directory, or a bundle')
    parser.add_argument('--split', action='append', default=[], help='which splits; default: validation and test, or all there are')
    parser.add_argument(
        '--tta',
        metavar='VIEWS',
        help="also averaged over views of each picture: flip, crops or flip,crops; default: the run's own config.tta",
    )
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.epilog = "Other data: --config.data.root=DIR and other data fields, over those of the run's config."


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a line for each metric of each split."""
    prepare_jax()
    from jtl.bundle import load_bundle
    from jtl.train.evaluation import evaluate_bundle

    bundle = load_bundle(args.model)
    config = bundle.metadata['config']
    tta = config.get('tta', ()) if args.tta is None else names_of_views(args.tta)
    metrics = evaluate_bundle(bundle, data_section(config['data'], rest), args.split, tta)
    if args.json:
        print(json.dumps(metrics, indent=1))
    else:
        for name, value in metrics.items():
            print(f'{name:<32}{value:.4f}')
    return 0


def data_section(section: dict, rest: Sequence[str]) -> dict:
    """The data section of a run with `--config.data.<field>=<value>` over it. UserError for any other argument."""
    from ml_collections import ConfigDict

    from jtl.config import frozen, override, plain

    config = ConfigDict({'data': frozen(section)})
    for argument in rest:
        if not argument.startswith('--config.data.') or '=' not in argument:
            raise UserError(f'there is no argument {argument!r}. Other data are named as --config.data.<field>=<value>.')
    return plain(override(config, rest))['data']
