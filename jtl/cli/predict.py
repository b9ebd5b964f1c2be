"""`jtl predict`: label and probability of pictures."""

import argparse
import json
import sys
from collections.abc import Sequence

from jtl.cli.common import names_of_views, prepare_jax, refuse_rest
from jtl.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument('model', metavar='RUN_OR_BUNDLE', help='a finished run directory, or a bundle')
    parser.add_argument('inputs', nargs='+', metavar='FILE_OR_FOLDER', help='pictures, or folders of them')
    parser.add_argument('--json', action='store_true', help='a JSON object a line, with the likeliest labels')
    parser.add_argument(
        '--tta', default='', metavar='VIEWS', help='average over views of each picture: flip, crops or flip,crops (slower by as many)'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='pictures at a time (default 32)')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """A line for each picture, in order: name, label, probability. Pictures that cannot be read are named on stderr; the status is then 2."""
    refuse_rest(rest)
    if args.batch_size < 1:
        raise UserError(f'--batch-size: at least 1, found {args.batch_size}.')
    prepare_jax()
    from jtl.bundle import find_pictures, load_bundle
    from jtl.data.images import decode
    from jtl.data.views import views_of

    files = find_pictures(args.inputs)
    bundle = load_bundle(args.model)
    views = views_of(names_of_views(args.tta), bundle.preprocessing)
    failed = False
    for first in range(0, len(files), args.batch_size):
        names, pictures = [], []
        for path in files[first : first + args.batch_size]:
            try:
                pictures.append(decode(path))
                names.append(str(path))
            except UserError as error:
                print(f'jtl predict: {error}', file=sys.stderr)
                failed = True
        for name, said in zip(names, bundle.predict(pictures, args.batch_size, views), strict=True):
            print(json.dumps({'file': name, **said}) if args.json else line(name, said))
    return 2 if failed else 0


def line(name: str, said: dict) -> str:
    """A prediction in a line, separated by tabs."""
    if 'probability' in said:
        label = said['label'] if isinstance(said['label'], str) else ','.join(map(str, said['label']))
        return f'{name}\t{label}\t{said["probability"]:.4f}'
    return f'{name}\t{said.get("value", said.get("label"))}'
