"""Small files, such as a tokenizer, at any place where a checkpoint may lie: a path, an installed package, the Hugging Face Hub."""

from collections.abc import Sequence

from etils import epath

from jtl.checkpoint.beside import Beside, fetched, in_folder
from jtl.checkpoint.sources import hub_file, hub_place, in_package, package_folders
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
    package, named, folders = package_folders(where)
    if named:
        path = in_package(folders, named)
        if path is None:
            raise UserError(f'{where}: the package {package} has no file or folder {named!r}.')
        return epath.Path(path)
    found = sorted({path.parent for folder in folders for name in names for path in folder.rglob(name)})
    if not found:
        raise UserError(f'{where}: the package {package} has none of {", ".join(names)}.')
    if len(found) > 1:
        within = [str(path.relative_to(folder)) for path in found for folder in folders if path.is_relative_to(folder)]
        raise UserError(
            f'{where}: {len(found)} folders of the package hold {" or ".join(names)}. Name one: {where}/{max(within, key=len)}.'
        )
    return epath.Path(found[0])


def _on_hub(where: str, names: Sequence[str]) -> tuple[Beside, str]:
    """Of a repository: the file named, or the first of `names` in the folder named; of those that can be had (offline, the cached ones)."""
    repo, revision, path = hub_place(where)
    failures: list[UserError] = []

    def files_of(folder: str) -> Beside:
        def fetch(file: str) -> epath.Path | None:
            try:
                return hub_file(where, repo, revision, f'{folder}/{file}'.lstrip('/'))
            except UserError as error:
                failures.append(error)
                return None

        return fetched(fetch, where)

    folder, _, named = path.rpartition('/')
    for place, file in ((folder, named), *((path, name) for name in names)):
        if file and files_of(place)(file) is not None:
            return files_of(place), file
    raise UserError(f'{where}: none of {", ".join(names)} is to be had. {str(failures[0]).removeprefix(f"{where}: ")}')
