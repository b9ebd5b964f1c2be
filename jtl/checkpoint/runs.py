"""A run's own checkpoints: Orbax writes them, and our checksums say whether what comes back is what went in.

Orbax does not notice a flipped byte in array data, and a key that is missing under partial restore comes back silently. So
every save carries a manifest: the keys with dtype, shape and a checksum each, and a digest over the manifest itself.
"""

import contextlib
import hashlib
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.parallel.hosts import ONE, Hosts

Leaves = Mapping[str, jax.Array]


_CHUNK = 1 << 16  # words summed at a time on the host, so that they stay in the processor's cache
_ODD = (0x9E3779B1, 0x85EBCA77)


def checksums(leaves: Leaves) -> dict[str, str]:
    """A checksum for each leaf, 16 hexadecimal digits, the same on any placement.

    Two sums of the leaf's bits as unsigned words, modulo 2^32, weighted by odd numbers that depend on the position: integer sums
    do not depend on their order, so a leaf spread over hosts is summed where it lies; and a change of a single word always shows,
    because an odd weight is invertible modulo 2^32. What this process holds whole is summed on the host: nothing to compile.
    """
    found = {}
    for path, leaf in leaves.items():
        if leaf.is_fully_addressable or leaf.is_fully_replicated:
            host = np.asarray(leaf if leaf.is_fully_addressable else leaf.addressable_data(0))
            sums = _host_sums(host)
        else:
            sums = jax.device_get(_device_sums(leaf))
        # The shape counts too: an empty or reshaped leaf must not pass for another.
        salt = int(_sha([list(leaf.shape), str(leaf.dtype)])[:8], 16)
        found[path] = f'{(int(sums[0]) + salt) % 2**32:08x}{int(sums[1]) ^ salt:08x}'
    return found


def digest(leaves: Leaves) -> str:
    """One checksum over all leaves, in the order of their paths."""
    return _sha(checksums(leaves))


def _host_sums(x: np.ndarray) -> tuple[int, int]:
    words = np.ascontiguousarray(x).reshape(-1).view(_words(x.dtype))
    totals = [0, 0]
    for first in range(0, words.size, _CHUNK):
        chunk = words[first : first + _CHUNK].astype(np.uint32)
        place = np.arange(first, first + chunk.size, dtype=np.uint64).astype(np.uint32)
        for k, odd in enumerate(_ODD):
            totals[k] += int(np.sum(chunk * _weights(place, np.uint32(odd)), dtype=np.uint32))
    return totals[0] % 2**32, totals[1] % 2**32


@jax.jit
def _device_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    words = jax.lax.bitcast_convert_type(x, _words(x.dtype)).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32)
    a, b = (jnp.sum(words * _weights(place, jnp.uint32(odd)), dtype=jnp.uint32) for odd in _ODD)
    return a, b


def _weights(place: Any, odd: Any) -> Any:
    """Odd numbers, uint32, of positions; numpy's or JAX's."""
    return (place * odd ^ (place >> 15)) * 2 + 1


def _words(dtype: Any) -> Any:
    return {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint32}[np.dtype(dtype).itemsize]


class OtherPlanError(CheckpointError):
    """A checkpoint is whole, but holds other leaves than are wanted."""


