"""A run's checkpoints: what comes back is what went in, or nothing does."""

import contextlib
import logging
import random
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from jtl.checkpoint import runs
from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.runs import RunCheckpoints, checksums, digest, templates_of

REMEDY = 'Delete that directory.'


def leaves(seed=0):
    rng = np.random.default_rng(seed)
    return {
        'step': jnp.asarray(seed, jnp.int32),
        'a/kernel': jnp.asarray(rng.normal(size=(3, 3, 4, 8)), jnp.float32),
        'a/half': jnp.asarray(rng.normal(size=(5,)), jnp.bfloat16),
        'a/b.c/flag': jnp.asarray([True, False]),
    }


def place():
    return SingleDeviceSharding(jax.devices()[0])


@contextlib.contextmanager
def opened(directory, **options):
    checkpoints = RunCheckpoints(directory, remedy=REMEDY, **options)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def same(ours, theirs):
    """Bit for bit, with dtypes and shapes."""
    return ours.keys() == theirs.keys() and all(
        ours[k].dtype == theirs[k].dtype
        and ours[k].shape == theirs[k].shape
        and np.asarray(ours[k]).tobytes() == np.asarray(theirs[k]).tobytes()
        for k in ours
    )


def test_what_is_saved_comes_back(tmp_path):
    with opened(tmp_path / 'ck') as checkpoints:
        for step in (3, 5, 8):
            checkpoints.save(step, leaves(step), {'position': {'step': step, 'best': None}})
        checkpoints.wait()
        assert checkpoints.steps() == [5, 8]
    with opened(tmp_path / 'ck') as checkpoints:
        assert checkpoints.steps() == [5, 8]
        found, meta = checkpoints.restore(5, templates_of(leaves(), place()))
        assert same(found, leaves(5)) and meta == checkpoints.meta(5) == {'position': {'step': 5, 'best': None}}
        checkpoints.save(8, leaves(1), {})  # again: the newer one counts
        checkpoints.wait()
        assert same(checkpoints.restore(8, templates_of(leaves(), place()))[0], leaves(1))
        checkpoints.prune(lambda step: step <= 5)
        assert checkpoints.steps() == [5]
        with pytest.raises(CheckpointError, match=r'8: this checkpoint is damaged.*cannot be read.*Delete that directory'):
            checkpoints.restore(8, templates_of(leaves(), place()))


def test_all_are_kept_until_pruned(tmp_path):
    with opened(tmp_path, keep=None) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, leaves(), {})
        checkpoints.wait()
        assert checkpoints.steps() == [1, 2, 3, 4, 5]
        checkpoints.prune(lambda step: step >= 4)
        assert checkpoints.steps() == [4, 5]


def test_leaves_may_be_donated_as_soon_as_save_returns(tmp_path):
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    state = step({f'x{k}': jnp.full((1 << 18,), float(k)) for k in range(4)})
    with opened(tmp_path) as checkpoints:
        for n in range(1, 4):
            before = {path: np.array(leaf) for path, leaf in state.items()}
            checkpoints.save(n, state, {})
            for _ in range(5):
                state = step(state)
            checkpoints.wait()
            assert same(checkpoints.restore(n, templates_of(state, place()))[0], before)


def test_other_leaves_than_the_plans_are_refused(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, leaves(), {})
        checkpoints.wait()
        wanted = templates_of(leaves(), place())
        with pytest.raises(CheckpointError, match=r'Missing: new \(1\); unexpected: step \(1\)'):
            checkpoints.restore(1, {**{k: v for k, v in wanted.items() if k != 'step'}, 'new': wanted['step']})
        with pytest.raises(CheckpointError, match=r'a/half is bfloat16\[5\], the plan says float32\[5\]'):
            checkpoints.restore(1, {**wanted, 'a/half': jax.ShapeDtypeStruct((5,), jnp.float32, sharding=place())})


