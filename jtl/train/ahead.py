"""A training step compiled ahead of time for chips that are not here: whether it fits, what it computes, moves and sends, and how fast it can be at most."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import jax
import numpy as np

from jtl.data.pipeline import train_batches
from jtl.errors import UserError
from jtl.models.text import TextPreprocessing
from jtl.parallel.chips import CHIPS, devices_of, parse_topology
from jtl.parallel.collectives import Collective, collectives_of
from jtl.parallel.mesh import AXES
from jtl.report.format import count, size
from jtl.report.tables import text_table
from jtl.train.parts import training_step
from jtl.train.setup import Experiment, build
from jtl.train.state import abstract


@dataclass(frozen=True)
class Ahead:
    """What the compiler says of a phase's step. All figures are of one chip and one step, in bytes, operations and seconds.

    Attributes:
      topology, phase, mesh, batch_size: what was compiled.
      parameters, statistics, optimizer, ema: bytes that lie in HBM between steps, exact, from the placement of every leaf.
      gradients: bytes of the gradients, where they lie as their parameters do.
      temporary: bytes that the compiler needs beside what lies there between steps and the batch: gradients, activations, gathered parameters.
      peak: all of it together, as the compiler counts it.
      memory: bytes that the chip has.
      flops: operations; those of a loop's body are counted once.
      moved: bytes between HBM and the cores.
      sent: bytes that a chip sends at least, by kind of collective and axes.
      bounds: seconds that computing, memory and network need at least.
      compile_seconds: what compiling took here.
    """

    topology: str
    phase: str
    mesh: Mapping[str, int]
    batch_size: int
    parameters: int
    statistics: int
    optimizer: int
    ema: int
    gradients: int
    temporary: int
    peak: int
    memory: int
    flops: float
    moved: float
    sent: Mapping[str, float]
    bounds: Mapping[str, float]
    compile_seconds: float

    @property
    def fits(self) -> bool:
        """Whether a chip's memory holds it."""
        return self.peak <= self.memory

    @property
    def seconds(self) -> float:
        """A lower bound of a step's time: the largest of the three."""
        return max(self.bounds.values())

    @property
    def throughput(self) -> float:
        """An upper bound of the examples a second of the whole slice."""
        return self.batch_size / self.seconds

    @property
    def intensity(self) -> float:
        """Operations for each byte between HBM and the cores."""
        return self.flops / max(self.moved, 1.0)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        derived = {'fits': self.fits, 'seconds_at_least': self.seconds, 'examples_per_second_at_most': self.throughput}
        return {**asdict(self), 'intensity': self.intensity, **derived, 'source': CHIPS[parse_topology(self.topology)[0]].source}


def ahead(config: Any, topology: str) -> list[Ahead]:
    """Compile the step of every phase of a config for a slice, and read off what the compiler says.

    Raises:
      UserError: anything that a user can mend; a slice that the compiler does not know.
    """
    experiment = build(config, devices=devices_of(topology))
    return [_phase_ahead(experiment, index, topology) for index in range(len(experiment.plan.phases))]


