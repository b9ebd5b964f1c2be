"""Starting a run or going on with it: what is saved, and whether it is the same run.

The first checkpoint (`base`) holds every leaf as it was before the first step. The later ones hold what changes: the leaves that any
phase trains or whose statistics it updates, the optimizer's state and the position. So a frozen backbone is written once, the foreign
checkpoint is never read again, and adaptation is never applied twice.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import jax

from jtl import config as configs
from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.runs import OtherPlanError, RunCheckpoints, digest, templates_of
from jtl.defaults import HARMLESS
from jtl.errors import UserError
from jtl.opt_state import pack, unpack
from jtl.parallel.hosts import ONE, Hosts
from jtl.train.files import RunFiles, read_json, write_json
from jtl.train.setup import Experiment, load_leaves
from jtl.train.state import Frozen, State, Window, abstract, anchored, begin, updated_stats

_LEAF, _EMA, _MOMENT, _COUNT, _WINDOW, _SCALE = 'leaves', 'ema', 'moments', 'counts', 'window', 'loss_scale'


@dataclass(frozen=True)
class Position:
    """Where a run is; saved with every checkpoint.

    Attributes:
      phase, step: the phase, and the steps done in it.
      total: steps done in the run.
      done: whether the phase has ended.
      best: the best validation value of the primary metric so far; None before the first evaluation.
      best_total: `total` at that evaluation.
      waited: evaluations in this phase since the best.
    """

    phase: int = 0
    step: int = 0
    total: int = 0
    done: bool = False
    best: float | None = None
    best_total: int = -1
    waited: int = 0


class RunStore:
    """The checkpoints of a run: base, last and best. IO.

    Args:
      files: of the run.
      experiment: of the run; its plan says which leaves change.
      hosts: of the run; the first writes what is no checkpoint.
      say: takes lines for a person.
    """

    def __init__(self, files: RunFiles, experiment: Experiment, hosts: Hosts = ONE, say: Callable[[str], None] = print):
        self.files, self.experiment, self._hosts, self._say = files, experiment, hosts, say
        self.changing = changing(experiment)
        self._base = RunCheckpoints(
            files.base, keep=1, remedy='Without it the run cannot go on: begin again in another --workdir.', hosts=hosts
        )
        self._last = RunCheckpoints(files.last, keep=2, hosts=hosts)
        self._best = RunCheckpoints(
            files.best, keep=None, remedy=f'Delete {files.last} to train again from the start, to the same result.', hosts=hosts
        )
        self._clock, self._spent = time.monotonic(), 0.0  # seconds of the sessions before
        self._best_total = 0  # of the newest save in `_last`: what was best before it is no longer needed

    def start_or_resume(self) -> tuple[Frozen, State, Position]:
        """The state and position to train from.

        Raises:
          UserError: the run directory is that of another config or plan, or the checkpoint's data set differs.
          CheckpointError: the checkpoint of what the run began with is damaged. A later one that is damaged is said, and the one before it used.
        """
        if not self._base.steps():
            if self._last.steps():
                raise CheckpointError(
                    f'{self.files.base / "0"}: the checkpoint of what the run began with is missing or damaged. '
                    'Without it the run cannot go on: begin again in another --workdir.'
                )
            return self._start()
        self._check_same_run()
        leaves, meta = self._base.restore(0, self._templates())
        self.frozen_before = meta['frozen']
        frozen, state, at = self._newest(leaves)
        self._goes_on(at)
        return frozen, state, at

    def _newest(self, base: Mapping[str, jax.Array]) -> tuple[Frozen, State, Position]:
        """The state and position of the newest save that is whole; the start of the run where none is."""
        steps = self._last.steps()
        for step in self._last.broken():
            before = f'the save of step {steps[-1]}' if steps else 'the start'
            self._say(f'warning: {self.files.last / str(step)}: a part of this checkpoint is missing. The run goes on from {before}.')
        for k, step in reversed(list(enumerate(steps))):
            try:
                meta, problem = self._last.meta(step), ''
            except CheckpointError as error:
                problem = str(error)
            try:
                if problem := next(filter(None, self._hosts.exchange(f'whether the save of step {step} can be read', problem)), ''):
                    raise CheckpointError(problem)
                at = Position(**meta['position'])
                frozen, state = self._restore(at, base)
            except OtherPlanError:
                raise
            except CheckpointError as error:
                before = f'from the save of step {steps[k - 1]}' if k else 'from the start'
                self._say(f'warning: {error} The run goes on {before}.')
                continue
            self._spent = meta['seconds']
            return frozen, state, at
        return (*self._begin(0, base), Position())

    def finished(self) -> bool:
        """Whether the newest checkpoint stands at the end of the last phase. Refuses the directory of another run, as `start_or_resume` does."""
        steps = self._last.steps()
        if not self._base.steps() or not steps:
            return False
        self._check_same_run()
        try:
            at = Position(**self._last.meta(steps[-1])['position'])
        except CheckpointError:  # it will be said, and the one before it used
            return False
        return at.done and at.phase == len(self.experiment.plan.phases) - 1

    def seconds(self) -> float:
        """What the run has taken, over all its sessions; what a kill undid is not counted."""
        return self._spent + time.monotonic() - self._clock

    def save(self, frozen: Frozen, state: State, at: Position) -> None:
        """Save the state in the background, once all that it relies on is on disk."""
        self.wait()
        self._best.prune(lambda total: total >= self._best_total)
        self._last.save(at.total, self._flat(frozen, state, at.phase), {'position': asdict(at), 'seconds': self.seconds()})
        self._best_total = at.best_total

    def save_best(self, leaves: Mapping[str, jax.Array], at: Position) -> None:
        """Save the leaves that change (with averages in place) as the best so far."""
        self._best.save(at.total, {path: leaves[path] for path in self.changing}, {'position': asdict(at)})

    def best_leaves(self, leaves: Mapping[str, jax.Array], at: Position) -> dict[str, jax.Array]:
        """All leaves, the changing ones as they were at the best evaluation."""
        best, _ = self._best.restore(at.best_total, templates_of({p: leaves[p] for p in self.changing}))
        return {**leaves, **best}

    def base_values(self, index: int) -> dict[str, jax.Array]:
        """The starting values that L2-SP penalties of a phase pull to."""
        wanted = anchored(self.experiment.plan, self.experiment.plan.phases[index])
        if not wanted:
            return {}
        self._base.wait()
        leaves, _ = self._base.restore(0, self._templates())
        return {path: leaves[path] for path in wanted}

    def begin(self, index: int, leaves: Mapping[str, jax.Array], before: State) -> tuple[Frozen, State, tuple[str, ...]]:
        """The state at the first step of a later phase, and what did not move over."""
        e = self.experiment
        return begin(e.net, e.plan, index, leaves, self.base_values(index), e.config['seed'], e.placement, before)

    def frozen_digest(self, leaves: Mapping[str, jax.Array]) -> str:
        """The checksum of all leaves that nothing may change."""
        return digest({path: leaf for path, leaf in leaves.items() if path not in self.changing})

    def wait(self) -> None:
        """Return when every save is on disk, that of every host."""
        for checkpoints in (self._base, self._best, self._last):
            checkpoints.wait()
        self._hosts.barrier('everything is on disk')

    def close(self) -> None:
        """Wait, and release Orbax's threads."""
        for checkpoints in (self._base, self._last, self._best):
            checkpoints.close()

    def _start(self) -> tuple[Frozen, State, Position]:
        leaves = load_leaves(self.experiment)
        self.frozen_before = self.frozen_digest(leaves)
        self._goes_on(Position())
        main, *others = (source.fingerprint for source in self.experiment.sources.values())
        self._base.save(0, leaves, {'frozen': self.frozen_before, 'data': main, 'sources': others})
        return (*self._begin(0, leaves), Position())

    def _goes_on(self, at: Position) -> None:
        """Write what the run is now, and remove what a resumed run will make again. Nothing was changed before this."""
        everything = (self._base, self._last, self._best)
        self._hosts.barrier('what is in the run directory')  # all have read it
        if self._hosts.first:
            self.files.result.unlink(missing_ok=True)  # an extended run is not finished any more
            write_json(self.files.config, dict(self.experiment.config))
            write_json(self.files.plan, self.experiment.plan.to_json())
            for checkpoints in everything:
                checkpoints.sweep()
        self._hosts.barrier('the run directory is tidy')
        for checkpoints in everything:
            checkpoints.prune(lambda total: total <= at.total)
        self._best_total = at.best_total

    def _begin(self, index: int, leaves: Mapping[str, jax.Array]) -> tuple[Frozen, State]:
        e = self.experiment
        frozen, state, _ = begin(e.net, e.plan, index, leaves, self.base_values(index), e.config['seed'], e.placement)
        return frozen, state

    def _check_same_run(self) -> None:
        """Refuse to go on with a run of another config, plan or data set."""
        _check_same_config(self.files, self.experiment.config)
        plan = read_json(self.files.plan)
        a, b = (_effects(p, len(plan.get('phases', ()))) for p in (plan, self.experiment.plan.to_json()))
        if a != b:
            parts = ', '.join(key for key in b if a[key] != b[key])
            raise UserError(f'{self.files.root}: the plan differs from plan.json in {parts}. Is it of another version of jtl?')
        meta = self._base.meta(0)
        main, *others = (source.fingerprint for source in self.experiment.sources.values())
        if (meta['data'], meta.get('sources', others)) != (main, others):
            raise UserError(
                f'{self.files.root}: the data set is not the one the run began with (its files, labels or splits have changed).'
            )

    def _restore(self, at: Position, base: Mapping[str, jax.Array]) -> tuple[Frozen, State]:
        e = self.experiment
        shapes = self._flat(*abstract(e.net, e.plan, at.phase, e.placement), at.phase)
        saved, _ = self._last.restore(at.total, templates_of(shapes))
        parts: dict[str, dict[str, jax.Array]] = {}
        for name, leaf in saved.items():
            kind, _, rest = name.partition('/')
            parts.setdefault(kind, {})[rest] = leaf
        leaves = {**base, **parts[_LEAF]}
        frozen, state = self._begin(at.phase, leaves)
        moments: dict[str, dict[str, jax.Array]] = {}
        for name, leaf in parts.get(_MOMENT, {}).items():
            slot, _, path = name.partition('/')
            moments.setdefault(slot, {})[path] = leaf
        return frozen, state.replace(
            step=parts['step'][''],
            opt_state=unpack(state.opt_state, {'moments': moments, 'counts': parts.get(_COUNT, {})}),
            ema=parts.get(_EMA, {}),
            loss_scale=parts.get(_SCALE, {}),
            window=Window(**parts[_WINDOW]),
            bad_step=parts['bad_step'][''],
        )

    def _templates(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Of every leaf, where it lies on this mesh."""
        e = self.experiment
        return {path: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=e.placement.leaf(path)) for path, s in e.net.shapes.items()}

    def _flat(self, frozen: Frozen, state: State, index: int) -> dict[str, Any]:
        """The state as flat leaves, and the leaves that other phases change."""
        labels = self.experiment.plan.phases[index].labels
        packed = pack(state.opt_state, labels)
        present = {**frozen.leaves, **state.params, **state.stats}
        found = {f'{_LEAF}/{path}': present[path] for path in self.changing}
        found |= {f'{_EMA}/{path}': leaf for path, leaf in state.ema.items()}
        found |= {f'{_MOMENT}/{slot}/{path}': leaf for slot, leaves in packed['moments'].items() for path, leaf in leaves.items()}
        found |= {f'{_COUNT}/{place}': leaf for place, leaf in packed['counts'].items()}
        found |= {f'{_SCALE}/{name}': leaf for name, leaf in state.loss_scale.items()}
        found |= {f'{_WINDOW}/{name}': leaf for name, leaf in vars(state.window).items()}
        return {**found, 'step': state.step, 'bad_step': state.bad_step}


def plan_going_on(files: RunFiles, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The plan.json of the run that has begun in a directory; None where none has. UserError for the run of another config.

    Args:
      files: of the run.
      config: plain and checked.
    """
    if not (files.plan.exists() and files.config.exists() and files.base.exists()):
        return None
    with closing(RunCheckpoints(files.base, keep=1)) as base:
        if not base.steps():
            return None
    _check_same_config(files, config)
    return read_json(files.plan)


def _check_same_config(files: RunFiles, config: Mapping[str, Any]) -> None:
    old = read_json(files.config)
    lines = configs.differences(old, config, HARMLESS)
    before, now = list(old.get('extend', [])), list(config['extend'])
    if now[: len(before)] != before:
        lines.append(f'config.extend: {before} in the run, {now} now')
    if lines:
        shown = '\n  '.join(lines[:10])
        raise UserError(
            f'{files.root} is the run directory of another config:\n  {shown}\nGive another --workdir, or the config that the run began with.'
        )


def changing(experiment: Experiment) -> tuple[str, ...]:
    """The leaves that some phase trains, or whose statistics it updates, in path order; all others must stay bit for bit."""
    plan, net = experiment.plan, experiment.net
    stats = {path for phase in plan.phases for path in updated_stats(net, phase)}
    return tuple(path for path in net.shapes if path in plan.trained or path in stats)


def _effects(plan: Mapping[str, Any], phases: int) -> dict[str, Any]:
    """What a plan says of the first phases: all in which a resume must agree with plan.json. Placement and wording may differ."""
    leaves = [
        {key: value[:phases] if key in ('groups', 'lr', 'decay') else value for key, value in leaf.items() if key != 'sharding'}
        for leaf in plan.get('leaves', ())
    ]
    return {'stages': plan.get('stages'), 'phases': plan.get('phases', [])[:phases], 'leaves': leaves, 'ignored': plan.get('ignored')}
