"""`jtl probe`, and the same evaluators at the end of a run, on scikit-learn's digits."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jtl.cli.main import main
from jtl.data import load_data

CONFIG = """
from jtl import default_config

def get_config():
    config = default_config()
    config.model.update(name='convnet', image_size=8, channels=(12,), dense=())
    config.data.update(name='arrays', root={root!r})
    config.task.pool = 'flatten'
    config.batch_size = 64
    return config
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('probe')
    pixels, digits = load_digits(return_X_y=True)
    pixels = np.rint(pixels.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    parts = {'train': slice(0, 120), 'validation': slice(120, 200), 'test': slice(200, 350)}
    arrays = {f'{name}_images': pixels[rows] for name, rows in parts.items()} | {
        f'{name}_labels': digits[rows] for name, rows in parts.items()
    }
    np.savez(folder / 'digits.npz', **arrays)
    (folder / 'config.py').write_text(CONFIG.format(root=str(folder / 'digits.npz')))
    return folder


@pytest.fixture
def jtl(folder, capsys, monkeypatch):
    """Runs a command; its exit status, and what it wrote."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(folder / 'cache'))
    monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)

    def run(*argv):
        code = main([str(a) for a in argv])
        written = capsys.readouterr()
        return code, written.out, written.err

    return run


def scores(features, data, l2):
    """What scikit-learn says of kept features."""
    x = {name: load_file(path)['features'].astype(np.float64) for name, path in features.items()}
    y = {name: split.targets for name, split in data.splits.items()}
    near = KNeighborsClassifier(20, metric='cosine', algorithm='brute', weights=lambda d: np.exp((1 - d) / 0.07)).fit(
        x['train'], y['train']
    )
    linear = make_pipeline(StandardScaler(), RidgeClassifier(l2)).fit(x['train'], y['train'])
    found = {f'{name}/knn_accuracy': near.score(x[name], y[name]) for name in ('validation', 'test')}
    return found | {f'{name}/linear_accuracy': linear.score(x[name], y[name]) for name in y}


def test_probe_of_a_config_and_of_a_run_and_a_run_with_evaluators(folder, jtl, monkeypatch):
    config = f'--config={folder / "config.py"}'
    code, out, err = jtl('probe', config, '--json')
    found = json.loads(out)
    assert code == 0 and 'init_from is empty: every parameter starts new' in err
    kept = folder / 'cache' / 'jtl' / 'features'
    data = load_data({'name': 'arrays', 'root': str(folder / 'digits.npz')})
    assert found['examples'] == {'train': 120, 'validation': 80, 'test': 150}

    def files(directory):
        return {path.name.partition('-')[0]: path for path in directory.iterdir()}

    for name, value in scores(files(kept), data, found['chosen']['linear']['l2']).items():
        assert found['metrics'][name] == pytest.approx(value)
    assert set(found['baseline']) == set(found['metrics'])
    assert found['baseline']['test/knn_accuracy'] < 0.2 and found['metrics']['test/knn_accuracy'] > 0.5

    code, out, _ = jtl('probe', config, '--evaluators=knn', '--config.probe.k=1')
    assert code == 0 and out.count('read from') == 3 and 'knn: 1 nearest of 120' in out
    assert [line.split()[0] for line in out.splitlines()[-4:]] == ['knn'] * 4 and 'linear' not in out

    run, records = folder / 'run', []
    monkeypatch.setattr('jtl.train.run.run_report', lambda record: records.append(record) or 'not drawn here: that takes seconds')
    code, out, err = jtl('train', config, f'--workdir={run}', '--config.steps=3', '--config.evaluators=("knn", "linear")')
    assert code == 0, err
    result = json.loads((run / 'result.json').read_text())
    l2 = result['evaluators']['linear']['l2']
    for name, value in scores(files(run / 'features'), data, l2).items():
        assert result['metrics'][name] == pytest.approx(value)
        assert re.search(rf'^{name} +{value:.4f} .*constant guess 0', out, re.MULTILINE)
    assert result['baseline']['test/linear_accuracy'] == result['baseline']['test/accuracy']
    told = {split.name: split for split in records[0].splits}
    assert told['test'].metrics['knn_accuracy'] == result['metrics']['test/knn_accuracy'] and 'knn_accuracy' not in told['train'].metrics
    assert told['test'].baseline['knn_accuracy'] == result['baseline']['test/knn_accuracy']
    bundle = json.loads((run / 'bundle' / 'bundle.json').read_text())
    assert bundle['metrics']['test/linear_accuracy'] == result['metrics']['test/linear_accuracy']

    code, out, err = jtl('probe', run, '--json')
    assert code == 0 and err.count('read from') == 3, 'of a run: what its own evaluators kept'
    probed = json.loads(out)
    assert {name: result['metrics'][name] for name in probed['metrics']} == probed['metrics']
    code, out, err = jtl('probe', run / 'bundle', '--json', '--config.data.classes=("0", "1", "2")', '--config.probe.k=5')
    assert code == 0 and err.count('computed in') == 3 and json.loads(out)['examples']['train'] < 50
    code, out, _ = jtl('probe', run, '--stage=conv_0', f'--cache={folder / "own"}')
    assert code == 0 and 'Features of test: 150 x 192, computed' in out and len(list((folder / 'own').iterdir())) == 3


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ([], 'give a config, --config=FILE, or the place of one finished run or bundle'),
        (['RUN', 'RUN'], 'the place of one finished run or bundle'),
        (['RUN', '--config=CONFIG'], 'Unknown argument'),
        (['RUN'], 'there is no bundle'),
        (['--config=CONFIG', '--evaluators=knn,lineal'], "there is no 'lineal'. Did you mean 'linear'"),
        (['--config=CONFIG', '--stage=conv_9'], "has no stage 'conv_9'. Did you mean 'conv_0'"),
        (['--config=CONFIG', '--config.probe.k=121'], '121 neighbours, but train has 120 examples'),
        (['--config=CONFIG', '--config.probe.metrik=cosine'], "has no field 'metrik'. Did you mean 'metric'"),
        (['--config=CONFIG', '--config.probe.temperature=0.0'], 'config.probe.temperature'),
        (['--config=CONFIG', '--config.data.classes=("0", "x")'], "'x'"),
    ],
)
def test_wrong_use_is_one_message(arguments, message, folder, jtl, tmp_path):
    given = [a.replace('CONFIG', str(folder / 'config.py')).replace('RUN', str(tmp_path)) for a in arguments]
    code, _, err = jtl('probe', *given)
    assert code == 2 and message in err and err.startswith('jtl probe: ') and 'Traceback' not in err


def test_a_run_whose_evaluators_cannot_work_does_not_begin(folder, jtl):
    options = ['--config.steps=3', '--config.evaluators=("knn",)', '--config.probe.k=500']
    code, _, err = jtl('train', f'--config={folder / "config.py"}', f'--workdir={folder / "never"}', *options)
    assert code == 2 and '500 neighbours, but train has 120 examples' in err and not (folder / 'never').exists()
