"""The `jtl` command: `jtl COMMAND ...`, one small file a command. Nothing here imports JAX, so that `--help` answers at once."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from jtl.cli.memory import use_huge_pages
from jtl.errors import UserError

COMMANDS = {
    'train': 'train by a config, or go on with an unfinished run',
    'evaluate': "a finished run's or bundle's metrics on its data, or on other data",
    'predict': 'what a model says of pictures or texts: label and probability, or entities',
    'probe': 'what features are worth without training: nearest neighbours and a linear probe',
    'compare': 'several recipes side by side over several seeds: was transfer worth it?',
    'plan': 'what will happen to each parameter, without doing it',
    'show': 'a contact sheet of the pictures that a training step sees',
    'inspect': 'what a checkpoint holds',
    'convert': 'a checkpoint in another format',
}
_COMPUTE = ('train', 'evaluate', 'predict', 'probe', 'compare')


def script() -> int:
    """What the shell's `jtl` runs: `main`, for commands that compute in a process with huge pages."""
    if sys.argv[1:2] and sys.argv[1] in _COMPUTE:
        use_huge_pages()
    return main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit status: 0, or 2 where the user can mend what is wrong (one message on stderr)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog='jtl',
        description='Transfer learning on JAX and Flax: what transfers, what trains and how fast, from one config file.',
        epilog='Config fields are set after the file: --config=FILE[:arg] --config.<field>=<value>. `jtl COMMAND --help` tells more.',
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    wanted = next((a for a in argv if not a.startswith('-')), None)
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.', allow_abbrev=False)
        if name == wanted:
            importlib.import_module(f'jtl.cli.{name}').add_arguments(sub)
    args, rest = parser.parse_known_args(argv)
    command = importlib.import_module(f'jtl.cli.{args.command}')
    try:
        return int(command.run(args, rest))
    except UserError as error:
        print(f'jtl {args.command}: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f'jtl {args.command}: interrupted.', file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == '__main__':
    sys.exit(script())
