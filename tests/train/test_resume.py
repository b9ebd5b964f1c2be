"""Going on with a run: the same leaves and rows as without the break, or a refusal that changes nothing."""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path

import jax
import kept
import numpy as np
import pytest
from etils import epath

from jtl.checkpoint.base import CheckpointError
from jtl.data.arrays import from_arrays
from jtl.errors import UserError
from jtl.train.files import RunFiles
from jtl.train.loop import train
from jtl.train.resume import RunStore
from jtl.train.run import extended
from jtl.train.setup import build
from jtl.train.step import compile_predict, make_predict


class Break(Exception):  # noqa: N818
    """Ends a training where a test wants it."""


def data(seed=0, n=48):
    """Three classes, told apart by which third of the picture is bright; noisy."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 3
    images = rng.integers(0, 140, (n, 8, 8, 1))
    for index, target in enumerate(targets):
        images[index, :, 3 * target : 3 * target + 2] += 100
    parts = {'train': slice(0, n // 2), 'validation': slice(n // 2, n)}
    return from_arrays(*({name: value[part] for name, part in parts.items()} for value in (images.astype(np.uint8), targets)))


def config(recipe='full', **fields):
    optimizer = {'name': 'adam', 'lr': 0.02, 'schedule': 'cosine', **fields.pop('optimizer', {})}
    model = {'name': 'convnet', 'image_size': 8, 'channels': (2,), 'dense': (4,), 'batch_norm': True, 'dropout': 0.1}
    plain = {
        'steps': 10,
        'batch_size': 8,
        'log_every': 3,
        'eval_every': 2,
        'checkpoint_every': 4,
        'select': 'best',
        'data': {'name': 'arrays'},
    }
    return {**plain, 'model': model, 'optimizer': optimizer, 'tune': {'recipe': recipe}, **fields}


def files(tmp_path, name='run'):
    return RunFiles(epath.Path(tmp_path / name))


def go(where, plain, *, data=data, stop_after=None):
    """Train; with `stop_after` until that many checkpoints are saved. The leaves at the end, and the position."""
    experiment = build(plain, data=data())
    predict = compile_predict(make_predict(experiment.net, experiment.tasks, experiment.prepare), experiment.placement)
    with contextlib.closing(RunStore(where, experiment)) as store:
        if stop_after is not None:
            save, saves = store.save, []

            def counted(*args):
                save(*args)
                saves.append(args)
                if len(saves) == stop_after:
                    raise Break

            store.save = counted
        leaves, at = train(experiment, where, store, lambda head: predict)
    return jax.device_get(leaves), at


def rows(where):
    return [{k: v for k, v in json.loads(line).items() if k != 'examples_per_second'} for line in where.metrics.read_text().splitlines()]


def same(ours, theirs):
    return ours.keys() == theirs.keys() and all(ours[k].tobytes() == theirs[k].tobytes() for k in ours)


def content(root):
    """A digest of every file below a directory."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(root).rglob('*')) if p.is_file()}


@pytest.fixture(scope='module', autouse=True)
def compiled_once(tmp_path_factory):
    """Most runs here compile the same steps: keep them on disk meanwhile."""
    with kept.compilations(tmp_path_factory.mktemp('cache')):
        yield


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """A run that stopped after its first checkpoint, at step 4 of 10. Tests copy it."""
    where = files(tmp_path_factory.mktemp('begun'))
    with pytest.raises(Break):
        go(where, config(), stop_after=1)
    return where


