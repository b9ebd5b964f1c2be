"""Several runs of one config, and the table of what came of them."""

import csv
import json
import re

import pytest
from loaded import load

sweep = load('sweep')
CONFIG = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(channels=(2,), dense=(), image_size=8)
    config.data.update(name='digits', shots=2)
    config.steps = 2
    return config

def sweep():
    for lr in (0.1, 0.2):
        yield {'optimizer.lr': lr, 'data.classes': ('0', '1')}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(CONFIG)
    return path


def test_commands_are_printed_for_a_launcher(config, tmp_path, capsys):
    assert sweep.main([f'--config={config}', f'--workdir={tmp_path / "runs"}', '--emit=launch/slurm.sh --', '--config.seed=3']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[0].startswith(f'launch/slurm.sh -- train --config={config} --config.seed=3 --config.optimizer.lr=0.1 ')
    assert "'--config.data.classes=('\"'\"'0'\"'\"', '\"'\"'1'\"'\"')'" in lines[0] and not (tmp_path / 'runs').exists()


@pytest.mark.slow
def test_runs_are_run_once_and_gathered(config, tmp_path, capfd):
    args = [f'--config={config}', f'--workdir={tmp_path / "runs"}']
    assert sweep.main(args) == 0
    told = capfd.readouterr().out
    results = sorted((tmp_path / 'runs').glob('*/result.json'))
    assert [path.parent.name.split(',')[0] for path in results] == ['optimizer.lr=0.1', 'optimizer.lr=0.2'] and 'test/accuracy' in told
    before = [path.stat().st_mtime_ns for path in results]
    assert sweep.main(args) == 0 and [path.stat().st_mtime_ns for path in results] == before
    with (tmp_path / 'runs' / 'sweep.csv').open() as file:
        rows = list(csv.DictReader(file))
    told = [json.loads(path.read_text())['metrics']['test/accuracy'] for path in results]
    assert [float(row['test/accuracy']) for row in rows] == told and [row['optimizer.lr'] for row in rows] == ['0.1', '0.2']


def test_a_run_that_fails_ends_the_sweep(config, tmp_path, capfd):
    assert sweep.main([f'--config={config}', f'--workdir={tmp_path / "runs"}', '--config.data.name=nothing']) == 2
    assert 'optimizer.lr=0.1' in capfd.readouterr().err and not (tmp_path / 'runs' / 'sweep.csv').exists()


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', r'there is no function sweep\(\) in it'),
        ('def sweep():\n    return [3]', r'sweep\(\) yields dicts from fields to values.*found 3'),
        ('def sweep():\n    return []', 'found nothing'),
        ('def sweep():\n    yield 1 / 0', 'ZeroDivisionError'),
        ('def sweep():\n    yield {"seed": 1}\n    yield {"seed": 1}', 'twice'),
    ],
)
def test_what_is_wrong_is_said(text, says, tmp_path, capsys):
    path = tmp_path / 'config.py'
    path.write_text(text)
    assert sweep.main([f'--config={path}', f'--workdir={tmp_path}', '--emit=']) == 2
    assert re.search(says, capsys.readouterr().err)
    assert sweep.main([f'--workdir={tmp_path}', '--gather']) == 2 and 'no run is finished there' in capsys.readouterr().err
