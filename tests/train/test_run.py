"""A run from its config to its report, and the command around it: what is written, what is refused, what is said."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jtl.cli.main import main

CONFIG = """
from jtl import default_config


def get_config():
    config = default_config()
    config.model.update(name='convnet', image_size=8, channels=(2,), dense=())
    config.data.update(name='arrays', root={data!r})
    config.tune.recipe = 'probe'
    config.optimizer.update(name='sgd', lr=0.1, momentum=0.9, schedule='constant')
    config.steps, config.batch_size, config.log_every, config.checkpoint_every = 4, 8, 2, 2
    return config
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    rng = np.random.default_rng(0)
    sizes = {'train': 24, 'validation': 12, 'test': 9}
    arrays = {f'{name}_images': rng.integers(0, 256, (n, 8, 8), np.uint8) for name, n in sizes.items()}
    np.savez(folder / 'data.npz', **arrays, **{f'{name}_labels': np.arange(n) % 3 for name, n in sizes.items()})
    (folder / 'config.py').write_text(CONFIG.format(data=str(folder / 'data.npz')))
    return folder


@pytest.fixture
def jtl(folder, capsys, monkeypatch):
    """Runs `jtl train`; its exit status, and what it wrote."""
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(folder / 'cache'))

    def train(name, *more):
        code = main(['train', f'--config={folder / "config.py"}', f'--workdir={folder / name}', *more])
        written = capsys.readouterr()
        return code, written.out, written.err

    return train


def content(root):
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(root).rglob('*')) if p.is_file()}


def test_a_run_its_extension_and_what_a_finished_one_says(folder, jtl):
    code, out, _ = jtl('run')
    root = folder / 'run'
    result = json.loads((root / 'result.json').read_text())
    assert code == 0 and result['steps'] == 4 and f'{result["metrics"]["test/accuracy"]:.4f}' in out
    assert {name.split('/')[0] for name in result['metrics']} == {'train', 'validation', 'test'}
    assert result['frozen_checksum']['before'] == result['frozen_checksum']['after'] != ''
    assert result['parameters']['trainable'] + result['parameters']['frozen'] == result['parameters']['total']
    assert {p.name for p in root.iterdir()} == {
        'config.json', 'plan.json', 'metrics.jsonl', 'result.json', 'report.html', 'bundle', 'checkpoints', 'tensorboard'
    }  # fmt: skip

    before = content(root)
    code, out, _ = jtl('run')
    assert code == 0 and 'this run is finished. Go on with --extend=STEPS' in out and content(root) == before

    code, out, err = jtl('run', '--config.optimizer.lr=0.2')
    assert code == 2 and content(root) == before
    assert re.fullmatch(
        r'jtl train: .*/run is the run directory of another config:\n  config.optimizer.lr: 0.1 in the run, 0.2 now\nGive .*\n', err
    )

    for steps in (7, 10):
        code, out, err = jtl('run', '--extend=3')
        extended = json.loads((root / 'result.json').read_text())
        assert code == 0 and extended['steps'] == steps and f'\n{steps} steps, ' in out
    rows = [json.loads(line) for line in (root / 'metrics.jsonl').read_text().splitlines()]
    assert [row['step'] for row in rows if 'train/loss' in row] == [2, 4, 6, 7, 9, 10]
    after = content(root)
    assert all(before[str(root / name)] != after[str(root / name)] for name in ('report.html', 'bundle/model.safetensors', 'result.json'))
    frozen = [path for path in load_file(root / 'bundle' / 'model.safetensors') if path.startswith('backbone/')]
    assert frozen and extended['frozen_checksum'] == result['frozen_checksum']
    code, out, _ = jtl('run')  # without saying --extend again
    assert code == 0 and 'is finished' in out


def test_a_run_that_blows_up_says_where_and_says_it_again(folder, jtl):
    said = []
    for _ in range(2):
        code, _, err = jtl('wild', '--config.optimizer.lr=1e30', '--config.tune.recipe=full')
        assert code == 2 and 'Traceback' not in err and not (folder / 'wild' / 'result.json').exists()
        said.append(err[err.index('jtl train: ') :])
    assert said[0] == said[1]
    assert re.match(r'jtl train: The loss, a gradient or an update is not finite at step \d \(phase full, step \d\); ', said[0])


@pytest.mark.parametrize(('steps', 'message'), [('0', 'a number of steps of at least 1'), ('3', 'there is no run in .*nothing yet')])
def test_an_extension_of_nothing(jtl, steps, message):
    code, _, err = jtl('nothing', f'--extend={steps}')
    assert code == 2 and re.search(message, err)
