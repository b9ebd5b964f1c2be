"""The shell scripts: checked by shellcheck, their manifests by the schema of Kubernetes, their dry runs by what they would do."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from loaded import LAUNCH

SHELLCHECK = str(Path(sys.executable).with_name('shellcheck'))
SCRIPTS = sorted(path.name for path in LAUNCH.glob('*.sh'))
GKE = ('gke.sh', '--name=run', '--image=registry/jtl', '--accelerator=tpu-v5-lite-podslice', '--topology=16x16', '--hosts=64')
TPU = ('tpu_vm.sh', '--name=run', '--zone=here', '--type=v5litepod-256')
COMMAND = ('train', '--config=configs/vit_b16_pets.py', "--config.data.root=it's $HOME", '--workdir=gs://bucket/run')


def run(*args, path=None):
    env = {**os.environ, 'PATH': path} if path else None
    return subprocess.run([str(LAUNCH / args[0]), *args[1:]], capture_output=True, text=True, timeout=60, env=env)


def dry(*args, command=COMMAND):
    done = run(args[0], '--dry-run', *args[1:], '--', *command)
    assert done.returncode == 0, done.stderr
    return done.stdout


def words(line):
    """As a shell would split it; `$` and quotes of a user's argument must have survived."""
    return shlex.split(line)


def test_shellcheck_finds_nothing():
    done = subprocess.run([SHELLCHECK, *(str(LAUNCH / name) for name in SCRIPTS)], capture_output=True, text=True)
    assert SCRIPTS == ['gke.sh', 'slurm.sh', 'tpu_vm.sh'] and done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_is_the_comment_at_the_head(name):
    done = run(name, '--help')
    assert (
        done.returncode == 0 and done.stdout.startswith('Train ') and f'launch/{name} [--dry-run]' in done.stdout and '#' not in done.stdout
    )


@pytest.mark.parametrize(
    'args', [('slurm.sh',), GKE[:3], TPU, ('slurm.sh', '--nodse=2', '--', *COMMAND), ('slurm.sh', '--gpus=x', '--', *COMMAND)]
)
def test_what_is_missing_or_wrong_is_said(args):
    done = run(*args)
    assert done.returncode == 2 and done.stderr.startswith(f'{args[0]}: ') and len(done.stderr.splitlines()) == 1


def test_slurm():
    text = dry('slurm.sh', '--nodes=2', '--gpus=4', '--partition=fast', '--setup=source venv/bin/activate')
    options = dict(re.findall(r'^#SBATCH --([\w-]+)(?:=(\S+))?$', text, re.MULTILINE))
    assert (options['nodes'], options['ntasks-per-node'], options['gpus-per-node'], options['partition']) == ('2', '4', '4', 'fast')
    assert 'requeue' in options and options['signal'] == 'TERM@120' and 'account' not in options
    line = next(line for line in text.splitlines() if line.startswith('srun'))
    assert tuple(words(line)[-len(COMMAND) - 1 :]) == ('jtl', *COMMAND)
    assert subprocess.run(['bash', '-n'], input=text, text=True).returncode == 0
    assert subprocess.run([SHELLCHECK, '-e', 'SC1091', '-'], input=text, text=True).returncode == 0


