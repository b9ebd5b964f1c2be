"""TPU chips by their published figures, and slices of them that need not be here: what `jtl plan --topology` compiles for."""

import os
import re
from dataclasses import dataclass
from math import prod
from typing import Any

from jtl.errors import UserError, did_you_mean


@dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      flops: peak floating-point operations a second in bfloat16, in which a TPU also multiplies float32 unless told otherwise.
      memory: bytes of HBM.
      memory_rate: bytes a second between HBM and the cores.
      network_rate: bytes a second over all links to its neighbours, both directions together.
      source: of these figures.
    """

    flops: float
    memory: int
    memory_rate: float
    network_rate: float
    source: str


CHIPS = {
    'v4': Chip(
        275e12, 32 * 2**30, 1200e9, 600e9, 'docs.cloud.google.com/tpu/docs/v4: 275 TFLOPs, 32 GiB, 1200 GBps, 6 links of 50 GBps each way'
    ),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 400e9, 'docs.cloud.google.com/tpu/docs/v5e: 197 TFLOPs, 16 GB, 819 GBps, 400 GBps both ways'),
    'v5p': Chip(
        459e12, 95 * 2**30, 2765e9, 1200e9, 'docs.cloud.google.com/tpu/docs/v5p: 459 TFLOPs, 95 GiB, 2765 GBps, 1200 GBps both ways'
    ),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 800e9, 'docs.cloud.google.com/tpu/docs/v6e: 918 TFLOPs, 32 GB, 1638 GBps, 800 GBps both ways'),
}


def parse_topology(text: str) -> tuple[str, tuple[int, ...]]:
    """A chip's name and the shape of a slice, from 'v5e:16x16'. UserError for anything else."""
    found = re.fullmatch(r'(\w+):(\d+(?:x\d+){1,2})', text)
    name = found[1] if found else text.partition(':')[0]
    if name not in CHIPS:
        raise UserError(f'--topology: chips are {", ".join(CHIPS)}, found {name!r}. {did_you_mean(name, CHIPS)}'.rstrip())
    if not found:
        raise UserError(f'--topology: a chip and the shape of a slice, such as v5e:16x16 or v5p:4x4x4, found {text!r}.')
    shape = tuple(int(n) for n in found[2].split('x'))
    if len(shape) != (3 if name in ('v4', 'v5p') else 2):
        raise UserError(f'--topology: a slice of {name} has {3 if name in ("v4", "v5p") else 2} dimensions, found {found[2]}.')
    return name, shape


def devices_of(topology: str) -> list[Any]:
    """The devices of a slice that is not here, one a chip, to compile for.

    Raises:
      UserError: no such topology, or no libtpu.
    """
    _, shape = parse_topology(topology)
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')  # else libtpu asks a metadata server that is not there, for minutes
    os.environ.setdefault('ALLOW_MULTIPLE_LIBTPU_LOAD', '1')  # nothing runs on a TPU, so nothing is locked for this process alone
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform='tpu', topology_name=topology)
    except Exception as error:  # of several kinds, some of them libtpu's own
        text = ' '.join(str(error).split())[:200]
        if 'libtpu' in text or 'not found' in text.lower() or isinstance(error, ModuleNotFoundError):
            raise UserError(f"--topology: compiling for TPUs needs libtpu: pip install 'jtl[aot]'. ({text})") from None
        raise UserError(f'--topology: {topology} is no slice that the compiler knows: {text}') from None
    devices = list(found.devices)
    if len(devices) != prod(shape):
        raise UserError(f'--topology: {topology} has {prod(shape)} chips, the compiler sees {len(devices)} devices.')
    return devices
