"""Every config that starts from weights of elsewhere, run for two steps from random ones on generated data of its own schema."""

import config_data
import jax
import numpy as np
import pytest

import jtl


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.mark.parametrize('name', config_data.SMALL)
def test_two_steps(name, root):
    config = config_data.config_on(name, root, *config_data.SMALL[name])
    config.steps, config.epochs = 2, 0.0
    experiment = jtl.build(config)
    phase = experiment.plan.phases[0]
    random = np.random.default_rng(0)  # compiling the initialisers would take longer than all else
    leaves = {
        path: jax.numpy.asarray(random.normal(scale=0.1, size=spec.shape), spec.dtype) for path, spec in experiment.net.params.items()
    }
    leaves |= {path: jax.numpy.full(spec.shape, path.endswith('/var'), spec.dtype) for path, spec in experiment.net.stats.items()}
    frozen, state = jtl.start(experiment, leaves)
    before = jax.device_get(state.params)
    step, batches = jtl.training_step(experiment), jtl.batches(experiment)
    for _ in range(2):
        state = step(frozen, state, next(batches))
    assert int(state.bad_step) == -1 and int(state.window.steps) == 2
    assert 0 < float(state.window.loss) / 2 < 10
    trained = {path for path, value in state.params.items() if not np.array_equal(value, before[path])}
    assert {path for path in phase.labels if path.startswith('heads/main/output/')} <= trained
