"""`jtl plan`: what will happen to each parameter, without doing it."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from functools import partial

from jtl.cli.common import add_config, prepare_jax, read_config
from jtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_config(parser, workdir=False)
    parser.add_argument('--json', action='store_true', help='print JSON instead of tables')
    parser.add_argument(
        '--topology',
        metavar='CHIP:SHAPE',
        help='compile the training steps for a TPU slice that is not here, such as v5e:16x16 or v5p:4x4x4, and say whether they fit and what '
        "bounds their speed; minutes. Needs pip install 'jtl[aot]'",
    )
    parser.add_argument('--search', action='store_true', help='with --topology: try meshes and batch sizes, and rank those that fit')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Resolve the config and print the plan."""
    config = read_config(args, rest)
    if args.search and not args.topology:
        raise UserError('--search: for which chips? Give --topology too.')
    if args.topology:
        os.environ['JAX_PLATFORMS'] = 'cpu'
    prepare_jax()
    if args.topology:
        from jtl.train.ahead import ahead, ahead_text, search, search_text

        found = search(config, args.topology, partial(print, file=sys.stderr)) if args.search else ahead(config, args.topology)
        table = search_text if args.search else ahead_text
        print(json.dumps([one.to_json() for one in found], indent=1) if args.json else table(found))
        return 0
    from jtl.report.plan_text import plan_text
    from jtl.train.setup import build

    experiment = build(config)
    print(json.dumps(experiment.plan.to_json(), indent=1) if args.json else plan_text(experiment.plan.to_json()))
    return 0
