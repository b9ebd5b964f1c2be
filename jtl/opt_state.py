"""Optimizer state by path: one form for saving it and for moving it from phase to phase.

The packed form is `{'moments': {slot: {path: leaf}}, 'counts': {place: leaf}}`, nested dicts of arrays only, so that it
survives any checkpoint format (Orbax, for one, turns optax's EmptyState into None):

    slot    what optax calls the moment: 'trace' (momentum), 'mu' and 'nu' (Adam, AdamW, LAMB)
    path    the parameter's
    place   'head@0/adam/count': the label, the transform in its chain, the field

Everything here looks at structure, shapes and dtypes alone: it works on arrays (leaves are handed on, shardings kept), on tracers
inside `jax.jit`, and on the ShapeDtypeStructs of `jax.eval_shape`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import DictKey, GetAttrKey, SequenceKey, tree_flatten_with_path, tree_unflatten

from jtl.checkpoint.base import CheckpointError

Packed = dict[str, dict[str, Any]]

RATE = 'rate'  # the transform that holds the schedule's count
_WRAPPERS = ('groups', 'inner_states', 'inner_state')  # of multi_transform and masked: the same everywhere, so not in places


def pack(opt_state: Any, paths: Collection[str]) -> Packed:
    """The packed form of an optimizer's state.

    Args:
      opt_state: of `jtl.optim.make_optimizer`, or of any optax transform over a flat dict of parameters.
      paths: of the trainable leaves.

    Raises:
      ValueError: the state holds moments of a path not in `paths`, or two leaves would share one place.
    """
    packed: Packed = {'moments': {}, 'counts': {}}

    def put(into: dict[str, Any], key: str, leaf: Any) -> Any:
        if key in into:
            raise ValueError(f'The optimizer state holds two leaves at {key!r}.')
        into[key] = leaf
        return leaf

    def moment(slot: str, path: str, leaf: Any) -> Any:
        if path not in paths:
            raise ValueError(f'The optimizer state holds {slot!r} of {path!r}, which is not among the {len(paths)} trainable paths.')
        return put(packed['moments'].setdefault(slot, {}), path, leaf)

    map_state(opt_state, moment, lambda place, leaf: put(packed['counts'], place, leaf))
    return packed


def unpack(template_state: Any, packed: Mapping[str, Any]) -> Any:
    """The state of the template's structure with the leaves of `packed`: the exact inverse of `pack`.

    Args:
      template_state: a state of the optimizer to go on with, arrays or ShapeDtypeStructs (`jax.eval_shape(tx.init, params)`).
      packed: what `pack` gave, arrays of any kind. An empty part may be None or absent.

    Raises:
      CheckpointError: a leaf is missing, extra, or of another shape or dtype; the message names them.
    """
    moments, counts = packed.get('moments') or {}, packed.get('counts') or {}
    have = {(slot, path): leaf for slot, leaves in moments.items() for path, leaf in (leaves or {}).items()}
    have |= {('count', place): leaf for place, leaf in counts.items()}
    wanted: dict[tuple[str, str], Any] = {}
    map_state(template_state, lambda slot, path, leaf: wanted.setdefault((slot, path), leaf), _ignore)
    map_state(template_state, _ignore, lambda place, leaf: wanted.setdefault(('count', place), leaf))

    problems = []
    if missing := [f'{path} ({slot})' for slot, path in wanted if (slot, path) not in have]:
        problems.append(f'is missing {_some(missing)}')
    if extra := [f'{path} ({slot})' for slot, path in have if (slot, path) not in wanted]:
        problems.append(f'holds {_some(extra)}, which this optimizer does not have')
    if wrong := [
        f'{path} ({slot}) as {_spec(have[slot, path])}, expected {_spec(leaf)}'
        for (slot, path), leaf in wanted.items()
        if (slot, path) in have and _spec(have[slot, path]) != _spec(leaf)
    ]:
        problems.append(f'holds {_some(wrong, "; ")}')
    if problems:
        raise CheckpointError(
            f'The saved optimizer state {"; it ".join(problems)}. It belongs to another optimizer, other groups or other trainable leaves.'
        )
    return map_state(template_state, lambda slot, path, _: have[slot, path], lambda place, _: have['count', place])


def migrate(
    old_packed: Mapping[str, Any], old_labels: Mapping[str, str], new_state: Any, new_labels: Mapping[str, str]
) -> tuple[Any, tuple[str, ...]]:
    """The state with which a phase starts, from that with which the last one ended.

    A moment moves by (slot, path) where the leaf trains in both phases and the new optimizer has that slot. Adam's count belongs
    to the moments it corrects: a label '...@k' takes the count of the labels that its leaves had, if these were of the same k and
    every leaf of the label brings all its moments; otherwise the label's moments and count start anew together, since old moments
    with a new count, or new moments with an old count, would take steps of a wrong size. The counts of schedules start at 0.

    Args:
      old_packed: the last phase's state, packed.
      old_labels, new_labels: 'group@k' of each trainable leaf; labels of one k that are joined had equal counts.
      new_state: the new optimizer's initial state (zeros), whose leaves stand where nothing moves.

    Returns:
      The new state, and a few sentences on what was dropped or starts anew; none if nothing was.
      Counts are copied, so that no two leaves of the new state share a buffer and it may be donated.
    """
    old_moments, old_counts = old_packed.get('moments') or {}, old_packed.get('counts') or {}
    new = pack(new_state, new_labels)
    slots: dict[str, list[str]] = {path: [] for path in new_labels}
    for slot, leaves in new['moments'].items():
        for path in leaves:
            slots[path].append(slot)

    moved: set[tuple[str, str]] = set()
    counts: dict[str, Any] = {}
    anew: list[str] = []
    for label in dict.fromkeys(new_labels.values()):
        leaves = [path for path, its in new_labels.items() if its == label]
        found = [(slot, path) for path in leaves for slot in slots[path] if path in old_labels and path in old_moments.get(slot, {})]
        tails = [place.rsplit('/', 2)[1:] for place in new['counts'] if place.rsplit('/', 2)[0] == label]
        tails = [tail for tail in tails if tail[0] != RATE]
        if tails:
            sources = list(dict.fromkeys(old_labels.get(path, '') for path in leaves))
            whole = len(found) == sum(len(slots[path]) for path in leaves)
            same = all(_thawed(source) == _thawed(label) for source in sources)
            places = {'/'.join([label, *tail]): '/'.join([sources[0], *tail]) for tail in tails}
            if not (whole and same and all(place in old_counts for place in places.values())):
                anew += dict.fromkeys(path for _, path in found)
                continue
            counts |= {place: _copy(old_counts[source]) for place, source in places.items()}
        moved.update(found)

    notes = []
    if gone := sorted({path for leaves in old_moments.values() for path in leaves if path not in new_labels}):
        notes.append(f'Optimizer state dropped, since they no longer train: {_some(gone)}.')
    for slot, leaves in sorted(old_moments.items()):
        if lost := sorted(path for path in leaves if path in new_labels and slot not in slots[path]):
            notes.append(f'{slot} dropped, since their new optimizer has no such slot: {_some(lost)}.')
    if anew:
        notes.append(f'Moments start anew, since some of their group bring none or were thawed in another phase: {_some(sorted(anew))}.')
    state = map_state(
        new_state,
        lambda slot, path, leaf: _fits(old_moments[slot][path], leaf, slot, path) if (slot, path) in moved else leaf,
        lambda place, leaf: counts.get(place, leaf),
    )
    return state, tuple(notes)


def state_bytes(opt_state: Any) -> int:
    """Bytes of the moments, over all devices, from shapes and dtypes; counts (4 bytes each) are left out."""
    sizes: list[int] = []
    map_state(opt_state, lambda slot, path, leaf: sizes.append(math.prod(leaf.shape) * leaf.dtype.itemsize), _ignore)
    return sum(sizes)


def map_state(opt_state: Any, moment: Callable[[str, str, Any], Any], count: Callable[[str, Any], Any]) -> Any:
    """A tree of the state's structure, each leaf replaced by `moment(slot, path, leaf)` or `count(place, leaf)`.

    The shardings of a state, from those of the parameters:

        map_state(jax.eval_shape(tx.init, params), lambda slot, path, leaf: shardings[path], lambda place, leaf: replicated)
    """
    leaves, structure = tree_flatten_with_path(opt_state)
    return tree_unflatten(structure, [_visit(keys, leaf, moment, count) for keys, leaf in leaves])


def _visit(keys: tuple[Any, ...], leaf: Any, moment: Callable[[str, str, Any], Any], count: Callable[[str, Any], Any]) -> Any:
    names = [_name(key) for key in keys]
    # A leaf found in a dict is a parameter's own, the flat dict being the innermost container; all others are fields of a state.
    if keys and isinstance(keys[-1], DictKey):
        return moment(names[-2] if len(names) > 1 else '', names[-1], leaf)
    return count('/'.join(name for name in names if name not in _WRAPPERS), leaf)


def _name(key: Any) -> str:
    if isinstance(key, DictKey):
        return str(key.key)
    if isinstance(key, GetAttrKey):
        return key.name
    return str(key.idx) if isinstance(key, SequenceKey) else str(key)


def _thawed(label: str) -> str:
    """The phase in a label 'group@k'; a label without one is of a phase of its own name."""
    return label.rpartition('@')[2]


def _copy(leaf: Any) -> Any:
    return leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.array(leaf, copy=True)


def _fits(old: Any, new: Any, slot: str, path: str) -> Any:
    if _spec(old) != _spec(new):
        raise CheckpointError(f'The last phase left {slot} of {path} as {_spec(old)}, but this phase needs {_spec(new)}.')
    return old


def _spec(leaf: Any) -> str:
    return f'{leaf.dtype}{list(leaf.shape)}'


def _some(items: Iterable[str], join: str = ', ') -> str:
    items = list(items)
    return join.join(items[:3]) + (f' and {len(items) - 3} more ({len(items)} in all)' if len(items) > 3 else '')


def _ignore(*_: Any) -> None:
    return None
