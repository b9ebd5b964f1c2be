"""A run's own checkpoints: Orbax writes them, and our checksums say whether what comes back is what went in.

Orbax does not notice a flipped byte in array data, and a key that is missing under partial restore comes back silently. So
every save carries a manifest: the keys with a checksum each, and a digest over the manifest itself.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jtl.checkpoint.base import CheckpointError

Leaves = Mapping[str, jax.Array]


@jax.jit
def _sums(leaves: Any) -> Any:
    return jax.tree.map(_weighted_sums, leaves)


def checksums(leaves: Leaves) -> dict[str, str]:
    """A checksum for each leaf, 16 hexadecimal digits, the same on any placement.

    Two sums of the leaf's bits as unsigned words, modulo 2^32, weighted by odd numbers that depend on the position: integer sums
    do not depend on their order, so this runs where the leaf lies, sharded or not; and a change of a single word always shows,
    because an odd weight is invertible modulo 2^32.
    """
    found = jax.device_get(_sums(dict(leaves)))
    return {path: f'{int(a):08x}{int(b):08x}' for path, (a, b) in found.items()}


def digest(leaves: Leaves) -> str:
    """One checksum over all leaves, in the order of their paths."""
    return _sha(checksums(leaves))


def _weighted_sums(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
    words = jax.lax.bitcast_convert_type(x, bits).astype(jnp.uint32).ravel()
    place = jnp.arange(words.size, dtype=jnp.uint32)
    odd = [(place * jnp.uint32(m) ^ (place >> 15)) * jnp.uint32(2) + jnp.uint32(1) for m in (0x9E3779B1, 0x85EBCA77)]
    # The shape counts too: an empty or reshaped leaf must not pass for another.
    salt = jnp.uint32(int(hashlib.sha256(str((x.shape, str(x.dtype))).encode()).hexdigest()[:8], 16))
    return jnp.sum(words * odd[0], dtype=jnp.uint32) + salt, jnp.sum(words * odd[1], dtype=jnp.uint32) ^ salt


class RunCheckpoints:
    """The checkpoints in one directory. IO: the only place that writes or reads them.

    Args:
      directory: of the checkpoints; made when first saved to.
      keep: how many are kept, the newest.
      asynchronous: save in the background; `wait` waits for it.
    """

    def __init__(self, directory: epath.PathLike, *, keep: int = 2, asynchronous: bool = True):
        import orbax.checkpoint as ocp

        logging.getLogger('absl').setLevel(logging.ERROR)  # Orbax's progress notes
        self._ocp = ocp
        self.directory = epath.Path(directory)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=asynchronous, create=True
            ),
            item_handlers={'leaves': ocp.PyTreeCheckpointHandler(), 'manifest': ocp.JsonCheckpointHandler()},
        )

    def steps(self) -> list[int]:
        """The steps that are saved whole, in order."""
        found = []
        for step in sorted(self._manager.all_steps()):
            path = self.directory / str(step)
            if (path / 'leaves').exists() and (path / 'manifest').exists():  # Orbax also lists an empty directory
                found.append(step)
        return found

    def save(self, step: int, leaves: Leaves, meta: Mapping[str, Any]) -> None:
        """Save flat `leaves` and JSON `meta` as `step`; an older save of that step is replaced."""
        if step in self._manager.all_steps():
            self._manager.delete(step)
        if jax.default_backend() == 'cpu':
            # On the CPU "copying to the host" hands out the buffer itself, which the next step is given to overwrite.
            leaves = jax.tree.map(jnp.copy, dict(leaves))
        manifest = {'meta': dict(meta), 'checksums': checksums(leaves)}
        manifest['digest'] = _sha(manifest)
        args = self._ocp.args
        self._manager.save(step, args=args.Composite(leaves=args.PyTreeSave(dict(leaves)), manifest=args.JsonSave(manifest)), force=True)

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON data of a save. CheckpointError where its digest does not fit."""
        return self._manifest(step)['meta']

    def restore(self, step: int, templates: Mapping[str, jax.ShapeDtypeStruct]) -> tuple[dict[str, jax.Array], dict[str, Any]]:
        """The leaves, each into the sharding of its template, and the JSON data.

        Raises:
          CheckpointError: keys, shapes or dtypes other than the templates', data that cannot be read, or whose checksums do not fit.
        """
        manifest = self._manifest(step)
        where = self.directory / str(step)
        wanted, found = set(templates), set(manifest['checksums'])
        if wanted != found:
            missing, extra = sorted(wanted - found), sorted(found - wanted)
            raise CheckpointError(
                f'{where}: not the checkpoint of this plan. Missing: {", ".join(missing[:3]) or "nothing"} ({len(missing)}); '
                f'unexpected: {", ".join(extra[:3]) or "nothing"} ({len(extra)}).'
            )
        try:
            specs = self._manager.item_metadata(step)['leaves'].tree
        except Exception as error:
            raise _damaged(where, f'its index cannot be read ({_brief(error)})') from error
        for path, template in templates.items():
            if path not in specs:
                raise _damaged(where, f'{path} is not in its index')
            if tuple(specs[path].shape) != tuple(template.shape) or specs[path].dtype != template.dtype:
                raise CheckpointError(
                    f'{where}: {path} is {specs[path].dtype}{tuple(specs[path].shape)}, the plan says {template.dtype}{template.shape}.'
                )
        args = self._ocp.args
        item = dict(templates)
        restore = args.PyTreeRestore(item, restore_args=self._ocp.checkpoint_utils.construct_restore_args(item))
        try:
            leaves = self._manager.restore(step, args=args.Composite(leaves=restore))['leaves']
        except Exception as error:
            raise _damaged(where, f'its data cannot be read ({_brief(error)})') from error
        now = checksums(leaves)
        wrong = [path for path, value in manifest['checksums'].items() if now[path] != value]
        if wrong:
            raise _damaged(where, f'{len(wrong)} of {len(now)} leaves differ from their checksum, first {wrong[0]}')
        return leaves, manifest['meta']

    def delete_after(self, step: int) -> None:
        """Remove the saves of later steps, which a resumed run will make again."""
        for later in [s for s in self._manager.all_steps() if s > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Return when everything is on disk. Raises what a background save raised."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait, and release Orbax's threads."""
        self._manager.close()

    def _manifest(self, step: int) -> dict[str, Any]:
        where = self.directory / str(step)
        try:
            manifest = self._manager.restore(step, args=self._ocp.args.Composite(manifest=self._ocp.args.JsonRestore()))['manifest']
            stated = manifest.pop('digest')
            ok = stated == _sha(manifest) and isinstance(manifest['checksums'], dict)
        except Exception as error:
            raise _damaged(where, f'its manifest cannot be read ({_brief(error)})') from error
        if not ok:
            raise _damaged(where, 'its manifest differs from its digest')
        return manifest


def templates_of(leaves: Mapping[str, Any], sharding: Any) -> dict[str, jax.ShapeDtypeStruct]:
    """What `restore` needs to know of leaves that are not there yet, or no longer: shape, dtype, placement."""
    return {path: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype, sharding=sharding) for path, leaf in leaves.items()}


def _damaged(where: epath.Path, why: str) -> CheckpointError:
    return CheckpointError(
        f'{where}: this checkpoint is damaged: {why}. Nothing was loaded. Delete that directory to go on from the save before it, if there is one.'
    )


def _brief(error: BaseException) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:160]}'


def _sha(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