@pytest.fixture
def copy(begun, tmp_path):
    shutil.copytree(begun.root, tmp_path / 'run')
    return files(tmp_path)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The same run without a break."""
    where = files(tmp_path_factory.mktemp('whole'))
    leaves, at = go(where, config())
    return where, leaves, at


def test_a_run_goes_on_as_if_it_had_not_stopped(copy, whole):
    reference, leaves, at = whole
    ours, position = go(copy, config())
    assert same(ours, leaves) and position == at and rows(copy) == rows(reference)
    assert [row['step'] for row in rows(copy)] == [2, 3, 4, 6, 6, 8, 9, 10, 10]
    again, position = go(copy, config())  # finished: nothing is trained, the same is returned
    assert same(again, leaves) and position == at and rows(copy) == rows(reference)


def test_what_a_kill_left_half_done_is_cleared_away(copy, whole):
    (copy.last / '99').mkdir()
    (copy.last / '5.orbax-checkpoint-tmp' / 'leaves').mkdir(parents=True)
    (copy.best / '6').mkdir()
    ours, at = go(copy, config())
    assert same(ours, whole[1]) and sorted(p.name for p in copy.last.iterdir()) == ['10', '8']
    assert at.best_total == 4 and [p.name for p in copy.best.iterdir()] == ['4']


def test_harmless_fields_may_change(copy, whole):
    ours, _ = go(copy, config(checkpoint_every=2, log_every=5, eval_batch_size=5))
    assert same(ours, whole[1])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'optimizer': {'lr': 0.03}}, r'directory of another config:\n  config.optimizer.lr: 0.02 in the run, 0.03 now\nGive another'),
        ({'steps': 11, 'batch_size': 16}, r'config.batch_size: 8 in the run, 16 now\n  config.steps: 10 in the run, 11 now'),
        ({'extend': (5,), 'seed': 1}, r'config.seed: 0 in the run, 1 now'),
    ],
)
def test_another_config_is_refused_and_nothing_changes(copy, change, message):
    before = content(copy.root)
    with pytest.raises(UserError, match=message):
        go(copy, config(**change))
    assert content(copy.root) == before


def test_other_data_or_another_plan_are_refused_and_nothing_changes(copy):
    before = content(copy.root)
    with pytest.raises(UserError, match='the data set is not the one the run began with'):
        go(copy, config(), data=lambda: data(seed=1))
    assert content(copy.root) == before
    plan = json.loads(copy.plan.read_text())
    plan['leaves'][0]['status'] = 'loaded'
    copy.plan.write_text(json.dumps(plan))
    before = content(copy.root)
    with pytest.raises(UserError, match=r'the plan differs from plan\.json in leaves'):
        go(copy, config())
    with pytest.raises(UserError, match=r'the plan differs from plan\.json in leaves'):
        go(copy, config(extend=(5,)))
    assert content(copy.root) == before


@pytest.mark.parametrize('text', ['{', '[]', '\x00'])
def test_a_damaged_config_json_is_named(copy, text):
    copy.config.write_text(text)
    with pytest.raises(UserError, match=r'config\.json'):
        go(copy, config())


def test_a_run_without_its_beginning_is_refused(copy):
    (copy.base / '0' / 'manifest').rename(copy.root / 'gone')
    before = content(copy.root)
    with pytest.raises(CheckpointError, match='what the run began with is missing or damaged'):
        go(copy, config())
    assert content(copy.root) == before


def _manifest(last, step):
    manifest = last / str(step) / 'manifest' / 'metadata'
    manifest.write_text(manifest.read_text().replace(f'"total": {step}', f'"total": {step + 1}'))


def _part(last, step):
    (last / str(step) / 'manifest').rename(last.parent / 'gone')


@pytest.mark.parametrize(
    ('damage', 'says'),
    [(_manifest, 'this checkpoint is damaged: its manifest differs from its digest'), (_part, 'a part of this checkpoint is missing')],
)
def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(copy, whole, capsys, damage, says):
    with pytest.raises(Break):
        go(copy, config(), stop_after=1)
    assert sorted(int(path.name) for path in copy.last.iterdir()) == [4, 8]
    damage(copy.last, 8)
    ours, at = go(copy, config())
    said = capsys.readouterr().out
    assert f'warning: {copy.last / "8"}: {says}' in said and 'The run goes on from the save of step 4.' in said
    assert same(ours, whole[1]) and at == whole[2] and rows(copy) == rows(whole[0])


def test_without_any_whole_save_a_run_goes_on_from_its_start(copy, whole, capsys):
    with pytest.raises(Break):
        go(copy, config(), stop_after=1)
    for step in (4, 8):
        _manifest(copy.last, step)
    ours, at = go(copy, config())
    said = capsys.readouterr().out
    assert 'The run goes on from the save of step 4.' in said and 'The run goes on from the start.' in said
    assert same(ours, whole[1]) and at == whole[2] and rows(copy) == rows(whole[0])


def test_a_save_of_other_leaves_is_no_damage(copy):
    """It is refused, and stays."""
    with pytest.raises(Break):
        go(copy, config(), stop_after=1)
    before = content(copy.root)
    original = RunStore._flat
    with pytest.MonkeyPatch.context() as patched, pytest.raises(CheckpointError, match=r'not the checkpoint of this plan\. Missing: more'):
        patched.setattr(RunStore, '_flat', lambda self, *args: {**original(self, *args), 'more': jax.ShapeDtypeStruct((), 'int32')})
        go(copy, config())
    assert content(copy.root) == before


def test_a_kill_before_the_first_checkpoint_starts_anew(tmp_path, whole, monkeypatch):
    where = files(tmp_path)
    with monkeypatch.context() as patched, pytest.raises(Break):
        patched.setattr('jtl.train.loop._train_row', lambda *_: (_ for _ in ()).throw(Break))  # at step 3, after the best of step 2
        go(where, config())
    assert (where.best / '2').exists() and not list(where.last.iterdir())
    ours, at = go(where, config())
    assert same(ours, whole[1]) and at == whole[2] and rows(where) == rows(whole[0])


def test_the_best_is_on_disk_before_the_state_that_names_it(tmp_path, monkeypatch):
    from jtl.checkpoint.runs import RunCheckpoints

    saves, events = RunCheckpoints.save, []

    def save(self, step, leaves, meta):
        if self.directory.name == 'last' and meta['position']['best_total'] >= 0:
            events.append((self.directory.parent / 'best' / str(meta['position']['best_total'])).exists())
        saves(self, step, leaves, meta)

    monkeypatch.setattr(RunCheckpoints, 'save', save)
    go(files(tmp_path), config(checkpoint_every=2))
    assert events == [True] * 5


def test_bests_are_kept_until_a_checkpoint_no_longer_needs_them(tmp_path):
    where = files(tmp_path)
    _, at = go(where, config(checkpoint_every=2))
    assert sorted(int(p.name) for p in where.last.iterdir()) == [8, 10]
    kept = [int(p.name) for p in where.best.iterdir()]
    assert at.best_total in kept and len(kept) <= 2


@pytest.mark.slow
def test_patience_ends_a_phase_and_the_run_goes_on_after_it(tmp_path):
    plain = config('lp_ft', steps=40, patience=2, checkpoint_every=5, optimizer={'lr': 0.3})
    leaves, at = go(files(tmp_path, 'whole'), plain)
    assert at.total < 40 and at.phase == 1 and at.done  # it ended early
    where, stops = files(tmp_path), 0
    while True:
        try:
            ours, position = go(where, plain, stop_after=1)
        except Break:
            stops += 1
        else:
            break
    assert stops > 2 and same(ours, leaves) and position == at and rows(where) == rows(files(tmp_path, 'whole'))


def test_an_extended_run(tmp_path, whole):
    shutil.copytree(whole[0].root, tmp_path / 'run')
    where = files(tmp_path)
    where.result.write_text('{}')
    longer = extended(config(), str(where.root), 5)
    assert longer['extend'] == (5,)
    with pytest.raises(Break):
        go(where, {**longer, 'checkpoint_every': 2}, stop_after=1)
    assert not where.result.exists()  # not finished any more
    assert extended(config(), str(where.root), 5)['extend'] == (5,)  # the same command, killed and started again
    assert extended(config(), str(where.root), 6)['extend'] == (5, 6)
    ours, at = go(where, longer)
    assert at.total == 15 and at.phase == 1 and rows(where)[: len(rows(whole[0]))] == rows(whole[0])
    where.result.write_text('{}')
    assert extended(config(), str(where.root), 5)['extend'] == (5, 5)
    with pytest.raises(UserError, match=r'config.extend: \[5\] in the run, \[\] now'):
        go(where, config())

    shutil.copytree(whole[0].root, tmp_path / 'unbroken')
    theirs, position = go(files(tmp_path, 'unbroken'), longer)
    assert same(ours, theirs) and position == at and rows(where) == rows(files(tmp_path, 'unbroken'))


def test_moments_move_into_an_extension(tmp_path):
    """Momentum without rate or data left to chance: the first extended step is that of a run that was longer from the start."""
    plain = config(
        'full', steps=4, select='last', eval_every=0, optimizer={'name': 'sgd', 'momentum': 0.9, 'schedule': 'constant', 'lr': 0.01}
    )
    where = files(tmp_path)
    go(where, plain)
    experiment = build({**plain, 'extend': (3,)}, data=data())
    with contextlib.closing(RunStore(where, experiment)) as store:
        frozen, state, at = store.start_or_resume()
        before = jax.device_get(state)
        _, after, notes = store.begin(1, {**frozen.leaves, **state.params, **state.stats}, state)
    after = jax.device_get(after)
    old, new = (jax.tree.leaves(s.opt_state) for s in (before, after))
    moments = [(a, b) for a, b in zip(old, new, strict=True) if a.ndim]
    assert at.done and notes == () and moments and all(a.tobytes() == b.tobytes() and np.abs(a).max() > 0 for a, b in moments)


@pytest.mark.slow
def test_penalties_that_pull_to_the_loaded_values_survive(tmp_path):
    from safetensors.numpy import save_file

    first = build(config(), data=data())
    rng = np.random.default_rng(0)
    save_file(
        {path: rng.normal(size=spec.shape).astype(np.float32) ** 2 for path, spec in first.net.shapes.items()},
        tmp_path / 'source.safetensors',
    )
    plain = config(
        init_from=str(tmp_path / 'source.safetensors'),
        penalties=(('backbone/.*kernel', ('l2sp', 0.1)), ('.*', None)),
        optimizer={'name': 'adam', 'ema': 0.8, 'clip': 1.0},
        accumulate=2,
        augment={'crop': 0.8, 'flip': True, 'mixup': 0.4, 'cutmix': 1.0},
    )
    leaves, at = go(files(tmp_path, 'whole'), plain)
    where = files(tmp_path)
    for _ in range(2):
        with pytest.raises(Break):
            go(where, plain, stop_after=1)
    ours, position = go(where, plain)
    assert same(ours, leaves) and position == at and rows(where) == rows(files(tmp_path, 'whole'))
    assert all('train/penalty' in row for row in rows(where) if 'train/loss' in row)


def test_the_loss_scale_of_float16_goes_on(tmp_path):
    half = config(precision=(('.*', {'compute': 'float16'}),), eval_every=5, checkpoint_every=4)
    leaves, _ = go(files(tmp_path, 'whole'), half)
    where = files(tmp_path)
    with pytest.raises(Break):
        go(where, half, stop_after=1)
    with contextlib.closing(RunStore(where, build(half, data=data()))) as store:
        _, state, at = store.start_or_resume()
    assert at.total == 4 and (float(state.loss_scale['scale']), int(state.loss_scale['good'])) == (2.0**15, 4)
    assert same(go(where, half)[0], leaves)
