"""Every config of text, run for two steps on generated texts from a tiny checkpoint of the layout that it starts from."""

import config_data
import config_texts
import numpy as np
import pytest

import jtl
from jtl.models.base import WORDS


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


def built(name, root):
    config = config_data.config_on(name, root, *config_texts.SMALL[name])
    config.steps, config.epochs = 12, 0.0  # shared by as many as five phases
    return jtl.build(config)


NEW = {  # what no checkpoint gives; of the others everything but the head
    'bert_reinit.py': ('backbone/layer_0/', 'backbone/pooler/'),
    'glove_sentiment.py': ('backbone/layer_0/',),
    'lstm_scratch.py': ('backbone/',),
    'ulmfit.py': ('backbone/',),
}
FROZEN = {  # what no parameter of the first phase is of
    'glove_sentiment.py': ('backbone/embeddings/',),
    'ulmfit.py': ('heads/main/',),
}


@pytest.mark.parametrize('name', config_texts.SMALL)
def test_two_steps(name, root):
    experiment = built(name, root)
    phase = experiment.plan.phases[0]
    assert {leaf.path for leaf in experiment.plan.leaves if leaf.status == 'new'} == {
        path for path in experiment.net.params if path.startswith(('heads/', *NEW.get(name, ())))
    }
    assert set(experiment.net.params) - set(phase.labels) == {
        path for path in experiment.net.params if path.startswith(FROZEN.get(name, 'none'))
    }
    before, state = config_data.trained(experiment)
    assert int(state.bad_step) == -1 and 0 < float(state.window.loss) / 2 < 10
    head = 'heads/main/output/' if phase.task == 'main' else 'heads/lm/'
    assert all(np.any(value != before[path]) for path, value in state.params.items() if path.startswith(head))
    assert WORDS not in state.params or np.any(state.params[WORDS] != before[WORDS])  # what is furthest from the loss
