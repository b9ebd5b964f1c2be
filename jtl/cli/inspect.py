"""`jtl inspect PATH`: what a checkpoint holds, without reading its data."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.description = 'Print what a checkpoint holds: format, totals, and every key with dtype and shape. The data are not read.'
    parser.add_argument(
        'path', help='file or directory (also gs://), hf://owner/name[@revision][/file], package:name[/file], a jtl run or bundle'
    )
    parser.add_argument('--json', action='store_true', help='print JSON, with every key by itself')


def run(args: argparse.Namespace, rest: list[str]) -> int:
    """Prints the listing; returns the exit status.

    Raises:
      UserError: arguments left over, or a checkpoint that cannot be opened.
    """
    import json
    import math

    from jtl.checkpoint.collapse import collapse
    from jtl.checkpoint.sources import open_checkpoint
    from jtl.errors import UserError

    if rest:
        raise UserError(f'jtl inspect: unknown arguments {" ".join(rest)}. Usage: jtl inspect PATH [--json]')
    found = open_checkpoint(args.path)
    specs = found.specs
    parameters = {key: math.prod(spec.shape) for key, spec in specs.items()}
    size = sum(parameters[key] * spec.dtype.itemsize for key, spec in specs.items())
    if args.json:
        keys = {key: {'shape': list(spec.shape), 'dtype': spec.dtype.name} for key, spec in specs.items()}
        head = {
            'origin': found.origin,
            'format': found.format,
            'tensors': len(specs),
            'parameters': sum(parameters.values()),
            'bytes': size,
        }
        print(json.dumps({**head, 'metadata': dict(found.metadata), 'keys': keys}, indent=2, default=str))
        return 0
    print(f'{found.origin}: {found.format}')
    print(f'{len(specs):,} tensors, {sum(parameters.values()):,} parameters, {size:,} bytes')
    if found.metadata:
        print(f'metadata: {json.dumps(dict(found.metadata), default=str):.300}')
    rows = [('key', 'dtype', 'shape', 'tensors', 'parameters')]
    for pattern, members in collapse(list(specs), [(spec.shape, spec.dtype) for spec in specs.values()]):
        spec = specs[members[0]]
        shape = ' x '.join(map(str, spec.shape)) or 'scalar'
        rows.append((pattern, spec.dtype.name, shape, f'{len(members):,}', f'{sum(parameters[m] for m in members):,}'))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    print()
    for row in rows:
        print('  '.join(cell.rjust(w) if i > 2 else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))))
    return 0
