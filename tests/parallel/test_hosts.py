"""Several real processes that train one model; and what they say to each other."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jtl.data.base import Data, Split, UnreadableError
from jtl.data.preflight import preflight
from jtl.errors import UserError
from jtl.parallel.hosts import AGAIN, ONE, Hosts, Watch, join, lost_hosts, whole

sys.path.insert(0, str(Path(__file__).parents[1] / 'launch'))
from loaded import LAUNCH, load

local = load('local')
CONFIG = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(channels=(4, 8), dense=(), image_size=8, batch_norm=True, bn_momentum=0.9, dropout=0.2)
    config.data.update(name='digits', shots=40)
    config.tune.recipe = 'lp_ft'
    config.optimizer.update(name='adamw', lr=3e-3, ema=0.9)
    config.steps, config.batch_size, config.eval_every, config.checkpoint_every, config.log_every = 60, 16, 20, 10, 5
    config.select = 'best'
    return config
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp('hosts') / 'config.py'
    path.write_text(CONFIG)
    return path


def launched(config, workdir, processes, devices, *rest, timeout=60):
    command = [str(LAUNCH / 'local.py'), f'--processes={processes}', f'--devices={devices}', '--', 'train', f'--config={config}']
    command += [f'--workdir={workdir}', f'--host-timeout={timeout}', *rest]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(config, workdir, processes, devices, *rest, timeout=60):
    started = launched(config, workdir, processes, devices, *rest, timeout=timeout)
    output, _ = started.communicate(timeout=300)
    return started.returncode, output


def interrupted(config, workdir, processes, devices, how, victim=0, timeout=60):
    """Ended by `how(pids)` once step 28 is logged; its status and what it printed."""
    started, lines = launched(config, workdir, processes, devices, timeout=timeout), []
    for line in started.stdout:
        lines.append(line)
        if 'step 28/60' in line:
            children = subprocess.run(['pgrep', '-P', str(started.pid)], capture_output=True, text=True).stdout.split()
            os.kill(int(children[victim]), how)
            break
    rest, _ = started.communicate(timeout=300)
    return started.returncode, ''.join([*lines, rest])


def outcome(workdir):
    metrics = json.loads((workdir / 'result.json').read_text())['metrics']
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    losses = {row['step']: row['train/loss'] for row in rows if 'train/loss' in row}
    return metrics, losses, load_file(workdir / 'bundle' / 'model.safetensors')


def alike(one, other, tolerance=1e-5):
    assert one[0].keys() == other[0].keys() and one[1].keys() == other[1].keys()
    for name in one[0]:
        np.testing.assert_allclose(other[0][name], one[0][name], atol=tolerance, err_msg=name)
    np.testing.assert_allclose(list(other[1].values()), list(one[1].values()), atol=tolerance)
    for path in one[2]:
        np.testing.assert_allclose(other[2][path], one[2][path], atol=10 * tolerance, err_msg=path)


@pytest.fixture(scope='module')
def alone(config, tmp_path_factory):
    """What one process with one device makes of it."""
    workdir = tmp_path_factory.mktemp('alone') / 'run'
    status, output = finished(config, workdir, 1, 1)
    assert status == 0, output
    return outcome(workdir)


@pytest.mark.slow
@pytest.mark.parametrize(('processes', 'devices', 'mesh'), [(2, 4, ()), (4, 2, ('--config.mesh.data=2', '--config.mesh.fsdp=-1'))])
def test_hosts_train_as_one_process_does(config, alone, tmp_path, processes, devices, mesh):
    """Phases, averages, evaluations, the best, and files that one of them writes."""
    status, output = finished(config, tmp_path / 'run', processes, devices, *mesh)
    assert status == 0, output
    alike(alone, outcome(tmp_path / 'run'))
    spoken = [line for line in output.splitlines() if 'step 60/60' in line]
    assert len(spoken) == 1 and spoken[0].startswith('[0]')


@pytest.mark.slow
def test_a_run_goes_on_with_any_number_of_hosts(config, alone, tmp_path):
    """2 hosts, SIGTERM to the second; 4 hosts, one of them killed; one process to the end: as if nothing had been."""
    workdir = tmp_path / 'run'
    status, output = interrupted(config, workdir, 2, 2, signal.SIGTERM, victim=1)
    assert status == AGAIN and re.search(r'SIGTERM: saved at step (2[89]|3\d|4\d)\.', output), output
    status, output = interrupted(config, workdir, 4, 1, signal.SIGKILL, victim=2, timeout=20)
    if 'step 28/60' in output:  # it had not come as far
        assert status == AGAIN and 'process 2 of 4 was ended by SIGKILL' in output, output
    assert 'Resumed at step' in output
    status, output = finished(config, workdir, 1, 1)
    assert status == 0, output
    alike(alone, outcome(workdir))


@pytest.mark.slow
def test_a_host_that_is_killed_is_named_in_time(config, tmp_path):
    began = time.monotonic()
    status, output = interrupted(config, tmp_path / 'run', 2, 1, signal.SIGKILL, victim=1, timeout=20)
    assert status == AGAIN and 'launch: process 1 of 2 was ended by SIGKILL' in output
    assert 'hosts: host 1 of 2 did not answer for 20 s. Start all again with the same command: the run goes on.' in output
    assert time.monotonic() - began < 200 and not (tmp_path / 'run' / 'result.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize(('processes', 'devices', 'first'), [(2, 2, 0), (4, 1, 17)])
def test_hosts_read_the_batches_of_one_process_each_its_rows(processes, devices, first):
    def read(count, devices, first):
        port = local.free_port()
        script = [sys.executable, str(Path(__file__).with_name('host_batches.py')), str(first)]
        envs = [{**os.environ, **local.environment(k, count, devices, port, 'cpu')} for k in range(count)]
        started = [subprocess.Popen(script, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for env in envs]
        told = [process.communicate(timeout=200) for process in started]
        assert all(process.returncode == 0 for process in started), told
        return [json.loads(out.splitlines()[-1]) for out, _ in told]

    (one,) = read(1, 1, 0)
    parts = read(processes, devices, first)
    for k in range(30 - first):
        rows = [part[k] for part in parts]
        assert all(len(row) == 16 // processes for row in rows)  # no host reads another's
        assert {place: index for row in rows for place, index in row.items()} == one[first + k]


@pytest.mark.slow
def test_hosts_that_were_told_different_things_say_so(config, tmp_path):
    port = local.free_port()
    command = [sys.executable, '-m', 'jtl.cli.main', 'train', f'--config={config}', f'--workdir={tmp_path}', '--host-timeout=30']
    started = [
        subprocess.Popen(
            [*command, f'--config.seed={k}'],
            env={**os.environ, **local.environment(k, 2, 1, port, 'cpu')},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for k in range(2)
    ]
    for process in started:
        _, said = process.communicate(timeout=200)
        assert process.returncode == 2
        assert 'jtl train: hosts: config.seed is 0 on host 0, but 1 on host 1. All hosts must be told the same.' in said.splitlines()
    assert not (tmp_path / 'config.json').exists()


@pytest.mark.slow
def test_hosts_that_do_not_come_are_missed(config, tmp_path):
    env = {**os.environ, **local.environment(0, 2, 1, local.free_port(), 'cpu')}
    command = [sys.executable, '-m', 'jtl.cli.main', 'train', f'--config={config}', f'--workdir={tmp_path}', '--host-timeout=5']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == 'hosts: host 1 did not come within 5 s. See what they wrote; --host-timeout waits longer.'


@pytest.mark.parametrize(
    ('said', 'says'),
    [
        ('two', "--hosts: 'auto', or ADDRESS:PORT,COUNT,INDEX, .* found 'two'"),
        ('1.2.3.4,2,0', 'ADDRESS:PORT'),
        ('1.2.3.4:5,2,2', '--hosts: of 2 hosts the last is 1, found 2'),
    ],
)
def test_who_the_hosts_are_must_be_said_rightly(said, says):
    with pytest.raises(UserError, match=says):
        join(said)


def test_where_no_cluster_says_who_the_hosts_are():
    """In a process of its own: hosts join before anything touches a device."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(('SLURM_', 'OMPI_', 'TPU_', 'KUBERNETES_'))}
    code = "from jtl.parallel.hosts import join; join('auto')"
    done = subprocess.run([sys.executable, '-c', code], env={**env, 'JAX_PLATFORMS': 'cpu'}, capture_output=True, text=True, timeout=100)
    assert 'UserError: --hosts=auto: neither Cloud TPU, SLURM, GKE nor Open MPI say who the hosts are' in done.stderr


