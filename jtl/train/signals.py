"""Being asked to stop: the step is finished and a checkpoint written before the process ends."""

import signal
import threading
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from jtl.parallel.hosts import AGAIN


class StopSignals:
    """Notes SIGTERM and SIGINT while a training runs, instead of dying of them; a context manager.

    A second signal acts at once, as without this. Signals are left alone off the main thread (a notebook's executor), where Python
    cannot take them. In a run of several processes JAX takes SIGTERM, whichever of them it comes to, and lets all agree on a step.

    Attributes:
      received: the name of the signal that came, '' until then.
    """

    def __init__(self) -> None:
        self.received = ''
        self._before: dict[int, Any] = {}

    def due(self, step: int) -> str:
        """The name of the signal after which to stop at this step, '' to go on; asked once a step, on every host."""
        if jax.process_count() > 1:
            return 'SIGTERM' if reached_preemption_sync_point(step) else ''
        return self.received

    def error(self, name: str) -> BaseException:
        """What to raise when the checkpoint is written: KeyboardInterrupt after SIGINT, else SystemExit with status 75."""
        return KeyboardInterrupt() if name == 'SIGINT' else SystemExit(AGAIN)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                if signal.getsignal(number) is not None:  # None: taken by something that is not Python
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.__exit__()
