"""Trees of dicts and lists as flat keys, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from jtl.checkpoint.base import CheckpointError

_DEEPEST = 100


def flatten(tree: Any, separator: str, name: str, most: int, is_leaf: Callable[[Any], bool]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Joins the keys of nested dicts, lists and tuples.

    Args:
      tree: what a checkpoint holds; it may share or contain itself, since it comes from outside.
      separator: between the keys of two levels; list items have their index as key.
      name: the file, for messages.
      most: nodes to visit at most; a file cannot honestly hold more than it has bytes.
      is_leaf: what counts as an array.

    Returns:
      The arrays by key, and apart from them the plain numbers and strings by key. Anything else (None, markers) is left out.

    Raises:
      CheckpointError: too deep, too many nodes, or two ways to one key.
    """
    arrays: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    # Children are pushed last first, so that leaves come out in the file's order.
    stack: list[tuple[str, int, Any]] = [('', 0, tree)]
    visited = 0
    while stack:
        key, depth, node = stack.pop()
        visited += 1
        if visited > most or depth > _DEEPEST:
            raise CheckpointError(f'{name}: its tree is deeper than {_DEEPEST} levels or contains itself. This is no checkpoint.')
        if is_leaf(node):
            if key in arrays:
                raise CheckpointError(f'{name}: two arrays have the key {key!r} once levels are joined with {separator!r}.')
            arrays[key or 'array'] = node
        elif isinstance(node, bool | int | float | str):
            plain[key] = node
        elif isinstance(node, Mapping):
            stack += [(f'{key}{separator}{k}' if depth else str(k), depth + 1, v) for k, v in reversed(list(node.items()))]
        elif type(node) in (list, tuple):
            stack += [(f'{key}{separator}{i}' if depth else str(i), depth + 1, v) for i, v in reversed(list(enumerate(node)))]
    return arrays, plain


def nest(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Nested dicts from keys joined with '/'.

    Raises:
      CheckpointError: one key goes through another (`a` and `a/b`), or a level has no name.
    """
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *above, last = key.split('/')
        node = tree
        for part in above:
            node = node.setdefault(part, {})
            if not isinstance(node, dict):
                break
        if not isinstance(node, dict) or last in node or '' in (*above, last):
            raise CheckpointError(f'{name}: the key {key!r} cannot be a place in a tree of dicts: it is empty or runs through another key.')
        node[last] = value
    return tree
