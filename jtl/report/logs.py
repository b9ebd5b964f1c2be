"""What a run writes while it runs: metrics.jsonl, TensorBoard events, and a line or a bar for the person who waits."""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Self

from etils import epath

from jtl.errors import UserError
from jtl.report.format import duration, significant

Row = dict[str, Any]


class MetricsFile:
    """Appends rows to metrics.jsonl, each flushed, so that a kill loses at most the row being written.

    A half-written last line, left by a kill, is removed on opening. Call `truncate` first when a run resumes.
    """

    def __init__(self, path: epath.PathLike) -> None:
        self._path = epath.Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = self._path.read_text() if self._path.exists() else ''
        if text and not text.endswith('\n'):
            truncate(self._path, None)
        # Object stores cannot append: there the whole (small) text is written again with each row.
        self._remote = '://' in os.fspath(self._path)
        self._text = self._path.read_text() if self._remote and text else ''
        self._file: IO[str] | None = None if self._remote else self._path.open('a')

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row, which must have a 'step'; NaN and infinities are written as null, because JSON has no word for them."""
        if 'step' not in row:
            raise ValueError(f"A row of metrics needs a 'step': {sorted(row)}.")
        line = json.dumps({key: _plain(value) for key, value in row.items()}, allow_nan=False) + '\n'
        if self._file is None:
            self._text += line
            self._path.write_text(self._text)
        else:
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Close the file; further writes are an error."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_rows(path: epath.PathLike) -> list[Row]:
    """The rows of a metrics.jsonl in file order, without a half-written last line; none where there is no file.

    Raises:
      UserError: a line before the last is not a JSON object.
    """
    return [row for _, row in _whole_lines(epath.Path(path))]


def truncate(path: epath.PathLike, step: int | None) -> None:
    """Keep the rows whose 'step' is at most `step` (None: all whole rows), byte for byte: what a resume from `step` must find.

    The file is replaced in one rename, so that a kill leaves the old file or the new one. Nothing happens where there is no file.

    Raises:
      UserError: a line before the last is not a JSON object.
    """
    path = epath.Path(path)
    if not path.exists():
        return
    kept = [line + '\n' for line, row in _whole_lines(path) if step is None or row['step'] <= step]
    temporary = path.parent / f'{path.name}.tmp'
    temporary.write_text(''.join(kept))
    temporary.replace(path)


def _whole_lines(path: epath.Path) -> list[tuple[str, Row]]:
    if not path.exists():
        return []
    lines = path.read_text().split('\n')
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and 'step' in row:
            rows.append((line, row))
        elif number < len(lines):  # it ends in a newline, so no kill cut it
            raise UserError(f'{path}, line {number}: expected a JSON object with a "step", found {line[:60]!r}. Mend or delete the line.')
    return rows


def _plain(value: Any) -> Any:
    """A JSON value from a number of Python, numpy or JAX."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if hasattr(value, 'item'):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Events:
    """TensorBoard scalars of the same rows, through tensorboardX.

    Args:
      folder: where event files go.
      step: the step resumed from: events of an earlier process after it are hidden. None: a fresh run.
    """

    def __init__(self, folder: epath.PathLike, *, step: int | None = None) -> None:
        with _without_torch():
            from tensorboardX import SummaryWriter

        # TensorBoard purges from `purge_step` on, that step included.
        self._writer = SummaryWriter(os.fspath(folder), purge_step=None if step is None else step + 1)

    def write(self, row: Mapping[str, Any]) -> None:
        """One scalar for each number in the row, under its own name, at the row's 'step'."""
        for key, value in row.items():
            value = _plain(value)
            if key != 'step' and isinstance(value, int | float):
                self._writer.add_scalar(key, value, row['step'])

    def close(self) -> None:
        """Write what is buffered and close."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Keep torch out: tensorboardX imports it where it is installed, which takes seconds and serves nothing here."""
    if 'torch' in sys.modules:
        yield
        return
    sys.modules['torch'] = None  # type: ignore[assignment]  # Python's way to say that an import fails
    try:
        yield
    finally:
        del sys.modules['torch']


class Progress:
    """Loss, rate, time left and phase: a bar on a terminal, otherwise a plain line at each `log`.

    Args:
      total: steps of the whole run.
      first: the step it starts from (a resume).
      stream: where to; standard error unless given.
      clock: seconds, for tests.
    """

    def __init__(self, total: int, *, first: int = 0, stream: IO[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._first, self._clock, self._started = total, first, clock, clock()
        self._stream = stream if stream is not None else sys.stderr
        self._bar = _bar(self._stream) if self._stream.isatty() else None
        self._task = self._bar.add_task('', total=total, completed=first, loss='', rate='', left='') if self._bar else None

    def step(self, step: int) -> None:
        """Move the bar to `step` (steps done so far); a plain log says nothing. Cheap enough for every step."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, *, phase: str, loss: float, rate: float) -> None:
        """Show the figures of a log interval: mean loss and examples per second at `step`, steps done so far."""
        spent, done = self._clock() - self._started, step - self._first
        left = duration(spent / done * max(self._total - step, 0)) if done > 0 else ''
        per_second = f'{significant(float(f"{rate:.3g}"))} examples/s'
        if self._bar is not None:
            left = f'{left} left' if left else ''
            self._bar.update(self._task, completed=step, description=phase, loss=f'loss {loss:.4f}', rate=per_second, left=left)
            return
        parts = [f'step {step}/{self._total}', phase, f'loss {loss:.4f}', per_second] + ([f'{left} left'] if left else [])
        self.say(' · '.join(parts))

    def say(self, text: str) -> None:
        """A line of its own (an evaluation, a change of phase), above the bar where there is one."""
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar(stream: IO[str]) -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bar

    # markup=False: a phase or a metric may be called '[x]'.
    texts = [TextColumn(f'{{task.fields[{key}]}}', markup=False) for key in ('loss', 'rate', 'left')]
    description = TextColumn('{task.description}', markup=False)
    return Bar(description, BarColumn(bar_width=24), MofNCompleteColumn(), *texts, console=Console(file=stream), refresh_per_second=4)
