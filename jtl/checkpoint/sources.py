"""Where checkpoints come from: files, directories, buckets, the Hugging Face Hub, installed Python packages, jtl's own runs."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import urllib.parse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from etils import epath

from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.beside import fetched, folder_of_run, in_folder
from jtl.checkpoint.blob import Blob, open_blob, zip_members
from jtl.checkpoint.hdf5_file import KERAS_MEMBER, MAGIC, open_hdf5, open_keras_zip
from jtl.checkpoint.msgpack_file import open_msgpack
from jtl.checkpoint.npz_file import open_npz
from jtl.checkpoint.orbax_dir import is_orbax, open_orbax
from jtl.checkpoint.safetensors_file import HEADER_LIMIT, open_safetensors, open_safetensors_index
from jtl.checkpoint.torch_file import LEGACY_MAGIC, open_torch_legacy, open_torch_zip
from jtl.errors import UserError, did_you_mean

T = TypeVar('T')
_INDEX = 'model.safetensors.index.json'
HUB_FILES = ('model.safetensors', _INDEX, 'pytorch_model.bin', 'flax_model.msgpack')  # in order of preference
# What may be weights where no file is named.
_SUFFIXES = ('.safetensors', '.pth', '.pt', '.bin', '.ckpt', '.msgpack', '.npz', '.h5', '.hdf5', '.keras')
# Files that people take for checkpoints, by their first bytes.
_OTHERS = {
    b'GGUF': 'a GGUF file (llama.cpp). Use the safetensors it was made from',
    b'\x93NUMPY': 'a single array (.npy). Save named arrays with numpy.savez',
    b'version https://git-lfs': 'a Git LFS pointer, not the file itself. Fetch it: git lfs pull',
    b'\x1f\x8b': 'compressed with gzip. Decompress it first',
    b'<!DOCTYPE': 'a web page, not a checkpoint. The download went wrong',
    b'<html': 'a web page, not a checkpoint. The download went wrong',
    b'\x80': 'a Python pickle that torch.save did not write. Pickles are programs and are not executed; save named arrays instead',
}


def open_checkpoint(where: str) -> Checkpoint:
    """Opens any checkpoint for listing and reading leaf by leaf.

    Args:
      where: a file or directory (also `gs://...`), `hf://owner/name[@revision][/file]`, `package:name[/file]`, a finished jtl run
        or a bundle. The format is told by the content, not by the file's name. A directory may be a bundle, a run, safetensors
        shards with their index, an Orbax checkpoint (a tree, a step, or a manager's directory, of which the latest step is taken),
        or a folder with one weight file, or with several as transformers names them, of which the first of HUB_FILES is taken.

    Returns:
      The checkpoint, with `where` as its origin. Plain numbers and strings beside the arrays are in `metadata`.

    Raises:
      CheckpointError: not there, damaged, of an unknown format, ambiguous, or with no array in it.
      UserError: the Hub or the package cannot be reached.
    """
    if where.startswith('hf://'):
        found = _open_hub(where)
    elif where.startswith('package:'):
        found = _open_package(where)
    else:
        found = _open_path(where)
    if not found.specs:
        raise CheckpointError(f'{where}: a {found.format} without any array in it.')
    return found


def _open_path(where: str) -> Checkpoint:
    try:
        path = epath.Path(where).expanduser()
        if path.is_dir():
            return _open_directory(path, where)
        if path.exists():
            return open_file(path, where)
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except UserError:
        raise
    except Exception as error:
        if '://' not in where and not isinstance(error, OSError):
            raise
        raise CheckpointError(f'{where}: cannot be read ({error}).') from None
    hint = did_you_mean(path.name, siblings) if siblings else f'There is no directory {path.parent} either.'
    raise CheckpointError(f'{where}: there is no such file or directory. {hint}'.rstrip())


def open_file(path: epath.Path, origin: str) -> Checkpoint:
    """One checkpoint file (or an index of shards beside it), its format told by its first bytes; with the files of its folder beside it.

    Raises:
      CheckpointError: damaged, or of an unknown format.
    """
    return dataclasses.replace(_open_kind(path, origin), beside=in_folder(path.parent, origin))


def _open_kind(path: epath.Path, origin: str) -> Checkpoint:
    name = origin if origin.endswith(path.name) else f'{origin} ({path.name})'
    blob = open_blob(path, name)
    kind = _kind(blob)
    if kind == 'zip':
        return _open_zip(blob, origin)
    if kind == 'torch legacy':
        return open_torch_legacy(blob, origin)
    if kind == 'safetensors':
        return open_safetensors(blob, origin)
    if kind == 'msgpack':
        return open_msgpack(blob, origin)
    if kind == 'hdf5':
        return open_hdf5(blob, origin)
    if kind == 'json':
        return open_safetensors_index(blob, origin, lambda file: _shard(path.parent / file, origin))
    raise CheckpointError(
        f'{name}: {kind or "not a checkpoint of a known format (torch, safetensors, Flax msgpack, npz, Keras HDF5, Orbax directory)"}; '
        f'it has {blob.size} bytes and begins with {blob.read(0, min(blob.size, 12)).tobytes()!r}.'
    )


def _kind(blob: Blob) -> str | None:
    """A format's name, or for other files that are known what they are, or None."""
    head = blob.read(0, min(blob.size, 32)).tobytes()
    if head[:4] in (b'PK\x03\x04', b'PK\x05\x06'):
        return 'zip'
    if head.startswith(MAGIC):
        return 'hdf5'
    if head[:1] == b'\x80' and LEGACY_MAGIC in head:
        return 'torch legacy'
    if head[8:9] == b'{' and int.from_bytes(head[:8], 'little') <= HEADER_LIMIT:
        return 'safetensors'
    if head.lstrip()[:1] == b'{':
        return 'json'
    for magic, what in _OTHERS.items():
        if head.startswith(magic) and len(head) > 1:
            return what
    # A msgpack map: 1 to 15 entries, or a 16- or 32-bit count.
    return 'msgpack' if 0x80 <= head[0] <= 0x8F or head[0] in (0xDE, 0xDF) else None


def _open_zip(blob: Blob, origin: str) -> Checkpoint:
    members = zip_members(blob)
    if any(name.rpartition('/')[2] == 'data.pkl' for name in members):
        return open_torch_zip(blob, origin, members)
    if members and all(name.endswith('.npy') for name in members):
        return open_npz(blob, origin, members)
    if KERAS_MEMBER in members:
        return open_keras_zip(blob, origin, members)
    raise CheckpointError(
        f'{blob.name}: a zip archive that is neither torch (data.pkl) nor npz (.npy alone) nor Keras ({KERAS_MEMBER}). It holds: {", ".join(list(members)[:5]) or "nothing"}.'
    )


def _shard(path: epath.Path, origin: str) -> Checkpoint:
    if not path.exists():
        raise CheckpointError(f'{origin}: the index names {path.name}, which is not beside it. Download or copy the missing shard.')
    return open_file(path, origin)


def _open_directory(path: epath.Path, origin: str) -> Checkpoint:
    run = path
    if (path / 'bundle').is_dir():
        path = path / 'bundle'
    if (path / 'bundle.json').exists() or path != run:
        return _open_bundle(path, origin)
    if is_orbax(path):
        return dataclasses.replace(open_orbax(path, origin), beside=in_folder(folder_of_run(path), origin))
    if (path / 'checkpoints').is_dir() and (path / 'config.json').exists():
        raise CheckpointError(
            f'{origin}: a jtl run that has not finished (no bundle/). Finish it, or name one of its checkpoints: {origin}/checkpoints.'
        )
    names = sorted(p.name for p in path.iterdir())
    usual = next((name for name in HUB_FILES if name in names), None)  # as on the Hub, whatever else lies there (optimizer.pt)
    if usual is not None:
        return open_file(path / usual, origin)
    weights = [name for name in names if (path / name).suffix in _SUFFIXES and (path / name).is_file()]
    if len(weights) == 1:
        return open_file(path / weights[0], origin)
    if weights:
        raise CheckpointError(
            f'{origin}: {len(weights)} weight files: {", ".join(weights[:8])}. Name one: {origin.rstrip("/")}/{weights[0]}.'
        )
    raise CheckpointError(
        f'{origin}: a directory without a checkpoint (looked for an Orbax checkpoint, a jtl bundle, {_INDEX}, and files ending in '
        f'{", ".join(_SUFFIXES)}). It holds: {", ".join(names[:8]) or "nothing"}.'
    )


def _open_bundle(path: epath.Path, origin: str) -> Checkpoint:
    for name in ('bundle.json', 'model.safetensors'):
        if not (path / name).exists():
            raise CheckpointError(f'{origin}: the bundle {path} has no {name}. It is incomplete: finish the run again.')
    try:
        metadata = json.loads((path / 'bundle.json').read_text())
    except ValueError as error:
        raise CheckpointError(f'{origin}: {path / "bundle.json"} is no JSON ({error}). It is damaged.') from None
    if not isinstance(metadata, dict):
        raise CheckpointError(f'{origin}: {path / "bundle.json"} is no JSON object. It is damaged.')
    return dataclasses.replace(open_file(path / 'model.safetensors', origin), format='jtl bundle', metadata=metadata)


def package_folders(where: str) -> tuple[str, str, list[Path]]:
    """Of `package:name[/file]` the package's name, the file ('' where none is named), and the folders in which it keeps its files.

    Raises:
      UserError: no such package is installed.
    """
    name, _, file = where.removeprefix('package:').partition('/')
    module = name.replace('-', '_')
    # Of a name without dots, nothing is imported to find out where it lies.
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else _distribution_folders(name)
    if not folders:
        raise UserError(
            f'{where}: there is no installed package {name!r} with files in it. Install it: pip install {name.replace("_", "-")}'
        )
    return name, file, folders


def in_package(folders: Sequence[Path], file: str) -> Path | None:
    """The file or folder of that name below the first of `folders` that has one; never one outside."""
    found = ((folder, (folder / file).resolve()) for folder in folders)
    return next((path for folder, path in found if path.is_relative_to(folder.resolve()) and path.exists()), None)


def _open_package(where: str) -> Checkpoint:
    name, file, folders = package_folders(where)
    files = {
        str(path.relative_to(folder)): path
        for folder in folders
        for path in sorted(folder.rglob('*'))
        if path.suffix in _SUFFIXES and path.is_file()
    }
    if file:
        path = in_package(folders, file)
        if path is not None:
            return _open_directory(epath.Path(path), where) if path.is_dir() else open_file(epath.Path(path), where)
        raise CheckpointError(f'{where}: the package {name} has no file {file!r}. {did_you_mean(file, files)}'.rstrip())
    if len(files) == 1:
        return open_file(epath.Path(next(iter(files.values()))), where)
    if not files:
        raise CheckpointError(f'{where}: the package {name} holds no weight file (looked for {", ".join(_SUFFIXES)} in {folders[0]}).')
    raise CheckpointError(
        f'{where}: the package {name} holds {len(files)} weight files: {", ".join(sorted(files)[:8])}. Name one: {where}/{min(files)}.'
    )


def _distribution_folders(name: str) -> list[Path]:
    """Where a distribution whose modules have other names keeps its files (`package:scikit-learn` is `sklearn`)."""
    try:
        files = importlib.metadata.files(name) or []
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return []
    tops = {Path(str(file.locate())).parents[len(file.parts) - 2] for file in files if len(file.parts) > 1 and '..' not in file.parts}
    return sorted(top for top in tops if top.is_dir() and not top.name.endswith('.dist-info'))


def hub_place(where: str) -> tuple[str, str | None, str]:
    """Of `hf://owner/name[@revision][/file]` the repository, the revision and the file ('' where none is named). UserError for another form."""
    owner, _, rest = where.removeprefix('hf://').partition('/')
    name, _, file = rest.partition('/')
    name, _, revision = name.partition('@')
    if not owner or not name or where.endswith(('/', '@')):
        raise UserError(
            f'{where}: a checkpoint on the Hugging Face Hub is written hf://owner/name, hf://owner/name@revision or hf://owner/name/file.'
        )
    return f'{owner}/{name}', urllib.parse.unquote(revision) or None, file


def hub_file(where: str, repo: str, revision: str | None, file: str) -> epath.Path:
    """The local copy of a file of a repository on the Hub, downloaded where it is not cached. UserError where it cannot be had."""
    import huggingface_hub

    return epath.Path(_asked(where, repo, revision, lambda: huggingface_hub.hf_hub_download(repo, file, revision=revision)))


def _open_hub(where: str) -> Checkpoint:
    repo, at, file = hub_place(where)
    fetch = partial(hub_file, where, repo, at)
    listed: list[str] | None = None
    if not file:
        file, listed = _hub_file(where, repo, at)
    path, folder = fetch(file), file.rpartition('/')[0]

    def beside(name: str) -> epath.Path | None:
        name = f'{folder}/{name}'.lstrip('/')
        if listed is not None:
            return fetch(name) if name in listed else None
        try:
            return fetch(name)
        except (_NoSuchFileError, _UnreachableError):  # offline, there is what is cached
            return None

    if file.endswith('.index.json'):
        index = open_blob(path, f'{where} ({path.name})')
        found = open_safetensors_index(index, where, lambda shard: open_file(fetch(f'{folder}/{shard}'.lstrip('/')), where))
    else:
        found = open_file(path, where)
    return dataclasses.replace(found, beside=fetched(beside, where))


def _hub_file(where: str, repo: str, revision: str | None) -> tuple[str, list[str] | None]:
    """The weight file of a repository that comes first in order of preference, and the names of all its files.

    Where there is no network, the file is one of the local cache, and of the names nothing is known.
    """
    import huggingface_hub

    listed: list[str] | None = None
    try:
        names = listed = _asked(where, repo, revision, lambda: huggingface_hub.list_repo_files(repo, revision=revision))
    except _UnreachableError:
        names = [n for n in HUB_FILES if isinstance(huggingface_hub.try_to_load_from_cache(repo, n, revision=revision), str)]
        if not names:
            raise
    for name in HUB_FILES:
        if name in names:
            return name, listed
    others = [n for n in names if n.endswith(_SUFFIXES)]
    hint = (
        f'Name one of its files: {where.rstrip("/")}/{others[0]} ({", ".join(others[:8])}).'
        if others
        else f'It holds: {", ".join(names[:8])}.'
    )
    raise CheckpointError(f'{where}: the repository has none of {", ".join(HUB_FILES)}. {hint}')


class _UnreachableError(UserError):
    """No network, or offline mode."""


class _NoSuchFileError(UserError):
    """The repository is there, the file is not."""


def _asked(where: str, repo: str, revision: str | None, ask: Callable[[], T]) -> T:
    """What the Hub answers; what goes wrong there, in the user's words."""
    from huggingface_hub import errors

    try:
        return ask()
    except errors.GatedRepoError:
        raise UserError(f'{where}: {repo} is gated. Accept its terms on its page, then log in: hf auth login') from None
    except errors.RepositoryNotFoundError:
        raise UserError(f'{where}: the Hugging Face Hub has no repository {repo}, or it is private (then log in: hf auth login).') from None
    except errors.RevisionNotFoundError:
        raise UserError(f'{where}: {repo} has no revision {revision!r}.') from None
    except errors.LocalEntryNotFoundError:
        raise _UnreachableError(
            f'{where}: the Hugging Face Hub cannot be reached, and the file is not in the local cache. Connect, or give a local path.'
        ) from None
    except errors.EntryNotFoundError as error:
        raise _NoSuchFileError(f'{where}: {repo} has no such file ({str(error).splitlines()[0]:.200}).') from None
    except errors.HFValidationError as error:
        raise UserError(f'{where}: {error!s:.200}') from None
    except Exception as error:  # connection, proxy, certificates, server: each library below has its own
        raise _UnreachableError(
            f'{where}: the Hugging Face Hub cannot be reached ({error!s:.200}). Connect, or give a local path.'
        ) from None
