"""Several processes that train one model: how they find each other, agree, and notice that one is gone.

A host here is a process of `jax.distributed`. All run the same program; the first writes what is written once. What they tell each other
beside the collectives of JAX goes through the coordination service of JAX, a table of strings that the first host keeps.
"""

import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import jax
import numpy as np
from etils import epath

from jtl.errors import UserError

AGAIN = 75
"""Exit status of a run that ended for no fault of its own, and goes on when it is started again: EX_TEMPFAIL, on which schedulers requeue."""

_RESTART = 'Start all again with the same command: the run goes on.'
_FORM = re.compile(r'(?P<address>[^,\s]+:\d+),(?P<count>\d+),(?P<index>\d+)')


@dataclass(frozen=True)
class Hosts:
    """This host among the others.

    Attributes:
      count, index: how many there are, and which one this is, from 0.
      timeout: seconds after which a host that does not answer is taken for gone.
    """

    count: int = 1
    index: int = 0
    timeout: float = 100.0
    _calls: Any = field(default_factory=itertools.count, compare=False, repr=False)

    @property
    def first(self) -> bool:
        """Whether this host writes what is written once."""
        return self.index == 0

    def exchange(self, what: str, text: str) -> list[str]:
        """Every host's text, in the order of hosts. Each calls this the same number of times, in the same order.

        One that is slow but alive, as its `Watch` tells, is waited for.

        Args:
          what: is exchanged, for messages.
          text: of this host.

        Raises:
          UserError: names the hosts that did not answer in time.
        """
        if self.count == 1:
            return [text]
        place = f'jtl/exchange/{next(self._calls)}'
        _client().key_value_set(f'{place}/{self.index}', text)
        found: dict[int, str] = {}
        for index in range(self.count):
            answer = self._answer(f'{place}/{index}', index)
            if answer is not None:
                found[index] = answer
        missing = [index for index in range(self.count) if index not in found]
        if missing:
            raise UserError(
                f'hosts: {_named(missing)} of {self.count} did not answer within {self.timeout:g} s ({what}). See what they wrote, and start all '
                'again; --host-timeout waits longer.'
            )
        return [found[index] for index in range(self.count)]

    def _answer(self, key: str, index: int) -> str | None:
        """What a host told under a key; None where it told nothing in time, and shows no sign of life."""
        before = None
        while True:
            try:
                return str(_client().blocking_key_value_get(key, max(1, round(1000 * self.timeout))))
            except jax.errors.JaxRuntimeError:
                beat = dict(_client().key_value_dir_get('jtl/beat')).get(f'jtl/beat/{index}', '')
                if not beat.isdigit() or beat == before:
                    return None
                before = beat

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Return where all hosts know the same.

        Args:
          facts: plain data, by name; names are said where values differ.

        Raises:
          UserError: on every host, names the fact and the hosts that differ from the first.
        """
        told = [json.loads(text) for text in self.exchange('what they are to do', json.dumps(dict(facts), sort_keys=True, default=str))]
        for name in told[0]:
            differing = [index for index, theirs in enumerate(told) if theirs.get(name) != told[0][name]]
            if differing:
                a, b = (str(told[index].get(name))[:200] for index in (0, differing[0]))
                raise UserError(f'hosts: {name} is {a} on host 0, but {b} on {_named(differing)}. All hosts must be told the same.')

    def barrier(self, what: str) -> None:
        """Return when every host is here."""
        self.exchange(what, '')


ONE = Hosts()
"""A run of one process."""


def join(said: str, timeout: float = 100.0, *, place: str = '') -> Hosts:
    """Become one of several hosts; before anything touches a device.

    Args:
      said: '' for one process; 'auto' for what Cloud TPU, SLURM, GKE or Open MPI say; or ADDRESS:PORT,COUNT,INDEX, the place of the first
        host, how many there are, and which one this is.
      timeout: see `Hosts`. Where hosts do not come in time, the process ends with a message that names them (JAX would end it without one).
      place: a directory that all hosts see; each leaves a note there while it waits, by which the missing ones are known.

    Raises:
      UserError: none of these, or a cluster that says nothing.
    """
    if not said:
        return ONE
    explicit = _FORM.fullmatch(said)
    if said != 'auto' and not explicit:
        raise UserError(f"--hosts: 'auto', or ADDRESS:PORT,COUNT,INDEX, such as 10.0.0.1:1234,4,0; found {said!r}.")
    known: dict[str, Any] = {}
    if explicit:
        count, index = int(explicit['count']), int(explicit['index'])
        if not index < count:
            raise UserError(f'--hosts: of {count} hosts the last is {count - 1}, found {index}.')
        known = {'coordinator_address': explicit['address'], 'num_processes': count, 'process_id': index}
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    later = 3 * max(1, round(timeout))  # JAX ends a process whose peers are gone without a word of ours, so it is to wait longer than we do
    limits: dict[str, Any] = {'initialization_timeout': later, 'heartbeat_timeout_seconds': later, 'shutdown_timeout_seconds': later}
    try:
        with _waiting(known, timeout, place):
            jax.distributed.initialize(**known, **limits)
    except ValueError as error:
        raise UserError(
            f'--hosts=auto: neither Cloud TPU, SLURM, GKE nor Open MPI say who the hosts are ({error}). Give ADDRESS:PORT,COUNT,INDEX.'
        ) from None
    except RuntimeError as error:
        raise UserError(f'--hosts={said}: the hosts did not find each other: {_brief(error)}') from None
    return Hosts(jax.process_count(), jax.process_index(), timeout)


@contextlib.contextmanager
def _waiting(known: Mapping[str, Any], timeout: float, place: str) -> Iterator[None]:
    """Ends the process with a message where what is waited for does not come in time."""
    index, count = known.get('process_id'), known.get('num_processes')
    notes = epath.Path(place).expanduser() / '.hosts' if place and count else None
    began = time.time()

    def late() -> None:
        missing = 'some of them'
        if notes is not None and count:
            here = {int(path.name) for path in notes.iterdir() if float(path.read_text()) > began - timeout} if notes.exists() else set()
            missing = _named([k for k in range(count) if k not in here]) or missing
        _end_now(2, f'hosts: {missing} did not come within {timeout:g} s. See what they wrote; --host-timeout waits longer.')

    if notes is not None:
        notes.mkdir(parents=True, exist_ok=True)
        (notes / str(index)).write_text(str(began))
    timer = threading.Timer(timeout, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if notes is not None:
            (notes / str(index)).unlink(missing_ok=True)
            with contextlib.suppress(OSError, ValueError):  # of etils, where others still wait
                notes.rmdir()


class Watch:
    """Ends this process, with a message, where another one is gone or has failed; a context manager.

    Without it a host waits in a collective for one that will not come. Every host counts up a number that all read, in a thread.

    Args:
      hosts: of the run.
      name: of the program, for a message that it ends with.
      end: what to do with an exit status and a message; ends the process unless a test says otherwise.
    """

    def __init__(self, hosts: Hosts, name: str = 'jtl', end: Callable[[int, str], Any] | None = None):
        self._hosts, self._name, self._end = hosts, name, end or _end_now
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True, name='jtl-hosts')

    def __enter__(self) -> Self:
        if self._hosts.count > 1:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if self._hosts.count == 1:
            return
        if error is not None and _of_runtime(error):  # most likely a collective whose other end is gone: the thread will say which
            print(f'hosts: {_brief(error)}', file=sys.stderr, flush=True)
            self._thread.join(1.5 * self._hosts.timeout)
        self._over.set()
        if isinstance(error, UserError):
            self._tell(f'failed: {error}')
            self._linger()
            self._end(2, f'{self._name}: {error}')  # JAX, at its own end, waits for hosts that have ended, and aborts
        elif isinstance(error, SystemExit):
            self._tell('left')
        else:
            self._tell('failed: see what it wrote' if error else 'left')

    def _look(self) -> None:
        hosts, pause = self._hosts, min(2.0, self._hosts.timeout / 10)
        seen: dict[str, tuple[str, float]] = {str(index): ('', time.monotonic()) for index in range(hosts.count)}
        number = 0
        while not self._over.wait(pause):
            number += 1
            try:
                self._tell(str(number))
                told = {key.rpartition('/')[2]: value for key, value in _client().key_value_dir_get('jtl/beat')}
            except jax.errors.JaxRuntimeError as error:
                lost: tuple[int, str] | None = (AGAIN, f'host 0, which keeps the table of all, is gone ({_brief(error)}). {_RESTART}')
            else:
                seen |= {index: (value, time.monotonic()) for index, value in told.items() if value != seen[index][0]}
                lost = lost_hosts(seen, time.monotonic(), hosts.timeout)
            if lost and not self._over.wait(2 * pause):  # where all failed alike, each says so itself
                self._end(lost[0], f'hosts: {lost[1]}')
                return

    def _linger(self) -> None:
        """Return when the others have had time to read what this host told, or have ended too; the first last, for it keeps the table."""
        limit = time.monotonic() + 4 * min(2.0, self._hosts.timeout / 10)
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while time.monotonic() < limit:
                told = dict(_client().key_value_dir_get('jtl/beat')).values()
                if sum(value.startswith(('failed', 'left')) for value in told) == self._hosts.count:
                    break
                time.sleep(0.2)
        time.sleep(2.0 if self._hosts.first else 0.0)

    def _tell(self, text: str) -> None:
        _client().key_value_set(f'jtl/beat/{self._hosts.index}', text, allow_overwrite=True)


def lost_hosts(seen: Mapping[str, tuple[str, float]], now: float, timeout: float) -> tuple[int, str] | None:
    """Why a run cannot go on: an exit status and a sentence; None where all hosts are well.

    Args:
      seen: by host, what it last told and when that was new: a number, 'failed: ...', or 'left'.
      now: seconds, on the same clock.
      timeout: see `Hosts`.
    """
    for index, (value, _) in seen.items():
        if value.startswith('failed: '):
            return 2, f'host {index} failed: {value.removeprefix("failed: ")}'
    gone = [int(index) for index, (value, since) in seen.items() if now - since > timeout and value != 'left']
    if gone:
        return AGAIN, f'{_named(gone)} of {len(seen)} did not answer for {timeout:g} s. {_RESTART}'
    return None


def whole(leaf: Any) -> np.ndarray:
    """An array's value on every host; all call this, in the same order."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable else leaf.addressable_data(0))
    from jax.experimental.multihost_utils import process_allgather

    return np.asarray(process_allgather(leaf, tiled=True))


def _of_runtime(error: BaseException) -> bool:
    """Whether an error comes from XLA's runtime; on CPUs it may be a ValueError that begins with the runtime's word for it."""
    status = r'(UNKNOWN|UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): '
    return isinstance(error, jax.errors.JaxRuntimeError) or (isinstance(error, ValueError) and bool(re.match(status, str(error))))


def _client() -> Any:
    from jax._src import distributed  # JAX offers its table of strings under no public name; Orbax takes it from here too

    return distributed.global_state.client


def _end_now(status: int, text: str) -> NoReturn:
    print(text, file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(status)  # the main thread waits in a collective that will not end


def _named(indices: list[int]) -> str:
    return f'host{"s" if len(indices) > 1 else ""} {", ".join(map(str, indices))}' if indices else ''


def _brief(error: BaseException) -> str:
    return ' '.join(str(error).split())[:300]