def test_what_a_kill_leaves_is_no_checkpoint(tmp_path):
    with opened(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, leaves(step), {})
    shutil.copytree(tmp_path / '2', tmp_path / '3.orbax-checkpoint-tmp')  # killed before the renaming
    (tmp_path / '4').mkdir()
    shutil.copytree(tmp_path / '2' / 'manifest', tmp_path / '5' / 'manifest')  # killed while deleting
    with opened(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1, 2] and len(list(tmp_path.iterdir())) == 5
        checkpoints.sweep()
        checkpoints.prune(lambda step: step <= 2)
        checkpoints.save(4, leaves(4), {})
        checkpoints.wait()
        assert sorted(p.name for p in tmp_path.iterdir()) == ['2', '4']
        assert same(checkpoints.restore(4, templates_of(leaves(), place()))[0], leaves(4))


def test_a_changed_file_is_refused_or_never_read(tmp_path, capfd):
    with opened(tmp_path / 'good') as checkpoints:
        checkpoints.save(7, leaves(), {'position': {'total': 7}})
    files = sorted(p.relative_to(tmp_path) for p in (tmp_path / 'good').rglob('*') if p.is_file())
    chance = random.Random(0)
    refused = 0

    def attempt(file, content):
        nonlocal refused
        shutil.rmtree(tmp_path / 'bad', ignore_errors=True)
        shutil.copytree(tmp_path / 'good', tmp_path / 'bad')
        target = tmp_path / 'bad' / file.relative_to('good')
        target.unlink() if content is None else target.write_bytes(content)
        with opened(tmp_path / 'bad') as checkpoints:
            assert checkpoints.steps() == [7]
            try:
                found, meta = checkpoints.restore(7, templates_of(leaves(), place()))
            except CheckpointError as error:
                assert str(error).startswith(f'{tmp_path / "bad" / "7"}: this checkpoint is damaged') and str(error).endswith(REMEDY)
                refused += 1
            else:
                assert same(found, leaves()) and meta == {'position': {'total': 7}}

    for file in files:
        good = (tmp_path / file).read_bytes()
        for _ in range(60 // len(files) + 1):
            place_, bit = chance.randrange(len(good)), 1 << chance.randrange(8)
            attempt(file, good[:place_] + bytes([good[place_] ^ bit]) + good[place_ + 1 :])
        attempt(file, good[: len(good) // 2])
        attempt(file, None)
    assert refused > 15
    noise = capfd.readouterr().err
    assert 'Traceback' not in noise, noise


def test_a_byte_of_the_data_is_noticed_by_our_checksum_alone(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {'x': jnp.asarray(np.random.default_rng(0).normal(size=(64, 64)), jnp.float32)}, {})
    largest = max((p for p in (tmp_path / '1' / 'leaves').rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with opened(tmp_path) as checkpoints, pytest.raises(CheckpointError, match=r'1 of 1 leaves differ from their checksum, first x\.'):
        checkpoints.restore(1, {'x': jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=place())})


def test_what_cannot_be_written_is_said_once(tmp_path):
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, leaves(), {})
        checkpoints.wait()

        def full(*args, **kwargs):
            raise ValueError('RESOURCE_EXHAUSTED: Error writing "x"')

        checkpoints._manager.wait_until_finished, before = full, checkpoints._manager.wait_until_finished
        with pytest.raises(CheckpointError, match=r'cannot be written \(ValueError: RESOURCE_EXHAUSTED.*make room'):
            checkpoints.wait()
        checkpoints._manager.wait_until_finished = before


@given(
    st.sampled_from(['float32', 'bfloat16', 'int8', 'uint16', 'int32', 'bool']),
    st.lists(st.integers(0, 70), max_size=3),
    st.integers(0, 2**32 - 1),
)
@settings(derandomize=True, deadline=None, max_examples=25)
def test_the_checksum_on_the_device_is_that_on_the_host(dtype, shape, seed):
    raw = np.random.default_rng(seed).integers(0, 256, (*shape, jnp.dtype(dtype).itemsize), np.uint8)
    host = (raw[..., 0] > 127) if dtype == 'bool' else raw.view(jnp.dtype(dtype)).reshape(shape)
    assert tuple(int(s) for s in runs._device_sums(jnp.asarray(host))) == runs._host_sums(host)


def test_the_checksum_sees_every_bit_the_place_and_the_shape():
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)  # several chunks
    one = checksums({'x': jnp.asarray(x)})['x']
    assert one == checksums({'x': jnp.asarray(x.copy())})['x'] and len(one) == 16
    for index in (0, 65_535, 65_536, 199_999):
        for bit in (0, 13, 31):
            y = x.copy()
            y.view(np.uint32)[index] ^= np.uint32(1) << np.uint32(bit)
            assert checksums({'x': jnp.asarray(y)})['x'] != one
    swapped = x.copy()
    swapped[[3, 70_000]] = swapped[[70_000, 3]]
    others = [swapped, x.reshape(2, -1), x.view(np.int32), np.append(x, np.float32(0))]
    assert len({checksums({'x': jnp.asarray(y)})['x'] for y in others} | {one}) == 5
    zeros = [np.zeros(n, np.float32) for n in (0, 1, 2)]
    assert len({checksums({'x': jnp.asarray(y)})['x'] for y in zeros}) == 3


def test_the_digest_counts_paths_and_not_their_order():
    a, b = jnp.arange(3.0), jnp.arange(4.0)
    assert digest({'a': a, 'b': b}) == digest({'b': b, 'a': a}) != digest({'a': b, 'b': a})


SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jtl.checkpoint.runs import checksums, _device_sums, _host_sums
mesh = jax.make_mesh((4,), ('x',), axis_types=(jax.sharding.AxisType.Auto,))
x = np.random.default_rng(0).normal(size=(8, 12)).astype(np.float32)
for spec in (P(), P('x'), P(None, 'x')):
    y = jax.device_put(x, NamedSharding(mesh, spec))
    print(checksums({'x': y})['x'], tuple(map(int, _device_sums(y))) == _host_sums(x))
"""


def test_the_checksum_is_the_same_on_any_placement():
    command = [sys.executable, '-c', SHARDED]
    environment = {
        'XLA_FLAGS': '--xla_force_host_platform_device_count=4',
        'JAX_PLATFORMS': 'cpu',
        'PYTHONPATH': ':'.join(filter(None, sys.path)),
    }
    lines = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, check=True).stdout.splitlines()
    assert len(lines) == 3 and len(set(lines)) == 1 and lines[0].endswith('True')


def test_what_orbax_says_after_an_error_is_left_out(monkeypatch, caplog):
    heard = []
    monkeypatch.setattr(sys, 'unraisablehook', lambda unraisable: heard.append(str(unraisable.exc_value)))
    with runs._one_error():
        pass
    log = logging.getLogger('asyncio')
    assert not log.filters
    sys.unraisablehook(types.SimpleNamespace(exc_value='Event loop is closed'))
    assert heard.pop() == 'Event loop is closed'
    with contextlib.suppress(CheckpointError), runs._one_error():
        raise CheckpointError
    try:
        for text in ('Event loop is closed', 'See full TensorStore details', 'another'):
            error = RuntimeError(text)
            sys.unraisablehook(types.SimpleNamespace(exc_value=error))
            log.error('Future exception was never retrieved', exc_info=error)
    finally:
        log.filters.clear()
    assert heard == ['another'] and [str(r.exc_info[1]) for r in caplog.records] == ['another']


def test_orbax_is_quiet_and_others_are_not(tmp_path, caplog):
    with caplog.at_level(logging.DEBUG), opened(tmp_path) as checkpoints:
        checkpoints.save(1, leaves(), {})
        checkpoints.wait()
        logging.getLogger('absl').warning('a word of the user')
    assert [r.getMessage() for r in caplog.records if r.name == 'absl'] == ['a word of the user']
    assert not logging.getLogger('absl').disabled
