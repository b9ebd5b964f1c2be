"""Processes on this machine: who they are told to be, what they print, and how they end. Small scripts stand in for jtl."""

import signal
import subprocess
import sys
import time

import pytest
from loaded import LAUNCH, load

local = load('local')
STAND_IN = """
import os, signal, sys, time
address, count, index = os.environ['JTL_HOSTS'].split(',')
print('I am', index, 'of', count, os.environ['XLA_FLAGS'].split()[-1], *sys.argv[1:])
sys.stdout.flush()
if sys.argv[1] == 'fail' and index == '1':
    sys.exit(int(sys.argv[2]))
if sys.argv[1] == 'die' and index == '1':
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] in ('fail', 'die', 'wait'):
    signal.signal(signal.SIGTERM, lambda *_: (print('saved', index, flush=True), sys.exit(75)))
    time.sleep(60)
    sys.exit(1)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    script = tmp_path / 'stand_in.py'
    script.write_text(STAND_IN)
    monkeypatch.setattr(local, 'JTL', (sys.executable, str(script)))

    def started(*command, processes=2, devices=3):
        status = local.main([f'--processes={processes}', f'--devices={devices}', '--', *command])
        return status, capfd.readouterr().out.splitlines()

    return started


def test_every_process_is_told_who_it_is_and_its_lines_are_marked(run):
    status, lines = run('train', '--config=a b.py', processes=3)
    assert status == 0
    flag = '--xla_force_host_platform_device_count=3'
    assert sorted(lines) == [f'[{k}] I am {k} of 3 {flag} train --config=a b.py' for k in range(3)]


@pytest.mark.parametrize('code', [2, 75])
def test_the_first_failure_ends_all_and_is_named(run, code):
    status, lines = run('fail', str(code))
    assert status == code
    assert f'launch: process 1 of 2 ended with status {code}, the others are ended.' in lines and '[0] saved 0' in lines


def test_a_process_that_is_killed_is_named_and_the_run_may_be_started_again(run):
    status, lines = run('die')
    assert status == 75
    assert 'launch: process 1 of 2 was ended by SIGKILL, the others are ended.' in lines and '[0] saved 0' in lines


def test_sigterm_is_handed_on(tmp_path):
    script = tmp_path / 'stand_in.py'
    script.write_text(STAND_IN)
    code = f'import sys; sys.path.insert(0, {str(LAUNCH)!r}); import local; local.JTL = (sys.executable, {str(script)!r}); sys.exit(local.main())'
    started = subprocess.Popen([sys.executable, '-c', code, '--', 'wait'], stdout=subprocess.PIPE, text=True)
    lines = [started.stdout.readline() for _ in range(2)]
    time.sleep(0.3)
    started.send_signal(signal.SIGTERM)
    rest, _ = started.communicate(timeout=30)
    assert started.returncode == 75 and all('I am' in line for line in lines)
    assert {'[0] saved 0', '[1] saved 1'} <= set(rest.splitlines())


def test_a_dry_run_starts_nothing(capsys):
    assert local.main(['--dry-run', '--processes=2', '--devices=4', '--platform=cuda', '--', 'train', '--config=a.py']) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert "CUDA_VISIBLE_DEVICES='0,1,2,3'" in first and "CUDA_VISIBLE_DEVICES='4,5,6,7'" in second
    assert ",2,0'" in first and ",2,1'" in second and first.endswith('-m jtl.cli.main train --config=a.py')


def test_without_a_command_it_says_so(capsys):
    with pytest.raises(SystemExit) as error:
        local.main(['--processes=2'])
    assert error.value.code == 2 and 'behind --' in capsys.readouterr().err
