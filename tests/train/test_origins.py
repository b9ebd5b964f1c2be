"""Where leaves come from: a size that the weights bring, and a run that goes on when its source is gone."""

import dataclasses
import json

import numpy as np
import pytest

import jtl
from jtl.checkpoint.runs import RunCheckpoints
from jtl.errors import UserError
from jtl.train.origins import loading_rules


def config(**changes):
    made = jtl.default_config()
    made.model.update(channels=(4,), dense=(8,), image_size=8)
    made.data.update(name='digits', classes=('3', '7'))
    made.tune.recipe, made.steps, made.batch_size, made.checkpoint_every = 'full', 6, 8, 2
    for name, value in changes.items():
        made[name] = value
    return made


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    where = tmp_path_factory.mktemp('source')
    jtl.run(config(), str(where), say=lambda line: None)
    return where


def test_a_run_brings_its_picture_size(source):
    made = config(init_from=str(source))
    made.model.image_size = 0  # the family's own would be 32, with another dense layer
    experiment = jtl.build(made)
    assert experiment.preprocessing.size == (8, 8)
    assert experiment.net.shapes['backbone/dense_0/dense/kernel'].shape == (4 * 4 * 4, 8)
    assert {leaf.status for leaf in experiment.plan.leaves if leaf.path.startswith('backbone/')} == {'loaded'}


def test_what_lies_beside_the_weights_comes_before_the_usual(source, tmp_path):
    (tmp_path / 'model.safetensors').write_bytes((source / 'bundle' / 'model.safetensors').read_bytes())
    usual = jtl.build(config(init_from=str(tmp_path))).preprocessing
    (tmp_path / 'preprocessor_config.json').write_text(json.dumps({'size': {'height': 8, 'width': 8}, 'resample': 0}))
    assert jtl.build(config(init_from=str(tmp_path))).preprocessing == dataclasses.replace(usual, interpolation='nearest') != usual


def test_an_unfinished_run_goes_on_without_its_source(source, tmp_path, monkeypatch):
    weights = tmp_path / 'weights.safetensors'
    weights.write_bytes((source / 'bundle' / 'model.safetensors').read_bytes())
    made = config(init_from=str(weights))
    whole = jtl.run(made, str(tmp_path / 'whole'), say=lambda line: None)

    save = RunCheckpoints.save

    def stops(self, step, leaves, meta):
        save(self, step, leaves, meta)
        if step == 4:
            self.wait()
            raise KeyboardInterrupt

    monkeypatch.setattr(RunCheckpoints, 'save', stops)
    with pytest.raises(KeyboardInterrupt):
        jtl.run(made, str(tmp_path / 'parts'), say=lambda line: None)
    monkeypatch.setattr(RunCheckpoints, 'save', save)
    weights.unlink()
    plan = json.loads((tmp_path / 'parts' / 'plan.json').read_text())
    parts = jtl.run(made, str(tmp_path / 'parts'), say=lambda line: None)
    assert parts['metrics'] == whole['metrics']
    assert json.loads((tmp_path / 'parts' / 'plan.json').read_text()) == plan
    assert (tmp_path / 'parts/bundle/model.safetensors').read_bytes() == (tmp_path / 'whole/bundle/model.safetensors').read_bytes()


def test_leaves_of_a_run_that_goes_on_are_never_initialised(source):
    plan = json.loads((source / 'plan.json').read_text())
    for leaf in plan['leaves']:
        leaf['status'] = 'loaded'
    with pytest.raises(ValueError, match='goes on'):
        jtl.load_leaves(jtl.build(config(), stored=plan))


def test_plan_of_another_model(source):
    plan = json.loads((source / 'plan.json').read_text())
    made = config()
    made.model.dense = (8, 8)
    with pytest.raises(UserError, match='other leaves'):
        jtl.build(made, stored=plan)


def test_init_from_by_subtree_and_rules(source):
    made = config(init_from={'backbone/conv_0': str(source / 'bundle')})
    leaves = {leaf.path: leaf.status for leaf in jtl.build(made).plan.leaves}
    assert leaves['backbone/conv_0/conv/kernel'] == 'loaded'
    assert leaves['backbone/dense_0/dense/kernel'] == 'new'
    rules = loading_rules([('backbone/a', 'x'), ('backbone/b', 'y', ('transpose', 1, 0)), ('backbone/c', None)])
    assert [rule.value for rule in rules] == ['x', ('y', ('transpose', 1, 0)), None]
    with pytest.raises(UserError, match='init_rules'):
        loading_rules(['backbone/.*'])


def test_a_new_head_takes_nothing_of_the_old_one(source):
    one = jtl.load_leaves(jtl.build(config(init_from=str(source))))
    two = jtl.load_leaves(jtl.build(config()))
    assert np.array_equal(one['heads/main/output/bias'], two['heads/main/output/bias'])
    assert not np.array_equal(one['backbone/conv_0/conv/kernel'], two['backbone/conv_0/conv/kernel'])


def test_config_preprocessing_stands_in_for_what_the_weights_want(source):
    made = config(init_from=str(source))
    with made.unlocked():
        made.preprocessing.update(mean=(10.0,), std=(20.0,), interpolation='bicubic')
    experiment = jtl.build(made)
    own = jtl.build(config(init_from=str(source))).preprocessing
    assert experiment.preprocessing == dataclasses.replace(own, mean=(10.0,), std=(20.0,), interpolation='bicubic')
    assert any('interpolation, mean, std as config.preprocessing says' in note for note in experiment.plan.notes)


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'means': (1.0,)}, "config.preprocessing.means: there is no such field. Did you mean 'mean'"),
        ({'size': 8}, 'is model.image_size'),
        ({'mean': 1.0}, 'config.preprocessing.mean: a tuple of numbers'),
        ({'scale': 'a'}, 'config.preprocessing.scale: a number'),
        ({'channels': 'RGB'}, 'config.preprocessing: RGB needs 3 values'),
        ({'interpolation': 'cubic'}, 'config.preprocessing: interpolation must be one of'),
    ],
)
def test_preprocessing_that_no_picture_can_be_prepared_with(fields, says):
    made = config()
    with made.unlocked():
        made.preprocessing.update(fields)
    with pytest.raises(UserError, match=says):
        jtl.build(made)


def test_preprocessing_from_the_command_line():
    from jtl.config import override

    made = override(config(), ['--config.preprocessing.mean=(1.0,)', '--config.preprocessing.interpolation=nearest'])
    assert made.preprocessing.to_dict() == {'mean': (1.0,), 'interpolation': 'nearest'}
