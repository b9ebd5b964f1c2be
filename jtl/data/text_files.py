"""Plain text with one class a file, a line an example."""

from collections.abc import Mapping
from typing import Any

from etils import epath

from jtl.data.base import SPLIT_NAMES, Data
from jtl.data.lines import lines_of
from jtl.data.rows import Rows
from jtl.data.texts import data_of_texts
from jtl.errors import UserError, did_you_mean

SUFFIX = '.txt'


def text_files(section: Mapping[str, Any]) -> Data:
    """`data.name='text_files'`: `data.root` is a folder with <class>.txt for every class, or with folders train, validation and test of such files.

    A line is an example; blank lines are left out, and spaces around a text. Classes are the files of train, in alphabetical order; split
    folders may be called as in SPLIT_NAMES. Without them, or where one is missing, `data.validation` and `data.test` take their share.

    Raises:
      UserError: no such folder, no .txt files, a file without text, a class that only validation or test has, or, with file and line,
        bytes that are not of `data.encoding`.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='text_files' needs a folder with <class>.txt for every class here.")
    top = epath.Path(root).expanduser()
    if not top.is_dir():
        raise UserError(f'data.root: there is no folder {root}' + (', it is a file.' if top.exists() else '.'))
    places = _split_folders(top)
    splits: dict[str, Rows] = {}
    classes = [path.stem for path in _class_files(places['train'])]
    blank = 0
    for name, place in places.items():
        for path in _class_files(place):
            if path.stem not in classes:
                raise UserError(
                    f'data.root: {place} has a class file {path.name!r} that {places["train"]} lacks. {did_you_mean(path.stem, classes)} '
                    'Every class needs training examples: rename it, or move it away.'
                )
            rows = splits.setdefault(name, Rows())
            before = len(rows.contents)
            for line, text in enumerate(lines_of(path, section.get('encoding') or 'utf-8'), 1):
                if text.strip():
                    rows.add((text.strip(),), path.stem, path, line)
                else:
                    blank += 1
            if len(rows.contents) == before:
                raise UserError(f'data.root: the class file {path} holds no text. Fill it, or remove it.')
    return data_of_texts(splits, 'classes', root, (f'{blank} blank lines are left out.',) if blank else ())


def _split_folders(top: epath.Path) -> dict[str, epath.Path]:
    """The folder of each split; `top` itself is train's where it holds the class files."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        there = [top / name for name in names if (top / name).is_dir() and _class_files(top / name)]
        if len(there) > 1:
            raise UserError(f'data.root: {top} has {" and ".join(path.name for path in there)}, which both mean {split}. Keep one.')
        if there:
            found[split] = there[0]
    own = [path.stem for path in _class_files(top)]
    if found and own:
        raise UserError(
            f'data.root: {top} holds {own[0]}{SUFFIX} beside {next(iter(found.values())).name}/. Keep class files in split folders, or without any.'
        )
    if not found and not own:
        held = sorted(path.name for path in top.iterdir())
        raise UserError(f'data.root: {top} holds no {SUFFIX} files' + (f', but {", ".join(held[:5])}.' if held else ', it is empty.'))
    if not found and 'train' in own:
        raise UserError(
            f"data.root: {top} holds train{SUFFIX}, which would be a class 'train'. A file a split, without classes, is data.name='text_lines'; "
            f'class files of a split lie in {top / "train"}.'
        )
    if found and 'train' not in found:
        raise UserError(
            f'data.root: {top} has {" and ".join(p.name for p in found.values())} but no folder "train" with class files in it.'
        )
    return found or {'train': top}


def _class_files(place: epath.Path) -> list[epath.Path]:
    found = (path for path in place.iterdir() if path.suffix == SUFFIX and not path.name.startswith('.') and path.is_file())
    return sorted(found, key=lambda path: path.name)
