"""`jtl compare`: several recipes side by side over several seeds: was transfer worth it?"""

import argparse
from collections.abc import Sequence

from jtl.cli.common import add_config, prepare_jax, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_config(parser)
    parser.add_argument('--recipes', default='', metavar='A,B,...', help='default: config.compare.recipes')
    parser.add_argument('--seeds', type=int, default=0, metavar='N', help='seeds 0 to N-1; default: config.compare.seeds')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run what is not finished yet, and print one table."""
    config = read_config(args, rest)
    prepare_jax()
    from jtl.report.compare import compare_table
    from jtl.train.compare import compare

    names = tuple(name.strip() for name in args.recipes.split(',') if name.strip())
    comparison = compare(config, args.workdir, recipes=names, seeds=args.seeds)
    print()
    print(compare_table(comparison))
    print(f'\nReport: {args.workdir}/comparison.html')
    return 0