def batch_shapes(experiment: Experiment, phase: int = 0) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a global batch, split over the mesh; of texts, one of the longest bucket."""
    config, source = experiment.config, experiment.plan.phases[phase].data
    found = train_batches(
        experiment.sources[source].splits['train'],
        batch_size=config['batch_size'],
        seed=0,
        preprocessing=experiment.preprocessing,
        crop=config['augment']['crop'],
        rows=[0],
    )
    one, where = next(found), experiment.placement.batch
    longest = 0
    if isinstance(experiment.preprocessing, TextPreprocessing):
        longest, width = max(experiment.preprocessing.buckets), one['ids'].shape[1]

    def shape(name: str, value: np.ndarray) -> tuple[int, ...]:
        ragged = longest and value.ndim == 2 and value.shape[1] == width
        return (config['batch_size'], *((longest,) if ragged else value.shape[1:]))

    return {name: jax.ShapeDtypeStruct(shape(name, value), value.dtype, sharding=where) for name, value in one.items()}


def _phase_ahead(experiment: Experiment, index: int, topology: str) -> Ahead:
    place, chip = experiment.placement, CHIPS[parse_topology(topology)[0]]
    frozen, state = abstract(experiment.net, experiment.plan, index, place)
    began = time.monotonic()
    try:
        step: Any = training_step(experiment, index)
        compiled = step.lower(frozen, state, batch_shapes(experiment, index)).compile()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(
            f'--topology={topology}: the step of phase {experiment.plan.phases[index].name!r} does not compile: {_brief(error)}'
        ) from None
    seconds = time.monotonic() - began
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    collectives = collectives_of(compiled.as_text(), tuple(place.mesh.shape.values()), AXES)
    sent = _by_kind(collectives)
    flops, moved = float(cost.get('flops', 0.0)), float(cost.get('bytes accessed', 0.0))
    return Ahead(
        topology=topology,
        phase=experiment.plan.phases[index].name,
        mesh={axis: n for axis, n in place.mesh.shape.items() if n > 1},
        batch_size=experiment.config['batch_size'],
        parameters=held({path: leaf for path, leaf in {**frozen.leaves, **state.params}.items() if path in experiment.net.params}),
        statistics=held({path: leaf for path, leaf in {**frozen.leaves, **state.stats}.items() if path in experiment.net.stats}),
        optimizer=held(state.opt_state),
        ema=held(state.ema),
        gradients=held(state.params),
        temporary=int(memory.temp_size_in_bytes),
        peak=int(memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes + memory.temp_size_in_bytes),
        memory=chip.memory,
        flops=flops,
        moved=moved,
        sent=sent,
        bounds={'compute': flops / chip.flops, 'memory': moved / chip.memory_rate, 'network': sum(sent.values()) / chip.network_rate},
        compile_seconds=round(seconds, 1),
    )


def held(tree: Any) -> int:
    """Bytes of a tree of shapes on one device, by where each lies."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def search(config: Any, topology: str, say: Any = print) -> list[Ahead]:
    """The steps of several meshes and batch sizes, those that fit first, the fastest by their bound foremost.

    Meshes are data alone, fsdp alone, both, and fsdp with 2 or 4 over tensor; batches the config's, and 2 and 4 times as much. Of a config
    with several phases the last is compiled.
    """
    chips = len(devices_of(topology))
    meshes = [(chips, 1, 1), (1, chips, 1), *((f, chips // f, 1) for f in (chips // 8, chips // 4) if 1 < f < chips)]
    meshes += [(1, chips // tensor, tensor) for tensor in (2, 4) if chips % tensor == 0 and chips > tensor]
    found: list[Ahead] = []
    for (data, fsdp, tensor), times in product(dict.fromkeys(meshes), (1, 2, 4)):
        tried = config.copy_and_resolve_references()
        tried.mesh.update(dcn=1, data=data, fsdp=fsdp, tensor=tensor)
        tried.batch_size = config.batch_size * times
        try:
            experiment = build(tried, devices=devices_of(topology))
            one = _phase_ahead(experiment, len(experiment.plan.phases) - 1, topology)
        except UserError as error:
            say(f'data {data} x fsdp {fsdp} x tensor {tensor}, batch {tried.batch_size}: {error}')
            continue
        fit = 'fits' if one.fits else 'does not fit'
        say(f'data {data} x fsdp {fsdp} x tensor {tensor}, batch {tried.batch_size}: {fit}, compiled in {one.compile_seconds:g} s')
        found.append(one)
    return sorted(found, key=lambda one: (not one.fits, -one.throughput))


def ahead_text(found: Sequence[Ahead]) -> str:
    """A table for people, a column for each step, and what its figures mean."""
    rows = [
        ['mesh', *(_mesh(one) for one in found)],
        ['batch', *(f'{one.batch_size:,}' for one in found)],
        ['fits', *(f'{"yes" if one.fits else "no"}, {one.peak / one.memory:.0%} of {size(one.memory)}' for one in found)],
    ]
    for name in ('parameters', 'optimizer', 'gradients'):
        rows.append([name, *(size(getattr(one, name)) for one in found)])
    rows.append(['temporary', *(size(one.temporary) for one in found)])
    rows.append(['FLOPs', *(f'{one.flops / 1e9:,.1f} G' for one in found)])
    rows.append(['FLOPs a byte', *(f'{one.intensity:.1f}' for one in found)])
    for name in sorted({name for one in found for name in one.sent}):
        rows.append([name, *(size(round(one.sent.get(name, 0))) for one in found)])
    for name in ('compute', 'memory', 'network'):
        rows.append([f'{name} at least', *(f'{1e3 * one.bounds[name]:.2f} ms' for one in found)])
    rows.append(['examples/s at most', *(count(round(one.throughput)) for one in found)])
    rows.append(['compiled in', *(f'{one.compile_seconds:.0f} s' for one in found)])
    heads = ['a chip, a step', *(one.phase for one in found)]
    return '\n'.join([text_table(heads, rows), 'temporary: gradients, activations, gathered parameters.', _sources(found)])


def search_text(found: Sequence[Ahead]) -> str:
    """A table for people, a row for each mesh and batch size, in their order."""
    rows = [
        [
            _mesh(one),
            f'{one.batch_size:,}',
            'yes' if one.fits else 'no',
            f'{one.peak / one.memory:.0%}',
            f'{1e3 * one.seconds:.2f} ms',
            max(one.bounds, key=lambda name: one.bounds[name]),
            count(round(one.throughput)),
        ]
        for one in found
    ]
    return '\n'.join(
        [text_table(['mesh', 'batch', 'fits', 'memory', 'a step at least', 'bound by', 'examples/s at most'], rows), _sources(found)]
    )


def _mesh(one: Ahead) -> str:
    return ' x '.join(f'{axis} {n}' for axis, n in one.mesh.items()) or '1 chip'


def _sources(found: Sequence[Ahead]) -> str:
    sources = sorted({f'{one.topology}: {CHIPS[parse_topology(one.topology)[0]].source}' for one in found})
    return f'{"; ".join(sources)}. The bounds take peaks that no program reaches; nothing was run.'


def _by_kind(collectives: Sequence[Collective]) -> dict[str, float]:
    sent: dict[str, float] = defaultdict(float)
    for one in collectives:
        sent[f'{one.kind} over {", ".join(one.axes) or "nothing"}'] += one.sent
    return dict(sorted(sent.items()))


def _brief(error: BaseException) -> str:
    return ' '.join(str(error).split())[:400]