def test_one_process_asks_nobody():
    assert join('') is ONE and ONE.first and ONE.exchange('anything', 'text') == ['text']
    ONE.agree({'seed': 0})
    ONE.barrier('anything')
    with Watch(ONE, end=pytest.fail):
        pass
    np.testing.assert_array_equal(whole(np.arange(3)), np.arange(3))


def test_why_a_run_cannot_go_on():
    well = {'0': ('7', 100.0), '1': ('9', 99.0), '2': ('left', 3.0)}
    assert lost_hosts(well, 101.0, 10.0) is None
    status, text = lost_hosts({**well, '1': ('9', 90.0), '3': ('', 85.0)}, 101.0, 10.0)
    assert status == AGAIN and text.startswith('hosts 1, 3 of 4 did not answer for 10 s.')
    assert lost_hosts({**well, '1': ('failed: no such file', 100.5)}, 101.0, 10.0) == (2, 'host 1 failed: no such file')


class InTurn:
    """Stands in for a host among several that run one after the other: what each tells is kept, and told to the last."""

    def __init__(self, count, index, told):
        self.count, self.index, self.told = count, index, told

    def exchange(self, what, text):
        self.told.setdefault(self.index, []).append(text)
        place = len(self.told[self.index]) - 1
        return [self.told[k][place] if k in self.told else json.dumps([['?']] * 100) for k in range(self.count)]


