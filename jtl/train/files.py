"""The run directory, and what is written there while training."""

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from etils import epath

from jtl.errors import UserError
from jtl.report.logs import Events, MetricsFile, Progress, truncate


@dataclass(frozen=True)
class RunFiles:
    """The places in a run directory."""

    root: epath.Path

    @property
    def config(self) -> epath.Path:
        """The run's config, JSON."""
        return self.root / 'config.json'

    @property
    def plan(self) -> epath.Path:
        """The run's plan, JSON."""
        return self.root / 'plan.json'

    @property
    def metrics(self) -> epath.Path:
        """A JSON row for each log line and evaluation."""
        return self.root / 'metrics.jsonl'

    @property
    def result(self) -> epath.Path:
        """Written last: a run that has it is finished."""
        return self.root / 'result.json'

    @property
    def report(self) -> epath.Path:
        """The HTML report."""
        return self.root / 'report.html'

    @property
    def bundle(self) -> epath.Path:
        """What is needed to predict elsewhere."""
        return self.root / 'bundle'

    @property
    def events(self) -> epath.Path:
        """TensorBoard's event files."""
        return self.root / 'tensorboard'

    @property
    def base(self) -> epath.Path:
        """The checkpoint of every leaf as it was before the first step."""
        return self.root / 'checkpoints' / 'base'

    @property
    def last(self) -> epath.Path:
        """The newest checkpoints to resume from."""
        return self.root / 'checkpoints' / 'last'

    @property
    def best(self) -> epath.Path:
        """The leaves with the best validation metric."""
        return self.root / 'checkpoints' / 'best'


def run_files(workdir: str) -> RunFiles:
    """The run directory at a path (`gs://` too). UserError where the path is a file, or of a kind that needs another package."""
    root = epath.Path(workdir).expanduser()
    if '://' not in workdir:
        root = epath.Path(os.path.abspath(root))  # noqa: PTH100 - Orbax wants absolute paths; resolve() would follow links
    try:
        is_file = root.exists() and not root.is_dir()
    except ImportError as error:
        raise UserError(f'--workdir: {workdir} cannot be reached: {error}.') from None
    if is_file:
        raise UserError(f'--workdir: {workdir} is a file; give a directory.')
    return RunFiles(root)


@contextlib.contextmanager
def alone(files: RunFiles) -> Iterator[None]:
    """Hold the run directory, making it where needed, so that no second process trains in it.

    The lock is the kernel's, on the directory itself: it leaves no file, and ends with the process, however that ends. File systems
    that cannot lock (object stores, some network mounts) are used without one.

    Raises:
      UserError: another process holds it, or it cannot be made.
    """
    try:
        files.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'--workdir: {files.root} cannot be made ({error.strerror or error}).') from None
    with contextlib.ExitStack() as held:
        if '://' not in os.fspath(files.root):
            _lock(files.root, held)
        yield


def _lock(directory: epath.Path, held: contextlib.ExitStack) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        return
    handle = os.open(directory, os.O_RDONLY)
    held.callback(os.close, handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f'{directory}: another process is training in this run directory. Wait until it ends, stop it, or give another --workdir.'
        ) from None
    except OSError:
        return


def write_text(path: epath.Path, text: str) -> None:
    """Write a file whole or not at all: under another name first, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.parent / f'{path.name}.part'
    draft.write_text(text)
    draft.replace(path)


def write_json(path: epath.Path, data: Any) -> None:
    """JSON, indented, written whole or not at all."""
    write_text(path, json.dumps(data, indent=1, allow_nan=False) + '\n')


def read_json(path: epath.Path) -> dict[str, Any]:
    """A JSON object. UserError, naming the file, where it is none."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read as JSON ({error}).') from None
    if not isinstance(data, dict):
        raise UserError(f'{path}: expected a JSON object, found {type(data).__name__}.')
    return data


class RunLog:
    """Metrics file, TensorBoard events and progress of a running training; a context manager.

    Args:
      files: of the run.
      first: the step resumed from; rows after it are removed, for they will come again.
      total: steps of the whole run.
      writes: whether this is the host that writes and speaks.
    """

    def __init__(self, files: RunFiles, first: int, total: int, writes: bool = True):
        self._writes = writes
        if not writes:
            return
        if files.metrics.exists():
            truncate(files.metrics, first)
        self._metrics = MetricsFile(files.metrics)
        self._events = Events(files.events, step=first if first or files.events.exists() else None)
        self._progress = Progress(total, first=first)
        self._clock = time.monotonic()
        self._steps = first

    def restart_clock(self, step: int) -> None:
        """Leave the time since the last row (an evaluation, a compilation) out of the rate."""
        self._clock, self._steps = time.monotonic(), step

    def train_row(self, row: Mapping[str, Any], batch_size: int) -> None:
        """A row of training figures, with the rate since the last one."""
        if not self._writes:
            return
        now, step = time.monotonic(), row['step']
        rate = (step - self._steps) * batch_size / max(now - self._clock, 1e-9)
        self._clock, self._steps = now, step
        self.row({**row, 'examples_per_second': rate})
        self._progress.log(step, phase=row['phase_name'], loss=row['train/loss'], rate=rate)

    def row(self, row: Mapping[str, Any]) -> None:
        """A row in metrics.jsonl and TensorBoard."""
        if not self._writes:
            return
        self._metrics.write(row)
        self._events.write({key: value for key, value in row.items() if key != 'phase'})

    def step(self, step: int) -> None:
        """Move the progress bar."""
        if self._writes:
            self._progress.step(step)

    def say(self, *lines: str) -> None:
        """Lines for the person who waits."""
        for line in lines if self._writes else ():
            self._progress.say(line)

    def __enter__(self) -> Self:
        if self._writes:
            self._progress.__enter__()
        return self

    def __exit__(self, *exc: Any) -> None:
        if not self._writes:
            return
        self._progress.__exit__(*exc)
        self._events.close()
        self._metrics.close()


def summary(metrics: Mapping[str, float], names: Iterable[str]) -> str:
    """The named metrics in a line."""
    return ', '.join(f'{name} {metrics[name]:.4f}' for name in names if name in metrics)
