"""Every config that starts from weights of elsewhere, run for two steps from random ones on generated data of its own schema."""

import config_data
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
    before, state = config_data.trained(experiment)
    assert int(state.bad_step) == -1 and int(state.window.steps) == 2
    assert 0 < float(state.window.loss) / 2 < 10
    trained = {path for path, value in state.params.items() if not np.array_equal(value, before[path])}
    assert {path for path in experiment.plan.phases[0].labels if path.startswith('heads/main/output/')} <= trained
