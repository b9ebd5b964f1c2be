"""SIGKILL at any moment, and the run goes on as if nothing had happened: the same bytes at the end, the same rows of metrics."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

KILLER = Path(__file__).parent / 'killer.py'
KILLED = -9

CONFIG = """
from jtl import default_config


def get_config():
    config = default_config()
    config.model.update(name='convnet', image_size=8, channels=(4,), dense=(8, 8), batch_norm=True, bn_momentum=0.9, dropout=0.2)
    config.data.update(name='arrays', root={data!r})
    config.augment.update(crop=0.8, flip=True)
    config.tune.recipe = 'lp_ft'
    config.steps, config.batch_size, config.accumulate = 24, 8, 2
    config.optimizer.update(name='adamw', lr=0.03, schedule='cosine', warmup=0.2, clip=1.0, ema=0.8)
    config.log_every, config.eval_every, config.checkpoint_every = 4, 3, 5
    config.select = 'best'
    return config
"""


class Runs:
    """Run directories below one folder, a config for them, and a compilation cache that they share."""

    def __init__(self, folder: Path, *overrides: str):
        from sklearn.datasets import load_digits

        images, targets = load_digits(n_class=3, return_X_y=True)
        images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
        parts = {'train': slice(0, 90), 'validation': slice(90, 150), 'test': slice(150, 180)}
        arrays = {
            f'{name}_{what}': value[part] for name, part in parts.items() for what, value in (('images', images), ('labels', targets))
        }
        np.savez(folder / 'digits.npz', **arrays)
        (folder / 'config.py').write_text(CONFIG.format(data=str(folder / 'digits.npz')))
        self.folder, self.overrides = folder, overrides
        self.environment = {
            **os.environ,
            'JAX_PLATFORMS': 'cpu',
            'JAX_COMPILATION_CACHE_DIR': str(folder / 'cache'),
            'PYTHONPATH': os.pathsep.join([str(folder), *filter(None, [os.environ.get('PYTHONPATH')])]),
        }

    def start(self, name: str, *more: str, kill: tuple[str, int, str] | None = None) -> subprocess.Popen:
        """Start `jtl train`, to be killed at (target, count, moment); see killer.py."""
        entry = [str(KILLER), *map(str, kill)] if kill else ['-m', 'jtl.cli.main']
        command = [*entry, 'train', f'--config={self.folder / "config.py"}', f'--workdir={self.folder / name}', *self.overrides, *more]
        return subprocess.Popen(
            [sys.executable, *command], env=self.environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )

    def run(self, name: str, *more: str, kill: tuple[str, int, str] | None = None) -> tuple[int, str]:
        """Start it and wait. Its exit status (KILLED after a kill), and what it wrote on stderr."""
        process = self.start(name, *more, kill=kill)
        _, errors = process.communicate(timeout=300)
        return process.returncode, errors

    def outcome(self, name: str) -> dict:
        """All of a finished run that must not depend on how often it was killed: everything but times."""
        root = self.folder / name
        result = json.loads((root / 'result.json').read_text())
        rows = [json.loads(line) for line in (root / 'metrics.jsonl').read_text().splitlines()]
        return {
            'model': (root / 'bundle' / 'model.safetensors').read_bytes(),
            'golden': (root / 'bundle' / 'golden.safetensors').read_bytes(),
            'bundle': json.loads((root / 'bundle' / 'bundle.json').read_text()),
            'rows': [{k: v for k, v in row.items() if k != 'examples_per_second'} for row in rows],
            'result': {k: v for k, v in result.items() if k != 'seconds'},
            'plan': (root / 'plan.json').read_text(),
        }

    def writing(self, name: str) -> bool:
        """Whether the kill left a checkpoint half written."""
        return any((self.folder / name / 'checkpoints').glob('*/*-tmp*'))


SAVE = 'jtl.checkpoint.runs:RunCheckpoints.save'
PHASE = 'jtl.train.resume:RunStore.begin'
RENAME = 'os:rename'  # Orbax's commits: three a checkpoint, the last of which makes it one


def same(runs, name, reference='whole'):
    ours, theirs = runs.outcome(name), runs.outcome(reference)
    assert ours['rows'] == theirs['rows']
    assert [what for what in ours if ours[what] != theirs[what]] == []


def test_a_kill_in_a_checkpoint_write_and_one_at_a_change_of_phase(tmp_path):
    runs = Runs(tmp_path)
    assert runs.run('whole')[0] == 0
    steps = [row['step'] for row in runs.outcome('whole')['rows']]
    assert len(runs.outcome('whole')['rows']) == 16 and steps == sorted(steps)
    # The base, best at 3, last at 5, best at 6: killed between the writing and the renaming of the next one.
    assert runs.run('killed', kill=(RENAME, 11, 'before'))[0] == KILLED
    assert runs.writing('killed')
    code, errors = runs.run('killed', kill=(PHASE, 1, 'after'))
    assert code == KILLED and re.search(r'Resumed at step 5: phase probe, step 5\.', errors)
    code, errors = runs.run('killed')
    assert code == 0 and re.search(r'Resumed at step 7: phase probe, step 7\.', errors)
    same(runs, 'killed')


FINISH = [
    ('jtl.train.run:evaluate', 2, 'before'),
    ('jtl.train.run:write_bundle', 1, 'before'),
    ('jtl.train.run:write_bundle', 1, 'after'),
    ('jtl.train.run:write_text', 1, 'after'),
    ('jtl.train.run:write_json', 1, 'before'),
]
BEGINNING = [
    ('jtl.train.resume:write_json', 1, 'after'),  # config.json is there, plan.json is not
    ('jtl.train.resume:write_json', 2, 'after'),  # both, and no base checkpoint
    (RENAME, 3, 'before'),  # the base checkpoint is written but not one yet
    (RENAME, 3, 'after'),
]


@pytest.mark.slow
def test_a_campaign_of_kills(tmp_path):
    runs = Runs(tmp_path, '--config.tune.recipe=gradual', '--config.tune.gradual.chunks=3', '--config.steps=48')
    assert runs.run('whole')[0] == 0
    began = time.monotonic()
    assert runs.run('warm')[0] == 0  # with a warm cache: how long a run takes, and that two are equal at all
    seconds = time.monotonic() - began
    same(runs, 'warm')
    chance = random.Random(0)
    writes = [(RENAME, chance.randint(1, 6), chance.choice(['before', 'after'])) for _ in range(4)]
    writes += [(SAVE, chance.randint(1, 3), str(chance.randint(0, 60))) for _ in range(4)]  # in the background
    phases = [(PHASE, 1, moment) for moment in ('before', 'after', '5', '40', '300')]
    phases += [(SAVE, n, 'before') for n in (3, 4)]
    times = [chance.uniform(0.2, 1.0) * seconds for _ in range(6)]
    kills, half = dict.fromkeys(('writes', 'phases', 'ends', 'times'), 0), 0
    for kind, moments in (('writes', writes), ('phases', phases), ('ends', BEGINNING + FINISH), ('times', times)):
        for moment in moments:
            if kind == 'times':
                process = runs.start(kind)
                time.sleep(moment)
                process.kill()
                code, errors = process.wait(), process.stderr.read()
            else:
                code, errors = runs.run(kind, kill=moment)
            assert code in (0, KILLED), errors
            kills[kind] += code == KILLED
            half += runs.writing(kind)
        assert runs.run(kind)[0] == 0
        same(runs, kind)
    print(f'\nkills: {kills}, {half} of them with a checkpoint half written; a run takes {seconds:.0f} s')
    assert kills['writes'] >= 5 and kills['phases'] >= 5 and sum(kills.values()) >= 20 and half >= 5


def test_sigterm_saves_and_says_so(tmp_path):
    runs = Runs(tmp_path, '--config.tune.recipe=probe', '--config.steps=100000', '--config.checkpoint_every=0', '--config.eval_every=0')
    process = runs.start('run')
    while 'step 20/' not in process.stderr.readline():
        assert process.poll() is None
    code, errors = runs.run('run')
    assert code == 2 and 'another process is training in this run directory' in errors and 'Traceback' not in errors
    process.send_signal(signal.SIGTERM)
    errors = process.stderr.read()
    saved = re.search(r'SIGTERM: saved at step (\d+)', errors)
    assert process.wait() == 75 and saved and 'Traceback' not in errors
    assert [p.name for p in (tmp_path / 'run' / 'checkpoints' / 'last').iterdir()] == [saved[1]]
