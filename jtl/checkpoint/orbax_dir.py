"""Orbax checkpoints: a directory saved by itself, a step of a CheckpointManager, or the manager's whole directory (its latest step)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from etils import epath

from jtl.checkpoint.base import Checkpoint, CheckpointError

_TREE = '_METADATA'  # written by the handlers of trees, in the directory of each item
_STEP = '_CHECKPOINT_METADATA'


def is_orbax(path: epath.Path) -> bool:
    """Whether a directory is an Orbax checkpoint, a step, or a manager's directory with at least one step."""
    return bool((path / _STEP).exists() or _items(path) or _steps(path))


def open_orbax(path: epath.Path, origin: str) -> Checkpoint:
    """An Orbax directory. Levels are joined with '/'; a step with several items has their names as first level.

    The data are read leaf by leaf. Orbax does not notice damaged array data: jtl's own runs keep checksums beside them.

    Args:
      path: the directory.
      origin: what the user wrote.

    Raises:
      CheckpointError: no complete step, an item without its metadata, or metadata that cannot be read.
    """
    kind = 'orbax'
    items = _items(path)
    if not items:
        steps = [(step, _items(step)) for step in _steps(path)]
        complete = [(step, items) for step, items in steps if items]
        if not complete:
            raise CheckpointError(
                f'{origin}: an Orbax directory without a complete checkpoint (a save that was cut off leaves an empty step). '
                f'It holds: {", ".join(sorted(p.name for p in path.iterdir())) or "nothing"}.'
            )
        path, items = complete[-1]
        kind = f'orbax (step {path.name})'
    places: dict[str, tuple[_Item, tuple[Any, ...], int]] = {}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    for where in items:
        item = _open_item(where, origin)
        for keys, place, spec in item.arrays():
            key = '/'.join(str(k) for k in ((where.name, *keys) if len(items) > 1 else keys))
            if key in specs:
                raise CheckpointError(f'{origin}: two arrays have the key {key!r} once levels are joined with "/".')
            places[key], specs[key] = (item, keys, place), spec

    def read(key: str) -> np.ndarray:
        array = _restore(*places[key], specs[key], f'{origin}: {key!r}')
        if array.shape != specs[key].shape or array.dtype != specs[key].dtype:
            raise CheckpointError(
                f'{origin}: {key!r} should be {specs[key].dtype} {specs[key].shape}, but is {array.dtype} {array.shape}. It is damaged.'
            )
        return array

    return Checkpoint(origin, kind, specs, read, _custom(path))


def _items(path: epath.Path) -> list[epath.Path]:
    """The directories of the saved trees: this one, or those in this step."""
    if (path / _TREE).exists():
        return [path]
    # A number is the name of a step, not of an item.
    return sorted(p for p in path.iterdir() if p.is_dir() and not _number(p).isdigit() and (p / _TREE).exists())


def _steps(root: epath.Path) -> list[epath.Path]:
    """Step directories in order: named by a number, or by a prefix and a number; empty ones too."""
    numbered = [p for p in root.iterdir() if _number(p).isdigit() and p.is_dir()]
    found = [p for p in numbered if (p / _STEP).exists() or _items(p) or not any(p.iterdir())]
    return sorted(found, key=lambda p: int(_number(p)))


def _number(path: epath.Path) -> str:
    return path.name.rpartition('_')[2]


@dataclass(frozen=True)
class _Item:
    """One saved tree: its leaves as Orbax's metadata describe them."""

    path: epath.Path
    leaves: list[Any]
    structure: Any

    def arrays(self) -> Iterator[tuple[tuple[Any, ...], int, jax.ShapeDtypeStruct]]:
        """Keys, place among the leaves, and spec of each leaf that is an array or a number."""
        for place, (path, leaf) in enumerate(self.leaves):
            if hasattr(leaf, 'shape') and hasattr(leaf, 'dtype'):
                keys = tuple(getattr(step, 'key', getattr(step, 'idx', None)) for step in path)
                yield keys, place, jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))


def _open_item(path: epath.Path, origin: str) -> _Item:
    import orbax.checkpoint as ocp

    try:
        metadata: Any = ocp.PyTreeCheckpointHandler().metadata(path)
        # Metadata of a leaf are objects with a directory; None and empty containers are part of the structure.
        leaves, structure = jax.tree_util.tree_flatten_with_path(
            getattr(metadata, 'tree', metadata), is_leaf=lambda node: hasattr(node, 'directory')
        )
    except Exception as error:  # orbax, tensorstore and JSON each have their own
        raise CheckpointError(
            f'{origin}: the Orbax metadata in {path} cannot be read ({error!s:.200}). It is damaged or incomplete.'
        ) from None
    return _Item(path, leaves, structure)


def _restore(item: _Item, keys: tuple[Any, ...], place: int, spec: jax.ShapeDtypeStruct, what: str) -> np.ndarray:
    """One leaf alone. Orbax says nothing of keys it does not find, so only keys of its own metadata may be asked for."""
    import orbax.checkpoint as ocp

    # Dicts may be asked for in part; with lists on the way the whole structure must be there, its other leaves left out.
    partial = all(isinstance(key, str) for key in keys)
    tree: Any = spec
    if partial:
        for key in reversed(keys):
            tree = {key: tree}
    else:
        tree = jax.tree.unflatten(item.structure, [spec if i == place else ocp.PLACEHOLDER for i in range(len(item.leaves))])
    try:
        args = ocp.args.PyTreeRestore(
            item=tree, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree), partial_restore=partial
        )
        found = ocp.PyTreeCheckpointHandler().restore(item.path, args=args)
        for key in keys:
            found = found[key]
        return np.asarray(found)
    except Exception as error:
        raise CheckpointError(
            f'{what} cannot be read from {item.path} ({error!s:.200}). The checkpoint is damaged or incomplete.'
        ) from None


def _custom(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads((path / _STEP).read_text())
    except (OSError, ValueError):
        return {}
    custom = found.get('custom_metadata') if isinstance(found, dict) else None
    return custom if isinstance(custom, dict) else {}
