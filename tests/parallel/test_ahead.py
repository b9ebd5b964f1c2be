"""Real training steps compiled for TPU chips that are not here (libtpu, no TPU); run with `-m aot`, minutes."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / 'train'))
import texts

pytestmark = pytest.mark.aot
WIDTH, DEPTH, HIDDEN, CLASSES, CHIPS = 64, 2, 256, 2, 16
BERT = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(name='bert_tiny')
    config.model.width, config.model.depth, config.model.heads, config.model.pooler, config.model.positions = 64, 2, 2, False, 32
    config.data.update(name='text_csv', root='ROOT')
    config.text.update(tokenizer='words', max_length=12, buckets=(12,))
    config.task.pool = 'mean'
    config.optimizer.update(name='adamw', ema=0.9)
    config.steps, config.batch_size = 4, 32
    return config
"""
VIT = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(name='vit_ti16', image_size=32)
    config.model.width, config.model.depth, config.model.heads = 64, 2, 2
    config.data.update(name='digits', classes=('0', '1'))
    config.tune.recipe = 'probe'
    config.optimizer.update(name='adamw')
    config.steps, config.batch_size = 4, 32
    return config
"""


def plan(text, *args):
    with tempfile.TemporaryDirectory() as folder:
        table = texts.table(Path(folder) / 'texts.csv')
        config = Path(folder) / 'config.py'
        config.write_text(text.replace('ROOT', str(table)))
        command = [sys.executable, '-m', 'jtl.cli.main', 'plan', f'--config={config}', *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=900, env={**os.environ, 'JAX_PLATFORMS': 'cpu'})


def split(*shape, axis):
    """Values of a leaf on a chip, `axis` of its dimensions over all chips, or whole where None."""
    whole = 1
    for k, n in enumerate(shape):
        whole *= n // CHIPS if k == axis else n
    return whole


def transformer(layers):
    """The values on a chip of so many layers, counted by hand: matrices by their larger dimension, vectors by their only one."""
    layer = 4 * (split(WIDTH, WIDTH, axis=1) + split(WIDTH, axis=0))
    layer += split(WIDTH, HIDDEN, axis=1) + split(HIDDEN, axis=0) + split(HIDDEN, WIDTH, axis=0) + split(WIDTH, axis=0)
    return layers * (layer + 4 * split(WIDTH, axis=0))


def test_bert_on_sixteen_chips():
    done = plan(BERT, '--topology=v5e:4x4', '--config.mesh.data=1', '--config.mesh.fsdp=-1', '--json')
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = json.loads(done.stdout)
    rows = json.loads(plan(BERT, '--json').stdout)['leaves']
    words = next(leaf['shape'][0] for leaf in rows if leaf['path'].endswith('/word/embedding'))
    assert words >= len(texts.WORDS)
    tables = [split(n, WIDTH, axis=1) for n in (words, 32, 2)]
    parameters = 4 * (sum(tables) + 2 * split(WIDTH, axis=0) + transformer(DEPTH) + split(WIDTH, CLASSES, axis=0) + CLASSES)
    assert found['parameters'] == parameters
    counts = 2 * 2 * 4  # of two groups: Adam's, and the schedule's
    assert found['optimizer'] == 2 * found['parameters'] + counts and found['ema'] == found['gradients'] == found['parameters']
    assert found['fits'] and found['peak'] > found['parameters'] + found['optimizer'] + found['ema']
    gathered = {name: size for name, size in found['sent'].items() if name.startswith('all-gather')}
    assert set(gathered) == {'all-gather over fsdp'} and found['flops'] > 6 * 2 * 32 * 12 * 4 * WIDTH * WIDTH / CHIPS
    assert found['seconds_at_least'] == max(found['bounds'].values()) and found['compile_seconds'] > 0


def test_a_probe_of_a_vit_sends_the_gradients_of_its_head():
    done = plan(VIT, '--topology=v5e:4x4', '--json')
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = json.loads(done.stdout)
    head = WIDTH * CLASSES + CLASSES
    assert found['optimizer'] == 2 * 4 * head + 2 * 4 and found['gradients'] == 4 * head and found['ema'] == 0
    assert set(found['sent']) == {'all-reduce over data'}
    ring = 2 * (CHIPS - 1) / CHIPS
    assert 4 * head * ring <= found['sent']['all-reduce over data'] <= (4 * head + 256) * ring


def test_meshes_are_ranked():
    """Of four chips: data, fsdp, and fsdp with tensor, each with three batch sizes."""
    done = plan(VIT.replace('2, 2\n', '1, 2\n', 1), '--topology=v5e:2x2', '--search')
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [re.split(r' {2,}', line.strip()) for line in done.stdout.splitlines() if line.startswith(('data ', 'fsdp '))]
    assert {row[0] for row in rows} == {'data 4', 'fsdp 4', 'fsdp 2 x tensor 2'} and {row[1] for row in rows} == {'32', '64', '128'}
    assert len(rows) == 9 and all(row[2] == 'yes' for row in rows)
    assert len([line for line in done.stderr.splitlines() if 'compiled in' in line]) == 9


def test_a_batch_that_does_not_divide_and_a_slice_that_is_none():
    done = plan(VIT, '--topology=v5e:4x4', '--config.batch_size=40')
    assert done.returncode == 2 and 'config.batch_size: 40 examples do not divide over 16 devices' in done.stderr
    done = plan(VIT, '--topology=v5e:3x5')
    assert done.returncode == 2 and 'jtl plan: --topology: ' in done.stderr.splitlines()[-1]
