"""JSON Lines: a text and its label in an object a line."""

import json
import math
from collections.abc import Mapping
from typing import Any

from jtl.data.base import Data
from jtl.data.lines import lines_of, split_files
from jtl.data.rows import SPLIT_COLUMN, Rows, check_splits, split_of
from jtl.data.texts import data_of_texts
from jtl.errors import UserError, did_you_mean


def text_jsonl(section: Mapping[str, Any]) -> Data:
    """`data.name='text_jsonl'`: `data.root` is a .jsonl or .json file with an object on every line, or a folder with train.jsonl and the like.

    {"text": "Where is my card, please?", "label": "card_arrival", "split": "train"}

    The text is the member `data.text_key` (default 'text'), of pairs the second the member `data.pair_key`. The label is the member
    `data.label_key` (default 'label'), by `data.targets`:

      'classes'  a string, or a whole number or a truth value, which is taken for the name that JSON writes it as.
      'labels'   a list of those, which may be empty.
      'values'   a number or a list of numbers.

    Order, splits, spaces and empty texts are as `jtl.data.text_csv.text_csv` has them. Other members do no harm, blank lines are left out.

    Raises:
      UserError: with file and line: no JSON, no object, a missing member, one of another kind, a label that train lacks, or bytes that
        are not of the encoding.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError(
            "data.root: data.name='text_jsonl' needs a .jsonl file here, or a folder with train.jsonl (validation.jsonl, test.jsonl)."
        )
    kind, encoding = section.get('targets') or 'classes', section.get('encoding') or 'utf-8'
    text_keys = {'text_key': section.get('text_key') or 'text'}
    if section.get('pair_key'):
        text_keys['pair_key'] = section['pair_key']
    label_key = section.get('label_key') or 'label'
    splits: dict[str, Rows] = {}
    files = split_files(root, ('.jsonl', '.json'), 'JSON Lines file')
    for source, own in files:
        place = f'data.root: {source}'
        for line, text in enumerate(lines_of(source, encoding), 1):
            if not text.strip():
                continue
            where = f'{place}, line {line}'
            found = _object(text, where)
            content = tuple(_text(found, key, field, where).strip() for field, key in text_keys.items())
            label = _label(_member(found, label_key, 'label_key', where), kind, label_key, where)
            split = split_of(_text(found, SPLIT_COLUMN, '', where) if SPLIT_COLUMN in found else '', own, where)
            splits.setdefault(split, Rows()).add(content, label, source, line)
    check_splits(splits, files, root)
    return data_of_texts(splits, kind, root)


def _object(text: str, where: str) -> dict[str, Any]:
    """The object that a line holds."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        whole = (
            ' A file that is one JSON array must be turned into lines: jq -c ".[]" in.json > out.jsonl.' if text.lstrip()[0] == '[' else ''
        )
        raise UserError(f'{where}: no JSON ({error}). Every line must hold one whole object.{whole}') from None
    if not isinstance(found, dict):
        raise UserError(f'{where}: an object was expected, {{"text": ..., "label": ...}}, found {_shown(found)}.')
    return found


def _member(found: Mapping[str, Any], key: str, field: str, where: str) -> Any:
    if key not in found:
        raise UserError(f'{where}: the object has no {key!r} (data.{field}). {did_you_mean(key, found)}'.rstrip())
    return found[key]


def _text(found: Mapping[str, Any], key: str, field: str, where: str) -> str:
    value = _member(found, key, field, where)
    if not isinstance(value, str):
        raise UserError(f'{where}: {key!r} must be a string, found {_shown(value)}.')
    return value


def _label(value: Any, kind: str, key: str, where: str) -> Any:
    """What a label means: a class name, a tuple of label names, or a tuple of numbers."""
    if kind == 'classes':
        return _name(value, key, where, "For several labels set data.targets='labels', for numbers 'values'.")
    several = value if isinstance(value, list) else [value]
    if kind == 'labels':
        if not isinstance(value, list):
            raise UserError(
                f"{where}: {key!r} must be a list of names, found {_shown(value)}. For one class a text set data.targets='classes'."
            )
        return tuple(_name(name, key, where, 'It stands in the list of labels.') for name in several)
    try:
        numbers = tuple(float(x) for x in several if isinstance(x, int | float) and not isinstance(x, bool))
    except OverflowError:  # JSON has whole numbers of any size
        numbers = ()
    if not numbers or len(numbers) < len(several) or not all(map(math.isfinite, numbers)):
        raise UserError(
            f"{where}: {key!r} must be a number or a list of numbers, found {_shown(value)}. For class names set data.targets='classes'."
        )
    return numbers


def _name(value: Any, key: str, where: str, hint: str) -> str:
    """A class name; 3 and true are called as JSON writes them."""
    if isinstance(value, int):
        return json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'{where}: a name was expected as {key!r}, found {_shown(value)}. {hint}')
    return value.strip()


def _shown(value: Any) -> str:
    """A value as JSON, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + '...'
