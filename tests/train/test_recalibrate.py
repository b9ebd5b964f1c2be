"""Statistics computed anew: by hand, for a family with other momenta, and in a run that ends with averages."""

import dataclasses
import json
from itertools import islice

import jax
import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file
from test_step import forward

from jtl.cli.main import main
from jtl.errors import UserError
from jtl.keys import derive
from jtl.models.efficientnet_lite import efficientnet_lite0
from jtl.train.evaluation import training_batches
from jtl.train.parts import order_seed
from jtl.train.recalibrate import recalibration, recalibration_text
from jtl.train.step import training_inputs


def host_batches(e, count):
    return [tiny.numpy(batch) for batch in islice(training_batches(e, order_seed(e.config['seed'], 'recalibrate'), 0), count)]


@pytest.mark.parametrize(('momentum', 'accumulate'), [(0.99, 1), (0.3, 2)])
def test_means_of_the_statistics_of_each_batch_by_hand(momentum, accumulate):
    e = tiny.experiment({'batch_norm': True, 'bn_momentum': momentum}, recalibrate=3, accumulate=accumulate)
    leaves = tiny.leaves_of(e)
    found = recalibration(e, 0)(leaves)
    seen = []
    for host in host_batches(e, 3):
        for k in range(accumulate):
            part = {name: value[k::accumulate] for name, value in host.items()}
            seen.append(forward(tiny.numpy(leaves), part, (True, True))[1])
    assert len(seen) == 3 * accumulate and set(seen[0]) == set(e.net.stats)
    for path in e.net.stats:
        np.testing.assert_allclose(found[path], np.mean([s[path] for s in seen], axis=0), rtol=2e-5, atol=1e-6, err_msg=path)
    assert all(found[path] is leaves[path] for path in e.net.params)
    again = recalibration(e, 0)(leaves)
    assert all(np.array_equal(again[path], found[path]) for path in found)


def test_what_the_phase_does_not_update_stays():
    e = tiny.experiment(
        {'batch_norm': True}, recalibrate=2, tune=tiny.recipe('last'), batch_norm=(('backbone/conv_1', 'batch'),), augment={'flip': True}
    )
    leaves = tiny.leaves_of(e)
    found = recalibration(e, 0)(leaves)
    assert {path for path in found if found[path] is not leaves[path]} == {'backbone/conv_1/bn/mean', 'backbone/conv_1/bn/var'}
    assert (
        recalibration_text(e, 0) == 'Before each evaluation the BatchNorm statistics of 1 stages are computed anew over 2 training batches.'
    )
    probe = tiny.experiment({'batch_norm': True}, recalibrate=2, tune=tiny.recipe('probe'))
    assert recalibration(probe, 0)(leaves) == dict(leaves) and 'updates no BatchNorm statistics' in recalibration_text(probe, 0)
    none = tiny.experiment({'batch_norm': True})
    assert recalibration(none, 0)(leaves) == dict(leaves) and recalibration_text(none, 0) == ''


def test_a_momentum_of_one_is_refused():
    e = tiny.experiment({'batch_norm': True, 'bn_momentum': 1.0}, recalibrate=1)
    with pytest.raises(UserError, match=r'config.recalibrate: backbone/conv_0/bn/mean keeps 1 of its old value'):
        recalibration(e, 0)(tiny.leaves_of(e))


def test_another_family_with_augmentation_and_stochastic_depth():
    """Against the same net built with momentum 0, which keeps nothing: what it saw is what it says."""
    e = tiny.experiment(tiny.LITE, recalibrate=2, batch_size=8, augment={'flip': True})
    leaves = tiny.leaves_of(e)
    found = recalibration(e, 0)(leaves)
    zero = efficientnet_lite0(bn_momentum=0.0, stochastic_depth=0.2).backbone.stages[:3]
    net = dataclasses.replace(e.net, backbone=e.net.backbone.clone(stages=(*zero, *e.net.backbone.stages[3:])))

    @jax.jit
    def seen(host, k):
        key = derive(jax.random.key(0), 'recalibrate', k)
        inputs, _ = training_inputs(host, key, e.prepare, None)
        return net.apply(leaves, inputs, modes=e.plan.phases[0].modes, key=derive(key, 'dropout'), heads=())[1]

    each = [seen(host, k) for k, host in enumerate(host_batches(e, 2))]
    for path in e.net.stats:
        np.testing.assert_allclose(found[path], (each[0][path] + each[1][path]) / 2, rtol=1e-5, atol=1e-6, err_msg=path)


CONFIG = """
from jtl import default_config


def get_config():
    config = default_config()
    config.model.update(name='convnet', image_size=8, channels=(2,), dense=(), batch_norm=True)
    config.data.update(name='arrays', root={data!r})
    config.optimizer.update(name='sgd', lr=0.1, schedule='constant', ema=0.8)
    config.steps, config.batch_size, config.eval_every, config.recalibrate, config.select = 4, 8, 2, 2, {select!r}
    return config
"""


@pytest.mark.parametrize('select', ['last', 'best'])
def test_a_run_ends_with_statistics_of_its_averages(select, tmp_path, capsys, monkeypatch):
    import jtl

    rng = np.random.default_rng(0)
    arrays = {f'{name}_images': rng.integers(0, 256, (n, 8, 8), np.uint8) for name, n in (('train', 24), ('validation', 12))}
    np.savez(tmp_path / 'data.npz', **arrays, train_labels=np.arange(24) % 3, validation_labels=np.arange(12) % 3)
    (tmp_path / 'config.py').write_text(CONFIG.format(data=str(tmp_path / 'data.npz'), select=select))
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', str(tmp_path.parent / 'cache'))
    assert main(['train', f'--config={tmp_path / "config.py"}', f'--workdir={tmp_path / "run"}', '--config.data.test=0.0']) == 0
    assert 'statistics of 1 stages are computed anew over 2 training batches' in capsys.readouterr().err

    kept = load_file(tmp_path / 'run' / 'bundle' / 'model.safetensors')
    config = json.loads((tmp_path / 'run' / 'config.json').read_text())
    e = jtl.build(config)
    wrong = {path: np.full_like(value, 7) if path in e.net.stats else value for path, value in kept.items()}
    anew = recalibration(e, 0)({path: jax.numpy.asarray(value) for path, value in wrong.items()})
    for path in e.net.stats:
        np.testing.assert_array_equal(anew[path], kept[path])
    # What validation said in training is what the run ends with.
    rows = [json.loads(line) for line in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
    said = {row['step']: row['validation/loss'] for row in rows if 'validation/loss' in row}
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    step = result['best']['step'] if select == 'best' else 4
    assert result['metrics']['validation/loss'] == said[step]
