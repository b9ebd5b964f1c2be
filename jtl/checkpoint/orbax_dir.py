"""Orbax checkpoints: a directory saved by itself, a step of a CheckpointManager, or the manager's whole directory (its latest step)."""

import json
from collections.abc import Iterator
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
    places: dict[str, dict[str, Any]] = {}
    specs: dict[str, jax.ShapeDtypeStruct] = {}
    for item in items:
        for keys, spec, place in _list(item, origin):
            key = '/'.join((item.name, *keys) if len(items) > 1 else keys)
            if key in specs:
                raise CheckpointError(f'{origin}: two arrays have the key {key!r} once levels are joined with "/".')
            places[key], specs[key] = place, spec

    return Checkpoint(origin, kind, specs, lambda key: _read(places[key], specs[key], f'{origin}: {key!r}'), _custom(path))


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


def _list(item: epath.Path, origin: str) -> Iterator[tuple[tuple[str, ...], jax.ShapeDtypeStruct, dict[str, Any]]]:
    """Of each array (or number) of a saved tree: its keys, its spec, and where TensorStore finds it."""
    import orbax.checkpoint as ocp

    try:
        layout = json.loads((item / _TREE).read_text())
        metadata: Any = ocp.PyTreeCheckpointHandler().metadata(item)
        # Metadata of a leaf are objects with a directory; None and empty containers are part of the structure.
        leaves, _ = jax.tree_util.tree_flatten_with_path(
            getattr(metadata, 'tree', metadata), is_leaf=lambda node: hasattr(node, 'directory')
        )
    except Exception as error:  # orbax, tensorstore and JSON each have their own
        raise CheckpointError(
            f'{origin}: the Orbax metadata in {item} cannot be read ({error!s:.200}). It is damaged or incomplete.'
        ) from None
    base: Any = f'{item}/' if '://' in str(item) else {'driver': 'file', 'path': f'{item.resolve()}/'}
    for path, leaf in leaves:
        if not hasattr(leaf, 'shape') or not hasattr(leaf, 'dtype'):
            continue
        if layout.get('use_ocdbt', True):
            store: Any = {'driver': 'ocdbt', 'base': base, 'path': f'{leaf.name}/'}
        else:
            store = f'{base}{leaf.name}/' if isinstance(base, str) else {**base, 'path': f'{base["path"]}{leaf.name}/'}
        keys = tuple(str(getattr(step, 'key', getattr(step, 'idx', None))) for step in path)
        spec = jax.ShapeDtypeStruct(tuple(leaf.shape), np.dtype(leaf.dtype))
        yield keys, spec, {'driver': 'zarr3' if layout.get('use_zarr3') else 'zarr', 'kvstore': store}


def _read(place: dict[str, Any], spec: jax.ShapeDtypeStruct, what: str) -> np.ndarray:
    # Orbax's own restore reads all metadata again for each call: 35 ms a leaf where there are 300.
    import tensorstore

    try:
        store = tensorstore.open(place, read=True, open=True).result()
        found = tuple(store.shape), store.dtype.numpy_dtype
        if found == (spec.shape, spec.dtype):  # before anything is allocated
            return np.asarray(store.read().result())
    except Exception as error:
        raise CheckpointError(f'{what} cannot be read ({error!s:.300}). The checkpoint is damaged or incomplete.') from None
    raise CheckpointError(f'{what} should be {spec.dtype} {spec.shape}, but is {found[1]} {found[0]}. The checkpoint is damaged.')


def _custom(path: epath.Path) -> dict[str, Any]:
    try:
        found = json.loads((path / _STEP).read_text())
    except (OSError, ValueError):
        return {}
    custom = found.get('custom_metadata') if isinstance(found, dict) else None
    return custom if isinstance(custom, dict) else {}
