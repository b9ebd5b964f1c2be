"""The commands as a user types them: what wrong use says, and that nothing heavy is imported to say it."""

import json
import subprocess
import sys

import pytest

from jtl.cli.main import COMMANDS, main

TINY = """
from jtl import default_config

def get_config(arg=None):
    config = default_config()
    config.model.channels = (4,)
    config.model.dense = ()
    config.model.image_size = 8
    config.data.name = 'digits'
    config.data.classes = ('0', '1')
    config.tune.recipe = arg or 'full'
    config.steps = 4
    config.batch_size = 8
    config.tta = ('flip',)
    return config
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'tiny.py'
    path.write_text(TINY)
    return path


def fails(capsys, *argv):
    """The message of a command that must exit with 2 and print no traceback."""
    assert main([str(a) for a in argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f'jtl {argv[0]}: ')
    assert 'Traceback' not in error
    return error


def python(code):
    return subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout


def test_help_imports_no_jax_and_names_every_command():
    out = python(
        'import sys\nfrom jtl.cli.main import main\n'
        'try: main(["--help"])\nexcept SystemExit: pass\n'
        'print("heavy:", [m for m in ("jax", "numpy", "flax", "ml_collections") if m in sys.modules])'
    )
    assert 'heavy: []' in out
    assert all(command in out for command in COMMANDS)


def test_import_is_light_and_foreign_frameworks_stay_out():
    out = python(
        'import time; start = time.process_time()\nimport sys, jtl\n'
        'print(time.process_time() - start, [m for m in ("jax", "torch", "tensorflow") if m in sys.modules])'
    )
    seconds, _, loaded = out.partition(' ')
    assert float(seconds) < 1.5
    assert loaded.strip() == '[]'


def test_every_public_name_resolves_without_torch_or_tensorflow():
    out = python('import sys, jtl\n[getattr(jtl, n) for n in jtl.__all__]\nprint([m for m in ("torch", "tensorflow") if m in sys.modules])')
    assert out.strip() == '[]'


@pytest.mark.parametrize('command', COMMANDS)
def test_help_of_each_command(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, '--help'])
    assert stop.value.code == 0
    assert command in capsys.readouterr().out


def test_unknown_field_names_the_nearest(config, tmp_path, capsys):
    error = fails(capsys, 'train', f'--config={config}', '--config.optimizer.learning=1', f'--workdir={tmp_path / "run"}')
    assert "config.optimizer has no field 'learning'" in error
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('overrides', 'said'),
    [
        (['--config.model.name=convnett'], "there is no model 'convnett'. Did you mean 'convnet'"),
        (['--config.data.name=folder', '--config.data.root=/no/such/folder'], '/no/such/folder'),
        (['--config.task.name=clasification'], "Did you mean 'classification'"),
        (['--config.tune.recipe=prob'], "Did you mean 'probe'"),
        (['--config.tune.recipe=probe', '--config.tune.last.n=2'], "a knob of the recipe 'last'"),
        (['--config.init_from=/no/such/file.pth'], '/no/such/file.pth'),
        (['--config.init_from=package:no_such_package_at_all'], 'pip install no-such-package-at-all'),
        (['--config.decay=(("backbone/conv_7/.*", 0.0),)'], 'backbone/conv_7/.*'),
        (['--config.batch_size=0'], 'config.batch_size'),
        (['--config.steps=0'], 'config.steps'),
        (['--config.mesh.data=3'], 'config.mesh'),
        (['--config.tta=("flop",)'], "config.tta: there is no view 'flop'. Did you mean 'flip'"),
        (['--config.data.classes=("0", "x")'], "'x'"),
        (['--nonsense=1'], '--nonsense'),
    ],
)
def test_wrong_use_is_one_message(overrides, said, config, tmp_path, capsys):
    error = fails(capsys, 'train', f'--config={config}', *overrides, f'--workdir={tmp_path / "run"}')
    assert said in error
    assert not (tmp_path / 'run').exists(), 'nothing may be left behind'


def test_missing_config_file(tmp_path, capsys):
    assert 'there is no file' in fails(capsys, 'plan', f'--config={tmp_path / "no.py"}')


def test_error_in_the_config_file_names_the_line(tmp_path, capsys):
    path = tmp_path / 'broken.py'
    path.write_text('def get_config():\n    return 1 / 0\n')
    assert 'line 2: ZeroDivisionError' in fails(capsys, 'plan', f'--config={path}')


def test_argument_of_a_config(config, capsys):
    assert main(['plan', f'--config={config}:probe', '--json']) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [phase['name'] for phase in plan['phases']] == ['probe']


def test_train_evaluate_predict_and_their_errors(config, tmp_path, capsys):
    run = tmp_path / 'run'
    assert main(['train', f'--config={config}', f'--workdir={run}']) == 0
    capsys.readouterr()
    result = json.loads((run / 'result.json').read_text())

    assert main(['evaluate', str(run), '--json']) == 0
    metrics = json.loads(capsys.readouterr().out)
    for name in ('test/accuracy', 'validation/accuracy', 'test/nll', 'test/tta_accuracy', 'validation/tta_nll'):
        assert metrics[name] == pytest.approx(result['metrics'][name], abs=1e-6)
    assert result['metrics']['test/tta_nll'] != result['metrics']['test/nll']
    assert result['baseline']['test/tta_accuracy'] == result['baseline']['test/accuracy']
    assert 'train/tta_accuracy' not in result['metrics'] and 'tta_accuracy' not in (run / 'metrics.jsonl').read_text()
    assert 'tta_accuracy' in (run / 'report.html').read_text()
    assert main(['evaluate', str(run), '--tta=', '--json']) == 0
    assert json.loads(capsys.readouterr().out).keys() == {name for name in metrics if '/tta_' not in name}
    assert "--tta: there is no view 'flop'. Did you mean 'flip'" in fails(capsys, 'evaluate', run, '--tta=flip,flop')

    from PIL import Image

    from jtl.data import load_data

    data = load_data({'name': 'digits', 'classes': ('0', '1')})
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    for k in range(3):
        Image.fromarray(data.splits['test'].examples[k]['image'][..., 0]).save(pictures / f'{k}.png')
    assert main(['predict', str(run), str(pictures)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split('\t')[0].rpartition('/')[2] for line in lines] == ['0.png', '1.png', '2.png']
    assert all(line.split('\t')[1] in ('0', '1') and 0.5 <= float(line.split('\t')[2]) <= 1 for line in lines)
    assert main(['predict', str(run / 'bundle'), str(pictures / '0.png'), '--json']) == 0
    said = json.loads(capsys.readouterr().out)
    assert said['label'] == lines[0].split('\t')[1]
    assert said['probability'] == pytest.approx(float(lines[0].split('\t')[2]), abs=1e-4)
    probabilities = {}
    for views in ('', 'flip'):
        assert main(['predict', str(run), str(pictures / '0.png'), '--json', f'--tta={views}']) == 0
        probabilities[views] = {x['label']: x['probability'] for x in json.loads(capsys.readouterr().out)['top']}
    Image.fromarray(data.splits['test'].examples[0]['image'][:, ::-1, 0]).save(tmp_path / 'mirrored.png')
    assert main(['predict', str(run), str(tmp_path / 'mirrored.png'), '--json']) == 0
    mirrored = {x['label']: x['probability'] for x in json.loads(capsys.readouterr().out)['top']}
    for label, p in probabilities['flip'].items():
        assert p == pytest.approx((probabilities[''][label] + mirrored[label]) / 2, abs=1e-5)

    (pictures / 'broken.png').write_bytes(b'no picture')
    assert main(['predict', str(run), str(pictures)]) == 2
    out = capsys.readouterr()
    assert 'broken.png' in out.err
    assert len(out.out.splitlines()) == 3
    assert 'no_such' in fails(capsys, 'predict', run, tmp_path / 'no_such.png')
    assert 'no bundle' in fails(capsys, 'predict', tmp_path, pictures)
    assert "there is no split 'tset'. Did you mean 'test'" in fails(capsys, 'evaluate', run, '--split=tset')
    assert 'classes' in fails(capsys, 'evaluate', run, '--config.data.classes=("2", "3")')

    other = fails(capsys, 'train', f'--config={config}', '--config.steps=5', f'--workdir={run}')
    assert 'config.steps: 4 in the run, 5 now' in other
