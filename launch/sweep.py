#!/usr/bin/env python3
"""Runs of one config under several settings, and one table of what came of them.

    launch/sweep.py --config=FILE --workdir=DIR                      # one after the other, here
    launch/sweep.py --config=FILE --workdir=DIR --emit='launch/slurm.sh --gpus=1 --'     # prints a command for each, to submit
    launch/sweep.py --workdir=DIR --gather                           # the table again, of what is finished

The config file has a function `sweep()` beside `get_config()`. It yields the fields in which the runs differ:

    def sweep():
        for lr in (1e-3, 1e-2):
            for seed in range(3):
                yield {'optimizer.lr': lr, 'seed': seed}

Further --config.x=y are for all runs alike. A run directory is called by its fields; one that is finished is not run again, and one that was
interrupted goes on. The table is printed, and written to DIR/sweep.csv.
"""

import argparse
import csv
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jtl.config import sweep_of
from jtl.errors import UserError
from jtl.report.tables import text_table

_UNUSUAL = re.compile(r'[^\w.+-]+')


def name_of(fields: Mapping[str, Any]) -> str:
    """A run directory's name.

    >>> name_of({'optimizer.lr': 0.001, 'tune.recipe': 'probe'})
    'optimizer.lr=0.001,tune.recipe=probe'
    """
    return ','.join(f'{field}={_UNUSUAL.sub("_", str(value))}' for field, value in fields.items())


def commands(config: str, workdir: Path, runs: Iterable[Mapping[str, Any]], rest: Sequence[str]) -> dict[str, list[str]]:
    """The command of jtl for each run, by its name. UserError for two runs of one name."""
    found: dict[str, list[str]] = {}
    for fields in runs:
        name = name_of(fields)
        if name in found:
            raise UserError(f'{config}: sweep() yields {dict(fields)} twice, or two runs whose names are alike ({name}).')
        settings = [f'--config.{field}={value}' for field, value in fields.items()]
        found[name] = ['train', f'--config={config}', *rest, *settings, f'--workdir={workdir / name}']
    return found


def gathered(workdir: Path) -> list[dict[str, Any]]:
    """A row for each finished run below a directory: its fields, then its metrics."""
    rows = []
    for path in sorted(workdir.glob('*/result.json')):
        result = json.loads(path.read_text())
        fields = dict(part.partition('=')[::2] for part in path.parent.name.split(','))
        rows.append({**fields, 'steps': result['steps'], 'seconds': result['seconds'], **result['metrics']})
    return rows


def table(rows: Sequence[Mapping[str, Any]], primary: str) -> str:
    """The rows for people: the fields, and the metric that matters on each split."""
    shown = [name for name in rows[0] if '/' not in name or name.endswith(f'/{primary}')]
    return text_table(shown, [[f'{v:.4g}' if isinstance(v := row.get(name, ''), float) else str(v) for name in shown] for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """Run, emit or gather."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument('--config', metavar='FILE[:arg]', help='a config file with a function sweep()')
    parser.add_argument('--workdir', required=True, type=Path, metavar='DIR', help='a run directory for each run comes into it')
    parser.add_argument('--emit', metavar='PREFIX', help='print the commands, this before each, and run none')
    parser.add_argument('--gather', action='store_true', help='only the table of what is finished')
    args, rest = parser.parse_known_args(argv)
    try:
        if not args.gather:
            if not args.config:
                raise UserError('--config: which file? See --help.')
            found = commands(args.config, args.workdir, sweep_of(args.config), rest)
            for number, (name, command) in enumerate(found.items(), 1):
                if args.emit is not None:
                    print(' '.join(filter(None, [args.emit, shlex.join(command)])))
                    continue
                print(f'run {number} of {len(found)}: {name}', flush=True)
                status = subprocess.run([sys.executable, '-m', 'jtl.cli.main', *command], check=False).returncode
                if status:
                    print(f'sweep: {name} ended with status {status}; the same command goes on from there.', file=sys.stderr)
                    return status
            if args.emit is not None:
                return 0
        rows = gathered(args.workdir)
        if not rows:
            raise UserError(f'{args.workdir}: no run is finished there.')
        primary = json.loads(next(args.workdir.glob('*/result.json')).read_text())['primary']
        print(table(rows, primary))
        with (args.workdir / 'sweep.csv').open('w', newline='') as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
            writer.writeheader()
            writer.writerows(rows)
    except UserError as error:
        print(f'sweep: {error}', file=sys.stderr)
        return 2
    return 0


if __name__ == '__main__':
    sys.exit(main())
