"""Small files, such as a tokenizer, at any place where a checkpoint may lie: a path, an installed package, the Hugging Face Hub."""

import importlib.util
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from etils import epath

from jtl.checkpoint.beside import Beside, fetched, in_folder
from jtl.checkpoint.sources import _asked, _distribution_folders, _NoSuchFileError, _UnreachableError
from jtl.errors import UserError, did_you_mean, some_of


def find_file(where: str, names: Sequence[str]) -> tuple[Beside, str]:
    """The files of a folder, and the name of the one that is meant.

    Args:
      where: a file, or a folder that holds one of `names`: a path (also `gs://...`), `package:name[/path]`, `hf://owner/name[@revision][/path]`.
      names: of files, in order of preference.

    Raises:
      UserError: nothing is there, or several folders of a package hold such a file.
    """
    if where.startswith('hf://'):
        return _on_hub(where, names)
    place = _in_package(where, names) if where.startswith('package:') else epath.Path(where).expanduser()
    try:
        if place.is_dir():
            name = next((name for name in names if (place / name).is_file()), None)
            if name is None:
                held = sorted(path.name for path in place.iterdir())
                raise UserError(f'{where}: the folder has none of {", ".join(names)}. It holds: {some_of(held) or "nothing"}.')
            return in_folder(place, where), name
        if place.is_file():
            return in_folder(place.parent, where), place.name
        siblings = [path.name for path in place.parent.iterdir()] if place.parent.is_dir() else []
    except OSError as error:
        raise UserError(f'{where}: cannot be read ({error.strerror or error}).') from None
    raise UserError(f'{where}: there is no such file or folder. {did_you_mean(place.name, siblings)}'.rstrip())


def _in_package(where: str, names: Sequence[str]) -> epath.Path:
    """Of an installed package: the file or folder named, or the one folder that holds one of `names`."""
    package, _, rest = where.removeprefix('package:').partition('/')
    module = package.replace('-', '_')
    spec = importlib.util.find_spec(module) if module.isidentifier() else None
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else _distribution_folders(package)
    if not folders:
        raise UserError(f'{where}: there is no installed package {package!r}. Install it: pip install {package.replace("_", "-")}')
    if rest:
        for folder in folders:
            path = (folder / rest).resolve()
            if path.is_relative_to(folder.resolve()) and path.exists():
                return epath.Path(path)
        raise UserError(f'{where}: the package {package} has no file or folder {rest!r}.')
    found = sorted({path.parent.relative_to(folder) for folder in folders for name in names for path in folder.rglob(name)})
    if not found:
        raise UserError(f'{where}: the package {package} has none of {", ".join(names)}.')
    if len(found) > 1:
        raise UserError(f'{where}: {len(found)} folders of the package hold {" or ".join(names)}. Name one: {where}/{found[0]}.')
    return next(epath.Path(folder / found[0]) for folder in folders if (folder / found[0]).is_dir())


def _on_hub(where: str, names: Sequence[str]) -> tuple[Beside, str]:
    import huggingface_hub

    owner, _, rest = where.removeprefix('hf://').partition('/')
    name, _, path = rest.partition('/')
    name, _, revision = name.partition('@')
    if not owner or not name:
        raise UserError(
            f'{where}: a place on the Hugging Face Hub is written hf://owner/name, hf://owner/name@revision or hf://owner/name/path.'
        )
    repo, at = f'{owner}/{name}', urllib.parse.unquote(revision) or None

    unreachable: list[UserError] = []

    def files_of(folder: str) -> Beside:
        def fetch(file: str) -> epath.Path | None:
            whole = f'{folder}/{file}'.lstrip('/')
            try:
                return epath.Path(_asked(where, repo, at, lambda: huggingface_hub.hf_hub_download(repo, whole, revision=at)))
            except _NoSuchFileError:
                return None
            except _UnreachableError as error:  # offline, there is what is cached
                unreachable.append(error)
                return None

        return fetched(fetch, where)

    folder, _, named = path.rpartition('/')
    for place, file in ((folder, named), *((path, name) for name in names)):
        if file and files_of(place)(file) is not None:
            return files_of(place), file
    raise unreachable[0] if unreachable else UserError(f'{where}: {repo} has none of {", ".join(names)} there.')
