"""One file outside the package adds a backbone, a task and a data set; every command works with them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from jtl.cli.main import main

EXTENSION = '''
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jtl.data.arrays import from_arrays
from jtl.models.base import EVAL, Backbone, Model, Stage
from jtl.models.preprocessing import Preprocessing
from jtl.tasks import build_task


class Flat(nn.Module):
    width: int

    @nn.compact
    def __call__(self, features, mode=EVAL):
        x = features['image'] if 'image' in features else features['pooled']
        return {'pooled': nn.tanh(nn.Dense(self.width, name='dense')(x.reshape(len(x), -1)))}


def net(*, width=6):
    stages = tuple(Stage(f'layer_{k}', partial(Flat, width)) for k in range(2))
    return Model(
        backbone=Backbone(stages=stages),
        inputs=lambda size: {'image': jax.ShapeDtypeStruct((*size, 1), jnp.float32)},
        preprocessing=Preprocessing(size=(4, 4), mean=(127.5,), std=(127.5,), channels='L'),
    )


def corners(section):
    """Is the light on the left or on the right?"""
    random = np.random.default_rng(0)
    def some(n):
        labels = np.arange(n, dtype=np.int32) % 2
        images = random.integers(0, 60, (n, 4, 4, 1))
        for image, label in zip(images, labels):
            image[:, 2 * label : 2 * label + 2] += 150
        return images.astype(np.uint8), labels
    parts = {name: some(n) for name, n in (('train', 64), ('validation', 16), ('test', 32))}
    return from_arrays({k: v[0] for k, v in parts.items()}, {k: v[1] for k, v in parts.items()}, ('left', 'right'))


def sides(*, labels, smoothing=0.1):
    return build_task({'name': 'classification', 'label_smoothing': smoothing, 'zero_init': False}, labels)
'''

CONFIG = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.name = '{file}:net'
    config.model.width = 5
    config.task.name = '{file}:sides'
    config.data.name = '{file}:corners'
    config.tune.recipe = 'lp_ft'
    config.optimizer.lr = 0.02
    config.steps = 40
    config.batch_size = 16
    config.checkpoint_every = 10
    return config
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / 'mine.py').write_text(EXTENSION)
    (tmp_path / 'config.py').write_text(CONFIG.format(file=tmp_path / 'mine.py'))
    return tmp_path


def test_plan_train_evaluate_predict(place, capsys):
    config = f'--config={place / "config.py"}'
    assert main(['plan', config, '--json']) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan['stages'][:2] == ['layer_0', 'layer_1']
    assert {leaf['path'] for leaf in plan['leaves'] if leaf['groups'] == ['frozen', 'backbone']} == {
        f'backbone/layer_{k}/dense/{name}' for k in range(2) for name in ('kernel', 'bias')
    }

    assert main(['train', config, f'--workdir={place / "run"}']) == 0
    result = json.loads((place / 'run' / 'result.json').read_text())
    assert result['metrics']['test/accuracy'] > 0.95
    assert (place / 'run' / 'report.html').exists()

    from PIL import Image

    picture = np.full((4, 4), 20, np.uint8)
    picture[:, 2:] = 190
    Image.fromarray(picture).save(place / 'right.png')
    capsys.readouterr()
    assert main(['predict', str(place / 'run' / 'bundle'), str(place / 'right.png')]) == 0
    assert capsys.readouterr().out.split('\t')[1] == 'right'

    # the finished run is a checkpoint like any other, with its head or with a new one
    assert main(['plan', config, f'--config.init_from={place / "run"}', '--config.init_head=keep', '--json']) == 0
    assert {leaf['status'] for leaf in json.loads(capsys.readouterr().out)['leaves']} == {'loaded'}
    assert main(['plan', config, f'--config.init_from={place / "run"}', '--json']) == 0
    fresh = {leaf['path'] for leaf in json.loads(capsys.readouterr().out)['leaves'] if leaf['status'] == 'new'}
    assert fresh == {'heads/main/output/kernel', 'heads/main/output/bias'}


def test_resume_is_exact(place, capsys, monkeypatch):
    config = f'--config={place / "config.py"}'
    assert main(['train', config, f'--workdir={place / "whole"}']) == 0

    from jtl.checkpoint.runs import RunCheckpoints

    save, calls = RunCheckpoints.save, []

    def stops(self, step, leaves, meta):
        save(self, step, leaves, meta)
        calls.append(step)
        if step == 22:  # ten steps into the second phase
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(RunCheckpoints, 'save', stops)
    assert main(['train', config, f'--workdir={place / "parts"}']) == 130
    monkeypatch.setattr(RunCheckpoints, 'save', save)
    assert main(['train', config, f'--workdir={place / "parts"}']) == 0
    assert 'Resumed at step 22' in capsys.readouterr().err
    one, two = (load_file(place / run / 'bundle' / 'model.safetensors') for run in ('whole', 'parts'))
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[path], two[path]) for path in one)


def test_compare_reuses_what_is_finished(place, capsys):
    argv = ['compare', f'--config={place / "config.py"}', '--recipes=scratch,probe', '--seeds=2', f'--workdir={place / "both"}']
    assert main(argv) == 0
    comparison = json.loads((place / 'both' / 'comparison.json').read_text())
    assert set(comparison['recipes']) == {'scratch', 'probe'}
    values = comparison['recipes']['scratch']['test/accuracy']['values']
    assert len(values) == 2
    assert comparison['recipes']['scratch']['test/accuracy']['mean'] == pytest.approx(sum(values) / 2)
    assert comparison['recipes']['probe']['trainable_parameters'] == 5 * 2 + 2
    before = (place / 'both' / 'probe' / 'seed_1' / 'result.json').stat().st_mtime_ns
    capsys.readouterr()
    assert main(argv) == 0
    assert capsys.readouterr().out.count('finished before') == 4
    assert (place / 'both' / 'probe' / 'seed_1' / 'result.json').stat().st_mtime_ns == before
