"""What a compiled program sends between devices, read from its text."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute', 'collective-broadcast', 'ragged-all-to-all')
_BITS = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16}
_CALL = re.compile(rf'= (.+?) ({"|".join(KINDS)})(-start)?\(')
_ARRAY = re.compile(r'\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,]*)\]')


@dataclass(frozen=True)
class Collective:
    """One operation.

    Attributes:
      kind: one of KINDS.
      size: bytes of its result on a device; of a reduce-scatter, of what goes in.
      group: how many devices take part together.
      axes: of the mesh, along which these devices lie; empty where the text does not say.
    """

    kind: str
    size: int
    group: int
    axes: tuple[str, ...]

    @property
    def sent(self) -> float:
        """Bytes that a device sends at least, by an algorithm that wastes none (a ring)."""
        share = (self.group - 1) / self.group if self.group else 1.0
        return {'all-reduce': 2 * share, 'collective-permute': 1.0, 'collective-broadcast': 1.0}.get(self.kind, share) * self.size


def collectives_of(text: str, mesh_shape: Sequence[int], axis_names: Sequence[str]) -> list[Collective]:
    """The collectives of a compiled program.

    An operation in the body of a loop is counted once, and so is one that the compiler wrote into several computations (its channel is one).

    Args:
      text: of `compiled.as_text()`.
      mesh_shape, axis_names: of the mesh; devices are numbered along it, the last axis fastest.
    """
    found, channels = [], set()
    for line in text.splitlines():
        call = _CALL.search(re.sub(r'/\*.*?\*/', '', line))
        channel = re.search(r'channel_id=(\d+)', line)
        if call is None or (channel and channel[1] in channels):
            continue
        channels |= {channel[1]} if channel else set()
        shapes, kind, started = call[1], call[2], call[3]
        sizes = list(_sizes(shapes))
        if started and kind in ('all-gather', 'collective-permute', 'all-to-all') and len(sizes) > 1:
            sizes = sizes[len(sizes) // 2 :] if kind != 'collective-permute' else sizes[1:2]  # operands come first, then results
        groups = _groups(line, prod(mesh_shape))
        group = len(groups[0]) if groups else (2 if kind == 'collective-permute' else prod(mesh_shape))
        size = sum(sizes) * (group if kind == 'reduce-scatter' else 1)
        found.append(Collective(kind, size, group, _axes(groups, mesh_shape, axis_names)))
    return found


def _sizes(shapes: str) -> Iterator[int]:
    """Bytes of each array in an HLO shape, tuples included; what stands in braces is layout."""
    plain = re.sub(r'\{[^{}]*\}', '', shapes)
    for kind, dims in _ARRAY.findall(plain):
        digits = re.search(r'\d+', kind)
        bits = _BITS.get(kind) or (int(digits[0]) if digits else 0)
        yield max(1, bits // 8) * prod(int(n) for n in dims.split(',') if n) if bits else 0


def _groups(line: str, devices: int) -> list[list[int]]:
    """The groups of devices that an operation joins, or the pairs of a permutation; [] for all together or where it does not say."""
    iota = re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', line)
    if iota:
        shape, dims = ([int(n) for n in part.split(',')] for part in (iota[1], iota[2]))
        numbers = np.arange(prod(dims)).reshape(dims)
        if iota[3]:
            numbers = numbers.transpose([int(n) for n in iota[3].split(',')])
        return numbers.reshape(shape).tolist()
    named = re.search(r'replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}', line)
    if named:  # by the names of XLA's own mesh, which leaves out axes of one device
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        chosen = re.findall(r"'(\w+)'", named[2])
        if prod(sizes.values()) != devices or ':' in named[2]:
            return []
        kept = [k for k, name in enumerate(sizes) if name not in chosen]
        order = [*kept, *(k for k, name in enumerate(sizes) if name in chosen)]
        together = prod(sizes[name] for name in chosen)
        return np.arange(devices).reshape(list(sizes.values())).transpose(order).reshape(-1, together).tolist()
    listed = re.search(r'(?:replica_groups|source_target_pairs)=\{(\{[\d,{} ]*\})\}', line)
    if listed:
        return [[int(n) for n in group.split(',') if n.strip()] for group in re.findall(r'\{([\d, ]*)\}', listed[1])]
    return [list(range(devices))] if 'replica_groups={}' in line else []


def _axes(groups: list[list[int]], mesh_shape: Sequence[int], axis_names: Sequence[str]) -> tuple[str, ...]:
    places = [np.array(np.unravel_index(group, mesh_shape)) for group in groups if group]
    return tuple(name for k, name in enumerate(axis_names) if any(np.ptp(place[k]) for place in places))
