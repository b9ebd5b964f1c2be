"""`jtl train`: train by a config, or go on with an unfinished run."""

import argparse
import os
from collections.abc import Sequence

from jtl.cli.common import add_config, prepare_jax, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_config(parser)
    parser.add_argument(
        '--hosts',
        default=os.environ.get('JTL_HOSTS', ''),
        metavar='WHO',
        help="several processes train one model: 'auto' where Cloud TPU, SLURM, GKE or Open MPI say who they are, or "
        'ADDRESS:PORT,COUNT,INDEX on each of them (default: JTL_HOSTS in the environment, or one process)',
    )
    parser.add_argument(
        '--host-timeout', type=float, default=100.0, metavar='S', help='seconds after which a silent host is taken for gone (default: 100)'
    )
    parser.add_argument('--extend', type=int, metavar='STEPS', help='so many steps more, after the last phase, in its manner')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Train; print the metrics of each split at the end."""
    config = read_config(args, rest)
    prepare_jax()
    from jtl.parallel.hosts import Watch, join
    from jtl.train.run import extended
    from jtl.train.run import run as train

    if args.extend is not None:
        config = extended(config, args.workdir, args.extend)
    elif not config.get('extend'):
        config = keep_extensions(config, args.workdir)
    hosts = join(args.hosts, args.host_timeout, place=args.workdir)
    with Watch(hosts, 'jtl train'):
        result = train(config, args.workdir, hosts=hosts)
    if not hosts.first:
        return 0
    print()
    width = max(32, *(len(name) + 2 for name in result['metrics']))
    for name, value in result['metrics'].items():
        constant = result['baseline'].get(name)
        beside = f'   (constant guess {constant:.4f})' if constant is not None else ''
        print(f'{name:<{width}}{"-" if value is None else f"{value:.4f}"}{beside}')
    print(f'{result["steps"]} steps, {result["seconds"]:.0f} s. Report: {args.workdir}/report.html')
    return 0


def keep_extensions(config: object, workdir: str) -> object:
    """The config with the extensions that the run already has, so that an extended run resumes without saying --extend again."""
    from jtl.train.files import read_json, run_files

    files = run_files(workdir)
    if files.config.exists():
        config['extend'] = tuple(read_json(files.config).get('extend', ()))  # type: ignore[index]
    return config
