"""`jtl plan`: what will happen to each parameter, without doing it."""

import argparse
import json
from collections.abc import Sequence

from jtl.cli.common import add_config, prepare_jax, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_config(parser, workdir=False)
    parser.add_argument('--json', action='store_true', help='print plan.json instead of tables')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Resolve the config and print the plan."""
    config = read_config(args, rest)
    prepare_jax()
    from jtl.report.plan_text import plan_text
    from jtl.train.setup import build

    experiment = build(config)
    print(json.dumps(experiment.plan.to_json(), indent=1) if args.json else plan_text(experiment.plan.to_json()))
    return 0
