"""A folder of pictures: `root/<split>/<class>/...` or class folders alone, `root/<class>/...`."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath

from jtl.data.base import SPLIT_NAMES, Data, Split, fingerprint
from jtl.data.files import FileExamples
from jtl.data.images import EXTENSIONS
from jtl.errors import UserError, did_you_mean


def folder(section: Mapping[str, Any]) -> Data:
    """`data.name='folder'`: pictures below `data.root`, in class folders, with or without split folders above them.

    Classes are the class folders of train, in alphabetical order; pictures may lie deeper. Split folders may be called as in
    SPLIT_NAMES. Without them, or where one is missing, `data.validation` and `data.test` take their share of train. Damaged
    pictures are found by the preflight, not here.

    Raises:
      UserError: no such folder, no class folders, a class folder without pictures, a class that only validation or test has.
    """
    root = str(section.get('root') or '')
    if not root:
        raise UserError("data.root: data.name='folder' needs the folder of the pictures here.")
    top = epath.Path(root).expanduser()
    if not top.is_dir():
        raise UserError(f'data.root: there is no folder {root}' + (', it is a file.' if top.exists() else '.'))
    places = _split_folders(top)
    classes = [path.name for path in _folders(places['train'])]
    if not classes:
        loose = sum(_is_picture(path) for path in places['train'].iterdir())
        held = f'it holds {loose} pictures outside of class folders' if loose else 'it holds no folders'
        raise UserError(f'data.root: {places["train"]} must hold a folder for each class, but {held}.')
    splits, notes, sizes = {}, [], hashlib.sha256()
    for name, place in places.items():
        files, targets = [], []
        for path in _folders(place):
            if path.name not in classes:
                raise UserError(
                    f'data.root: {place} has a class folder {path.name!r} that {places["train"]} lacks. {did_you_mean(path.name, classes)} '
                    'Every class needs training examples: rename it, or move it away.'
                )
            found: list[epath.Path] = []
            other: list[epath.Path] = []
            for file in _walk(path):
                (found if _is_picture(file) else other).append(file)
            if not found:
                held = f'it holds {len(other)} other files, such as {other[0].name}' if other else 'it is empty'
                raise UserError(
                    f'data.root: the class folder {path} holds no pictures ({held}). Fill it, or remove it. Pictures: {", ".join(EXTENSIONS)}.'
                )
            if other:
                notes.append(f'{path}: {len(other)} files that are no pictures are left out, such as {other[0].name}.')
            files += [str(file.relative_to(top)) for file in found]
            targets += [classes.index(path.name)] * len(found)
            sizes.update(repr([file.stat().length for file in found]).encode())
        wanted = np.array(targets, np.int32)
        splits[name] = Split(FileExamples(str(top), tuple(files), wanted), wanted, files.__getitem__)
    return Data(splits, tuple(classes), tuple(notes), fingerprint(splits, classes, sizes.hexdigest()))


def _split_folders(top: epath.Path) -> dict[str, epath.Path]:
    """The folder of each split; `top` itself is train's where there are none."""
    found = {}
    for split, names in SPLIT_NAMES.items():
        there = [top / name for name in names if (top / name).is_dir()]
        if len(there) > 1:
            raise UserError(f'data.root: {top} has {" and ".join(path.name for path in there)}, which both mean {split}. Keep one.')
        # A class may be called "train" too (a means of transport): a split's folder holds folders.
        if there and _folders(there[0]):
            found[split] = there[0]
    if not found:
        return {'train': top}
    if 'train' not in found:
        raise UserError(
            f'data.root: {top} has {" and ".join(p.name for p in found.values())} but no folder "train" with class folders in it.'
        )
    return found


def _folders(path: epath.Path) -> list[epath.Path]:
    return sorted((p for p in path.iterdir() if p.is_dir() and not p.name.startswith('.')), key=lambda p: p.name)


def _walk(path: epath.Path) -> Iterator[epath.Path]:
    """The files below `path`, hidden ones left out, in an order that does not depend on the file system."""
    for entry in sorted(path.iterdir(), key=lambda p: p.name):
        if entry.name.startswith('.'):
            continue
        if entry.is_dir():
            yield from _walk(entry)
        else:
            yield entry


def _is_picture(path: epath.Path) -> bool:
    return path.suffix.lower() in EXTENSIONS