def test_hosts_open_each_a_share_of_the_examples_and_find_what_one_finds():
    class Pictures:
        def __len__(self):
            return 11

        def __getitem__(self, index):
            opened.append(index)
            if index == 4:
                raise UnreadableError('picture 4: no picture')
            return {'image': np.full((2, 2, 1), index % 9, np.uint8)}

    def split():
        return Split(Pictures(), np.zeros(11, np.int32), name_of=lambda i: f'picture {i}')

    opened = []
    data = Data({'train': split(), 'test': split()}, ('a',))
    alone = preflight(data, max_unreadable=2)
    assert sorted(opened) == sorted([*range(11)] * 2) and len(alone.duplicates) == 10 and len(alone.unreadable) == 2
    told = {}
    for index in range(3):
        opened.clear()
        try:
            found = preflight(data, max_unreadable=2, hosts=InTurn(3, index, told))
        except UserError:  # the first two do not hear of all
            assert index < 2
        assert set(opened) == {k for k in range(11) if k % 3 == index}
    assert found.text() == alone.text()


class Table:
    """Stands in for JAX's table of strings, in which another host beats as it is told."""

    def __init__(self, answers_after, beats):
        self.asked, self.answers_after, self.beats, self.held = 0, answers_after, beats, {}

    def key_value_set(self, key, text):
        self.held[key] = text

    def blocking_key_value_get(self, key, milliseconds):
        if key in self.held:
            return self.held[key]
        self.asked += 1
        if self.asked > self.answers_after:
            return 'here'
        raise jax.errors.JaxRuntimeError('DEADLINE_EXCEEDED')

    def key_value_dir_get(self, key):
        beat = self.beats[min(self.asked, len(self.beats)) - 1]
        return [(f'{key}/1', beat)] if beat else []


@pytest.mark.parametrize(
    ('answers_after', 'beats', 'answered'),
    [(0, [''], True), (3, ['4', '9', '14'], True), (3, ['4', '4', '4'], False), (1, [''], False), (2, ['4', 'failed: no file'], False)],
)
def test_a_host_that_is_slow_but_alive_is_waited_for(answers_after, beats, answered, monkeypatch):
    table = Table(answers_after, beats)
    monkeypatch.setattr('jtl.parallel.hosts._client', lambda: table)
    hosts = Hosts(count=2, index=0, timeout=0.001)
    if answered:
        assert hosts.exchange('a word', 'mine') == ['mine', 'here']
    else:
        with pytest.raises(UserError, match=r'^hosts: host 1 of 2 did not answer within 0\.001 s \(a word\)\.'):
            hosts.exchange('a word', 'mine')
