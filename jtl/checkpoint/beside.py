"""Files that lie beside a checkpoint's weights, such as config.json or a tokenizer. Nothing is read before it is asked for."""

from collections.abc import Callable
from functools import partial

from etils import epath

from jtl.checkpoint.base import CheckpointError

LIMIT = 64 * 2**20
"""Bytes that a file beside the weights may have."""

Beside = Callable[[str], bytes | None]


def in_folder(folder: epath.Path, origin: str) -> Beside:
    """The files of one folder: from a name to the content, None where there is no such file.

    Args:
      folder: local or remote (`gs://`).
      origin: the checkpoint, for messages.

    Raises:
      CheckpointError: when called: a name that leads out of the folder, a file that is too large or cannot be read.
    """
    return partial(_read, lambda name: folder / name, origin)


def fetched(fetch: Callable[[str], epath.Path | None], origin: str) -> Beside:
    """The same of files that `fetch` brings here first; it gives None where there is no such file."""
    return partial(_read, fetch, origin)


def folder_of_run(path: epath.Path) -> epath.Path:
    """The run directory where `path` is one of a run's own checkpoints (`<run>/checkpoints/last/100`), else `path` itself."""
    tops = [place.parent for place in (path, *path.parents) if place.name == 'checkpoints']
    return next((top for top in tops if (top / 'config.json').exists()), path)


def _read(find: Callable[[str], epath.Path | None], origin: str, name: str) -> bytes | None:
    if not name or name in ('.', '..') or any(mark in name for mark in '/\\\0'):
        raise CheckpointError(f'{origin}: {name!r} is not the name of a file beside the weights.')
    try:
        path = find(name)
        if path is None or not path.exists():
            return None
        size = path.stat().length
        if size > LIMIT:
            raise CheckpointError(f'{origin}: {name} beside the weights has {size:,} bytes, more than {LIMIT:,}: not what its name says.')
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f'{origin}: {name} beside the weights cannot be read ({error.strerror or error}).') from None
