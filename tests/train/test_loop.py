"""The training loop: what is logged, evaluated and saved when, signals, and values that are not finite."""

import contextlib
import json
import os
import signal
import threading

import jax
import numpy as np
import pytest
from etils import epath

from jtl.data.arrays import from_arrays
from jtl.train.files import RunFiles, RunLog
from jtl.train.loop import NonFiniteError, train
from jtl.train.resume import RunStore
from jtl.train.setup import build
from jtl.train.signals import StopSignals
from jtl.train.step import compile_predict, make_predict


def data():
    rng = np.random.default_rng(0)
    images = {'train': rng.integers(0, 256, (24, 8, 8, 1), np.uint8), 'validation': rng.integers(0, 256, (12, 8, 8, 1), np.uint8)}
    return from_arrays(images, {name: np.arange(len(x)) % 3 for name, x in images.items()})


def go(where, **fields):
    """Train a tiny net, its backbone frozen; the leaves and the position."""
    optimizer = {'name': 'sgd', 'lr': 0.1, 'momentum': 0.0, 'schedule': 'constant', **fields.pop('optimizer', {})}
    model = {'name': 'convnet', 'image_size': 8, 'channels': (2,), 'dense': ()}
    plain = {'steps': 7, 'batch_size': 8, 'log_every': 3, 'eval_every': 4, 'checkpoint_every': 5, 'data': {'name': 'arrays'}}
    experiment = build({**plain, 'model': model, 'optimizer': optimizer, 'tune': {'recipe': 'probe'}, **fields}, data=data())
    predict = compile_predict(make_predict(experiment.net, experiment.tasks, experiment.prepare), experiment.placement)
    with contextlib.closing(RunStore(where, experiment)) as store:
        leaves, at = train(experiment, where, store, lambda head: predict)
    return jax.device_get(leaves), at


def rows(where):
    return [json.loads(line) for line in where.metrics.read_text().splitlines()]


def steps(folder):
    return sorted(int(p.name) for p in folder.iterdir())


@pytest.fixture
def where(tmp_path):
    return RunFiles(epath.Path(tmp_path))


def test_rows_and_saves_come_when_they_are_due_and_at_the_end(where):
    _, at = go(where)
    found = rows(where)
    assert [r['step'] for r in found if 'train/loss' in r] == [3, 6, 7]
    assert [r['step'] for r in found if 'validation/loss' in r] == [4, 7]
    assert steps(where.last) == [5, 7] and (at.total, at.step, at.done) == (7, 7, True)


def test_zero_means_at_the_end_only(where):
    go(where, eval_every=0, checkpoint_every=0)
    assert [r['step'] for r in rows(where) if 'validation/loss' in r] == [7] and steps(where.last) == [7]


def test_the_loss_of_a_row_is_the_mean_since_the_last(tmp_path):
    one, three = (RunFiles(epath.Path(tmp_path / name)) for name in ('one', 'three'))
    go(one, log_every=1)
    go(three)
    each = [r['train/loss'] for r in rows(one) if 'train/loss' in r]
    means = [r['train/loss'] for r in rows(three) if 'train/loss' in r]
    np.testing.assert_allclose(means, [np.mean(each[:3]), np.mean(each[3:6]), each[6]], rtol=1e-6)


def test_the_best_parameters_are_those_of_the_best_evaluation(where, monkeypatch):
    accuracies = iter([0.2, 0.7, 0.7, 0.1])
    kept = []

    def evaluation(predict, leaves, experiment, split, head):
        kept.append(jax.device_get(leaves))
        return type('E', (), {'metrics': {'accuracy': next(accuracies), 'loss': 1.0}})

    monkeypatch.setattr('jtl.train.loop.evaluate', evaluation)
    leaves, at = go(where, eval_every=2, select='best')
    assert (at.best, at.best_total, at.waited) == (0.7, 4, 2)
    assert all(np.array_equal(leaves[path], kept[1][path]) for path in leaves)
    assert any(not np.array_equal(leaves[path], kept[3][path]) for path in leaves)


def test_a_metric_that_is_not_a_number_is_never_the_best(where, monkeypatch):
    monkeypatch.setattr('jtl.train.loop.evaluate', lambda *_, **__: type('E', (), {'metrics': {'accuracy': float('nan'), 'loss': 1.0}}))
    _, at = go(where, select='best')
    assert at.best is None and not steps(where.best)


def test_patience_counts_anew_in_each_phase(where, monkeypatch):
    monkeypatch.setattr('jtl.train.loop.evaluate', lambda *_, **__: type('E', (), {'metrics': {'accuracy': 0.5, 'loss': 1.0}}))
    phases = tuple({'name': name, 'steps': 9, 'train': (('heads/.*', 'head'),)} for name in 'ab')
    _, at = go(where, tune={'recipe': ''}, phases=phases, steps=0, eval_every=1, log_every=100, patience=2)
    assert [(r['phase_name'], r['step']) for r in rows(where)] == [('a', 1), ('a', 2), ('a', 3), ('b', 4), ('b', 5)]
    assert (at.phase, at.step, at.total, at.done) == (1, 2, 5, True) and steps(where.last) == [3, 5]


def test_values_that_are_not_finite_stop_the_run_and_leave_the_checkpoints(where):
    train = (('heads/.*', 'head'),)
    phases = ({'name': 'calm', 'steps': 4, 'train': train}, {'name': 'wild', 'steps': 4, 'train': train, 'groups': {'head': {'lr': 1e39}}})
    fields = {'tune': {'recipe': ''}, 'phases': phases, 'steps': 0, 'checkpoint_every': 2, 'eval_every': 2, 'log_every': 4}
    messages = []
    for _ in range(2):
        with pytest.raises(
            NonFiniteError, match=r'not finite at step 5 \(phase wild, step 1\); 2 of 2 trainable leaves are no longer'
        ) as caught:
            go(where, **fields)
        messages.append(str(caught.value))
        assert steps(where.last) == [2, 4] and max(steps(where.best)) <= 4
        assert [r['step'] for r in rows(where)] == [2, 4, 4]  # nothing is told of the broken parameters
    assert messages[0] == messages[1]


def test_sigterm_saves_at_the_end_of_the_step(tmp_path, monkeypatch):
    whole, stopped = (RunFiles(epath.Path(tmp_path / name)) for name in ('whole', 'stopped'))
    leaves, at = go(whole)
    step = RunLog.step
    for number, error, when in ((signal.SIGTERM, SystemExit, 2), (signal.SIGINT, KeyboardInterrupt, 6)):
        before = signal.getsignal(number)
        with monkeypatch.context() as patched, pytest.raises(error) as caught:
            patched.setattr(
                RunLog, 'step', lambda self, n, number=number, when=when: (step(self, n), n == when and os.kill(os.getpid(), number))
            )
            go(stopped)
        assert steps(stopped.last)[-1] == when and signal.getsignal(number) is before
        assert error is KeyboardInterrupt or caught.value.code == 75
    ours, position = go(stopped)
    assert position == at and all(np.array_equal(ours[path], leaves[path]) for path in leaves)
    assert [{**r, 'examples_per_second': 0} for r in rows(stopped)] == [{**r, 'examples_per_second': 0} for r in rows(whole)]


def test_signals_are_left_alone_off_the_main_thread():
    seen = []

    def work():
        with StopSignals() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.received))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(before, '')]


def test_a_second_signal_acts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with SIGINT ignored
    try:
        with StopSignals() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.received == 'SIGINT'
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(stop.error(stop.received), KeyboardInterrupt)
    finally:
        signal.signal(signal.SIGINT, before)