@pytest.mark.parametrize(('status', 'requeued'), [(0, False), (2, False), (75, True)])
def test_slurms_job_requeues_itself_on_75(tmp_path, status, requeued):
    """The batch script runs, between stand-ins for srun and scontrol."""
    for name, does in (('srun', f'exit {status}'), ('scontrol', f'echo "$@" > {tmp_path}/asked')):
        (tmp_path / name).write_text(f'#!/bin/sh\n{does}\n')
        (tmp_path / name).chmod(0o755)
    env = {'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'SLURM_JOB_ID': '17'}
    assert subprocess.run(['bash'], input=dry('slurm.sh'), text=True, env=env).returncode == status
    assert (tmp_path / 'asked').exists() == requeued and (not requeued or (tmp_path / 'asked').read_text() == 'requeue 17\n')


def test_the_jobset_is_valid_and_tells_jtl_all():
    manifest = yaml.safe_load(dry(*GKE, '--slices=2', '--chips=4'))
    assert (manifest['kind'], manifest['apiVersion'], manifest['spec']['failurePolicy']['maxRestarts']) == (
        'JobSet',
        'jobset.x-k8s.io/v1alpha2',
        20,
    )
    (replicated,) = manifest['spec']['replicatedJobs']
    assert replicated['replicas'] == 2 and set(manifest) == {'apiVersion', 'kind', 'metadata', 'spec'}
    job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'run'}, **replicated['template']}
    kubernetes_validate.validate(job, kubernetes_validate.latest_version(), strict=True)
    spec = job['spec']
    (container,) = spec['template']['spec']['containers']
    assert spec['parallelism'] == spec['completions'] == 64 and tuple(container['args']) == COMMAND
    assert container['resources']['limits'] == {'google.com/tpu': 4} and {'name': 'JTL_HOSTS', 'value': 'auto'} in container['env']
    assert spec['template']['spec']['terminationGracePeriodSeconds'] >= 60  # a checkpoint is written in them
    wrong = json.loads(json.dumps(job).replace('"completions"', '"completion"'))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, kubernetes_validate.latest_version(), strict=True)


def test_xpk():
    line = words(dry(*GKE[:3], '--xpk', '--cluster=c', '--type=v5litepod-256', '--slices=2'))
    assert line[:3] == ['xpk', 'workload', 'create'] and {'--num-slices=2', '--env=JTL_HOSTS=auto'} <= set(line)
    assert tuple(words(line[-1].removeprefix('--command='))) == ('jtl', *COMMAND)


def test_tpu_vm():
    lines = [words(line.removeprefix('+ ')) for line in dry(*TPU, '--spot').splitlines()]
    assert [line[3:5] for line in lines] == [
        ['queued-resources', 'create'],
        ['queued-resources', 'describe'],
        ['tpu-vm', 'ssh'],
        ['tpu-vm', 'ssh'],
        ['queued-resources', 'delete'],
    ]
    assert {'--spot', '--accelerator-type=v5litepod-256', '--zone=here'} <= set(lines[0]) and '--worker=all' in lines[3]
    remote = words(next(word for word in lines[3] if word.startswith('--command=')).removeprefix('--command='))
    assert remote[0] == 'JTL_HOSTS=auto' and tuple(remote[2:]) == COMMAND


@pytest.mark.parametrize(('statuses', 'asked', 'ends'), [([0], 1, 0), ([2], 1, 2), ([75, 255, 0], 3, 0), ([1, 1, 1], 3, 1)])
def test_a_preempted_slice_is_asked_for_again(tmp_path, statuses, asked, ends):
    """gcloud is a stand-in that is ACTIVE at once; jtl ends with one status after another."""
    (tmp_path / 'statuses').write_text('\n'.join(map(str, statuses)) + '\n')
    (tmp_path / 'gcloud').write_text(f"""#!/bin/bash
echo "$@" >> {tmp_path}/calls
case "$*" in
  *describe*) echo ACTIVE ;;
  *JTL_HOSTS*) status=$(head -1 {tmp_path}/statuses); sed -i 1d {tmp_path}/statuses; exit "$status" ;;
esac
""")
    (tmp_path / 'gcloud').chmod(0o755)
    done = run(*TPU, '--attempts=3', '--', 'train', '--config=a.py', path=f'{tmp_path}:{os.environ["PATH"]}')
    calls = (tmp_path / 'calls').read_text()
    assert done.returncode == ends and calls.count('queued-resources create') == asked
    assert calls.count('queued-resources delete') >= asked


def test_the_image_runs_jtl_as_its_first_process():
    text = (LAUNCH / 'Dockerfile').read_text()
    assert 'ENTRYPOINT ["jtl"]' in text
    copied = re.findall(r'^COPY (.+) \S+$', text, re.MULTILINE)
    for name in ' '.join(copied).split():
        assert (LAUNCH.parent / name).exists(), name
