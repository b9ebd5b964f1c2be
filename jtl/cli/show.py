"""`jtl show`: a contact sheet of the pictures that a training step sees."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jtl.cli.common import add_config, prepare_jax, read_config
from jtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_config(parser, workdir=False)
    parser.add_argument('--output', default='contact_sheet.png', metavar='FILE.png', help='what to write (default: contact_sheet.png)')
    parser.add_argument('--phase', default='', metavar='NAME', help='name of the phase, or its number from 0; default: the first')
    parser.add_argument('--step', type=int, default=0, metavar='K', help='step of the phase, from 0')
    parser.add_argument('--batches', type=int, default=1, metavar='N', help='so many steps from there on')
    parser.add_argument('--pictures', type=int, default=16, metavar='N', help='so many pictures of each batch (default 16)')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Draw the sheet and print its place. A run by this config sees the same examples, changed and mixed by the same keys."""
    config = read_config(args, rest)
    for name in ('batches', 'pictures'):
        if getattr(args, name) < 1:
            raise UserError(f'--{name}: at least 1, found {getattr(args, name)}.')
    if not args.output.lower().endswith('.png'):
        raise UserError(f'--output: the sheet is a PNG; give a name that ends in .png, found {args.output}.')
    prepare_jax()
    from etils import epath

    from jtl.train.setup import build
    from jtl.train.show import draw, phase_named

    experiment, place = build(config), epath.Path(args.output).expanduser()
    phase = phase_named(experiment, args.phase)
    with _told(args.output):
        place.parent.mkdir(parents=True, exist_ok=True)
    sheet = draw(experiment, phase, args.step, steps=args.batches, count=args.pictures, title=args.config)
    with _told(args.output):
        place.write_bytes(sheet)
    print(place)
    return 0


@contextmanager
def _told(output: str) -> Iterator[None]:
    """What keeps a file from being written, as a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(f'--output: {output} cannot be written ({error.strerror or error}).') from None
