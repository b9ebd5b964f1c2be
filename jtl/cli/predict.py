"""`jtl predict`: what a model says of pictures or texts."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from jtl.cli.common import names_of_views, prepare_jax, refuse_rest
from jtl.errors import UserError

if TYPE_CHECKING:
    from jtl.bundle import Bundle

_AHEAD = 16  # batches of texts that are read at a time, so that those of one length come together

Told = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What an example is ('file', and of texts 'text' and 'pair'), and what is said of it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument('model', metavar='RUN_OR_BUNDLE', help='a finished run directory, or a bundle')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='FILE_OR_FOLDER',
        help='pictures, or folders of them; of models that read text: - (standard input) and .txt files, a text a line, .csv, .tsv and .jsonl files',
    )
    parser.add_argument('--json', action='store_true', help='a JSON object a line, with the likeliest labels')
    parser.add_argument(
        '--text-key',
        default='',
        metavar='NAME',
        help="which column of a CSV, or member of JSON objects, is the text; default: the run's own, or text",
    )
    parser.add_argument(
        '--pair-key',
        default='',
        metavar='NAME',
        help="which is the second text of a pair; default: the run's own. In plain lines a tab stands between the two",
    )
    parser.add_argument(
        '--tta', default='', metavar='VIEWS', help='average over views of each picture: flip, crops or flip,crops (slower by as many)'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='examples at a time (default 32)')


def run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """A line for each example, in order: name, label, probability; or name and entities. What cannot be read is named on stderr; the status is then 2."""
    refuse_rest(rest)
    if args.batch_size < 1:
        raise UserError(f'--batch-size: at least 1, found {args.batch_size}.')
    prepare_jax()
    from jtl.bundle import load_bundle
    from jtl.models.text import TextPreprocessing

    bundle = load_bundle(args.model)
    said = _texts(args, bundle) if isinstance(bundle.preprocessing, TextPreprocessing) else _pictures(args, bundle)
    failed = False
    for told, problems in said:
        for problem in problems:
            print(f'jtl predict: {problem}', file=sys.stderr)
            failed = True
        for example, prediction in told:
            print(json.dumps({**example, **prediction}) if args.json else line(example['file'], prediction))
        sys.stdout.flush()  # who reads the other end of a pipe need not wait
    return 2 if failed else 0


def _pictures(args: argparse.Namespace, bundle: 'Bundle') -> Iterator[tuple[list[Told], list[str]]]:
    """Predictions and what could not be read, batch by batch."""
    from jtl.bundle import find_pictures
    from jtl.data.images import decode
    from jtl.data.views import views_of
    from jtl.models.preprocessing import Preprocessing

    assert isinstance(bundle.preprocessing, Preprocessing)
    for option in ('text_key', 'pair_key'):
        if getattr(args, option):
            raise UserError(f'--{option.replace("_", "-")}: the model reads pictures.')
    files = find_pictures(args.inputs)
    views = views_of(names_of_views(args.tta), bundle.preprocessing)
    for first in range(0, len(files), args.batch_size):
        examples, pictures, problems = [], [], []
        for path in files[first : first + args.batch_size]:
            try:
                pictures.append(decode(path))
                examples.append({'file': str(path)})
            except UserError as error:
                problems.append(str(error))
        yield list(zip(examples, bundle.predict(pictures, args.batch_size, views), strict=True)), problems


def _texts(args: argparse.Namespace, bundle: 'Bundle') -> Iterator[tuple[list[Told], list[str]]]:
    """The same of texts."""
    from jtl.cli.sentences import Reader
    from jtl.predictions import reads_words

    if args.tta:
        raise UserError('--tta: views are taken of pictures, the model reads text.')
    own, words = bundle.metadata['config']['data'], reads_words(bundle.task)
    reader = Reader(
        text_key=args.text_key or own.get('text_key') or 'text',
        pair_key=args.pair_key or own.get('pair_key') or '',
        encoding=own.get('encoding') or 'utf-8',
        words=words,
    )
    sentences = reader.read(args.inputs)
    while chunk := list(islice(sentences, _AHEAD * args.batch_size)):
        whole = [sentence for sentence in chunk if not sentence.problem]
        said = bundle.predict([sentence.text for sentence in whole], args.batch_size)
        told: list[Told] = [
            ({'file': sentence.name, **({} if words else _content(sentence.text))}, prediction)
            for sentence, prediction in zip(whole, said, strict=True)
        ]
        yield told, [f'{sentence.name}: {sentence.problem}' for sentence in chunk if sentence.problem]


def _content(text: str | Sequence[str]) -> dict[str, str]:
    return {'text': text} if isinstance(text, str) else {'text': text[0], 'pair': text[1]}


def line(name: str, said: Mapping[str, Any]) -> str:
    """A prediction in a line, separated by tabs; of entities each in a field of its own: type, words, probability."""
    if 'entities' in said:
        return '\t'.join([name, *(f'{e["type"]} {e["text"]} {e["probability"]:.4f}' for e in said['entities'])])
    if 'probability' in said:
        label = said['label'] if isinstance(said['label'], str) else ','.join(map(str, said['label']))
        return f'{name}\t{label}\t{said["probability"]:.4f}'
    return f'{name}\t{said.get("value", said.get("label"))}'