class RunCheckpoints:
    """The checkpoints in one directory. IO: the only place that writes or reads them. A kill at any moment leaves whole saves only.

    Args:
      directory: of the checkpoints; made at once. Nothing in it is changed before the first `prune`, `sweep` or `save`.
      keep: how many are kept, the newest; None: all, until `prune`.
      remedy: what a person can do about a damaged one, a sentence.
      hosts: of the run, each of which calls everything here; what one cannot read counts for all.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int | None = 2, remedy: str = '', hosts: Hosts = ONE):
        import orbax.checkpoint as ocp

        logging.getLogger('absl').addFilter(_no_progress_notes)
        self._ocp = ocp
        self._remedy, self._hosts = remedy, hosts
        self.directory = epath.Path(directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, lightweight_initialize=True),
            item_handlers={'leaves': ocp.PyTreeCheckpointHandler(), 'manifest': ocp.JsonCheckpointHandler()},
        )

    def steps(self) -> list[int]:
        """The steps that are saved whole, in order."""
        found = []
        for step in sorted(self._manager.all_steps()):
            path = self.directory / str(step)
            if (path / 'leaves').exists() and (path / 'manifest').exists():  # Orbax also lists a directory that it was deleting
                found.append(step)
        return found

    def broken(self) -> list[int]:
        """Steps newer than any that is whole, of which a part is missing."""
        return [step for step in sorted(self._manager.all_steps()) if step > max(self.steps(), default=-1)]

    def save(self, step: int, leaves: Leaves, meta: Mapping[str, Any]) -> None:
        """Save flat `leaves` and JSON `meta` as `step`, in the background; an older save of that step is replaced.

        The leaves may be donated as soon as this returns: they are on the host by then, and on the CPU, where that is no copy, the
        runtime gives no buffer away that a save still reads.
        """
        self.wait()
        self.prune(lambda other: other != step)
        sums = checksums(leaves)
        manifest: dict[str, Any] = {'meta': dict(meta), 'leaves': {path: [_spec(leaf), sums[path]] for path, leaf in leaves.items()}}
        manifest['digest'] = _sha(manifest)
        args = self._ocp.args.Composite(leaves=self._ocp.args.PyTreeSave(dict(leaves)), manifest=self._ocp.args.JsonSave(manifest))
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON data of a save. CheckpointError where its digest does not fit."""
        return self._manifest(step)['meta']

    def restore(self, step: int, templates: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The leaves, each into the sharding of its template, and the JSON data.

        Raises:
          OtherPlanError: keys, shapes or dtypes other than the templates'.
          CheckpointError: data that cannot be read, or whose checksums do not fit.
        """
        where = self.directory / str(step)
        try:
            (manifest, leaves), problem = self._fitting(step, templates), ''
        except OtherPlanError:
            raise
        except CheckpointError as error:
            problem = str(error)
        for told in self._hosts.exchange(f'whether {where} can be read', problem):
            if told:
                raise CheckpointError(told)
        now = checksums(leaves)  # of all hosts' parts together
        wrong = [path for path, (_, value) in manifest['leaves'].items() if now[path] != value]
        if wrong:
            raise self._damaged(where, f'{len(wrong)} of {len(now)} leaves differ from their checksum, first {wrong[0]}')
        return leaves, manifest['meta']

    def _fitting(self, step: int, templates: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        """The manifest, and the leaves that it and the templates name, as they were read."""
        manifest = self._manifest(step)
        where = self.directory / str(step)
        wanted, found = set(templates), set(manifest['leaves'])
        if wanted != found:
            missing, extra = sorted(wanted - found), sorted(found - wanted)
            raise OtherPlanError(
                f'{where}: not the checkpoint of this plan. Missing: {", ".join(missing[:3]) or "nothing"} ({len(missing)}); '
                f'unexpected: {", ".join(extra[:3]) or "nothing"} ({len(extra)}).'
            )
        for path, template in templates.items():
            if manifest['leaves'][path][0] != _spec(template):
                raise OtherPlanError(f'{where}: {path} is {manifest["leaves"][path][0]}, the plan says {_spec(template)}.')
        item = dict(templates)
        restore = self._ocp.args.PyTreeRestore(item, restore_args=self._ocp.checkpoint_utils.construct_restore_args(item))
        return manifest, self._read(step, 'leaves', restore, 'its data cannot be read')

    def prune(self, wanted: Callable[[int], bool]) -> None:
        """Remove the saves of the steps that are not wanted."""
        for step in [s for s in self._manager.all_steps() if not wanted(s)]:
            self._manager.delete(step)

    def sweep(self) -> None:
        """Remove what a kill left half written. For the one process that trains: what another is writing looks the same."""
        for path in self.directory.iterdir():
            if 'orbax-checkpoint-tmp' in path.name:
                path.rmtree()

    def wait(self) -> None:
        """Return when everything is on disk. CheckpointError where it cannot be written."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release Orbax's threads."""
        self._manager.close()

    def _manifest(self, step: int) -> dict[str, Any]:
        manifest = self._read(step, 'manifest', self._ocp.args.JsonRestore(), 'its manifest cannot be read')
        stated = manifest.pop('digest', None) if isinstance(manifest, dict) else None
        if stated is None or stated != _sha(manifest):
            raise self._damaged(self.directory / str(step), 'its manifest differs from its digest')
        return manifest

    def _read(self, step: int, item: str, how: Any, failure: str) -> Any:
        try:
            with _one_error():
                return self._manager.restore(step, args=self._ocp.args.Composite(**{item: how}))[item]
        except Exception as error:
            raise self._damaged(self.directory / str(step), f'{failure} ({_brief(error)})') from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and 'Error writing' not in str(error):  # TensorStore's word for a full disk
                raise
            raise CheckpointError(
                f'{self.directory}: a checkpoint cannot be written ({_brief(error)}). Those before it are whole: '
                'make room or mend the permissions, and start the same command again.'
            ) from error

    def _damaged(self, where: epath.Path, why: str) -> CheckpointError:
        return CheckpointError(f'{where}: this checkpoint is damaged: {why}. Nothing was loaded. {self._remedy}'.rstrip())


def templates_of(leaves: Mapping[str, Any], sharding: Any = None) -> dict[str, jax.ShapeDtypeStruct]:
    """What `restore` needs to know of leaves that are not there yet, or no longer: shape, dtype, placement (their own, or `sharding` for all)."""
    return {path: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding or leaf.sharding) for path, leaf in leaves.items()}


def _no_progress_notes(record: logging.LogRecord) -> bool:
    """Whether a record is not Orbax's, which notes every file it writes, and logs as a trace what it raises too. Other users of absl keep theirs."""
    return 'orbax' not in record.pathname


@contextlib.contextmanager
def _one_error() -> Iterator[None]:
    """Orbax reads leaves side by side, and those that fail after the first print traces; the first is told in our words.

    They come late, from other threads, so after a failure this stays.
    """
    hook, log = sys.unraisablehook, logging.getLogger('asyncio')
    sys.unraisablehook = lambda unraisable: None if _of_a_read(unraisable.exc_value) else hook(unraisable)
    log.addFilter(_no_read)
    yield
    sys.unraisablehook = hook
    log.removeFilter(_no_read)


def _no_read(record: logging.LogRecord) -> bool:
    return not (record.exc_info and _of_a_read(record.exc_info[1]))


def _of_a_read(error: BaseException | None) -> bool:
    return any(words in str(error) for words in ('Event loop is closed', 'TensorStore', 'tensorstore'))


def _spec(leaf: Any) -> str:
    return f'{leaf.dtype}{list(np.shape(leaf))}'


def _brief(error: BaseException) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:160]}'


def _sha(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
