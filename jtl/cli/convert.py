"""`jtl convert SOURCE TARGET`: the same arrays in another format."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = 'Write the arrays of a checkpoint in another format, key by key as they are.'
    parser.add_argument('source', help='whatever `jtl inspect` reads')
    parser.add_argument('target', help='a new file (.safetensors, .npz, .msgpack) or directory (.orbax)')
    parser.add_argument('--format', default=None, help='safetensors, npz, msgpack or orbax; by default the suffix of TARGET says it')
    parser.add_argument('--force', action='store_true', help='replace TARGET if it exists')


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Converts; returns the exit status.

    Raises:
      UserError: arguments left over, a source that cannot be opened, an unknown format, or a target that exists already.
    """
    from etils import epath

    from jtl.checkpoint.sources import open_checkpoint
    from jtl.checkpoint.write import Leaves, format_for, write_checkpoint
    from jtl.errors import UserError

    if rest:
        raise UserError(f'jtl convert: unknown arguments {" ".join(rest)}. Usage: jtl convert SOURCE TARGET [--format=FORMAT] [--force]')
    form = args.format or format_for(args.target)
    target = epath.Path(args.target).expanduser()
    if target.exists() and not args.force:
        raise UserError(f'{args.target}: exists already. Choose another name, or give --force to replace it.')
    found = open_checkpoint(args.source)
    write_checkpoint(target, Leaves(found), form)
    left = (
        f'; not written: {len(found.metadata)} values that are no arrays ({", ".join(list(found.metadata)[:5])})' if found.metadata else ''
    )
    print(f'{args.source} ({found.format}) -> {args.target} ({form}): {len(found.specs):,} tensors{left}')
    return 0
