import dataclasses

import jax
import numpy as np
import pytest
import tiny

from jtl.errors import UserError
from jtl.models.net import Net
from jtl.train.setup import build, checked, load_leaves


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A checkpoint of the tiny net under jtl's own paths, and its values."""
    leaves = tiny.numpy(tiny.leaves_of(tiny.experiment({'batch_norm': True})))
    path = tmp_path_factory.mktemp('checkpoint') / 'source.npz'
    np.savez(path, **leaves)
    return str(path), leaves


def pretrained(path, **fields):
    return tiny.experiment({'batch_norm': True}, init_from=path, **fields)


def test_building_allocates_nothing(saved):
    before = len(jax.live_arrays())
    e = pretrained(saved[0])
    assert len(jax.live_arrays()) == before
    assert e.plan.totals()['loaded'] == len(e.net.shapes) - 2


def test_every_field_has_its_default_and_the_given_config_stays():
    given = {'steps': 3, 'optimizer': {'lr': 0.5}, 'model': {'name': 'convnet', 'channels': (4,)}}
    plain = checked(given)
    assert given == {'steps': 3, 'optimizer': {'lr': 0.5}, 'model': {'name': 'convnet', 'channels': (4,)}}
    assert (plain['optimizer']['lr'], plain['optimizer']['b1'], plain['seed'], plain['mesh']['data']) == (0.5, 0.9, 0, -1)
    assert plain['tune']['gradual']['chunks'] == 4 and plain['data']['name'] == 'digits'


@pytest.mark.parametrize(('epochs', 'steps'), [(1.0, 4), (2.0, 8), (0.6, 3), (0.001, 1)])
def test_epochs_are_passes_over_the_training_split(epochs, steps):
    e = tiny.experiment(steps=0, epochs=epochs)
    size = len(e.data.splits['train'])  # 64, less what validation and test take
    assert sum(p.steps for p in e.plan.phases) == max(1, int(np.ceil(epochs * size / 16)))


def test_extensions_repeat_the_last_phase():
    e = tiny.experiment(tune=tiny.recipe('lp_ft'), extend=(5, 2))
    assert [(p.name, p.steps) for p in e.plan.phases] == [('probe', 6), ('full', 14), ('extend_1', 5), ('extend_2', 2)]
    assert e.plan.phases[3].labels == e.plan.phases[1].labels  # and so Adam's counts go on


def test_what_is_loaded_is_never_initialised(saved, monkeypatch):
    path, values = saved
    asked = []
    init = Net.init
    monkeypatch.setattr(Net, 'init', lambda net, key, paths: (asked.extend(paths), init(net, key, paths))[1])
    e = pretrained(path)
    leaves = load_leaves(e)
    head = [p for p in e.net.shapes if p.startswith('heads/')]
    assert asked == head and list(leaves) == list(e.net.shapes)
    for p in e.net.shapes:
        assert np.array_equal(leaves[p], values[p]) == (p not in head), p
        assert leaves[p].sharding.is_fully_replicated
    asked.clear()
    kept = load_leaves(pretrained(path, init_head='keep'))
    assert not asked and all(np.array_equal(kept[p], values[p]) for p in head)


def test_new_leaves_belong_to_the_seed():
    one, two = (load_leaves(tiny.experiment({'channels': (4,), 'dense': ()}, seed=seed)) for seed in (1, 2))
    assert not np.array_equal(one['backbone/conv_0/conv/kernel'], two['backbone/conv_0/conv/kernel'])


def test_one_source_for_a_subtree(saved):
    e = tiny.experiment({'batch_norm': True}, init_from={'backbone/conv_0': saved[0]})
    status = {leaf.path: leaf.status for leaf in e.plan.leaves}
    assert {p.split('/')[1] for p, s in status.items() if s == 'loaded'} == {'conv_0'}


def test_from_scratch_is_said_aloud(saved):
    e = pretrained(saved[0], tune=tiny.recipe('scratch'))
    assert len(e.plan.notes) == 1 and e.plan.notes[0].startswith(f'tune.recipe=scratch ignores init_from={saved[0]}')
    assert {leaf.status for leaf in e.plan.leaves} == {'new'}
    assert 'from scratch' in tiny.experiment(tune=tiny.recipe('probe')).plan.notes[0]
    assert pretrained(saved[0]).plan.notes == ()


def test_a_loading_rule_of_the_user_shows_in_the_plan(saved):
    e = pretrained(saved[0], init_rules=(('backbone/dense_0/.*', None),), init_ignore=('backbone/dense_0/.*',))
    status = {leaf.path: leaf.status for leaf in e.plan.leaves}
    assert status['backbone/dense_0/dense/kernel'] == 'new' and status['backbone/conv_1/conv/kernel'] == 'loaded'
    (rule,) = [rule for rule in e.plan.to_json()['rules'] if rule['origin'] == 'config.init_rules']
    assert (rule['what'], rule['hits'], rule['value']) == ('load', 2, None)


def test_inputs_are_normalised_and_with_a_key_flipped():
    e = tiny.experiment(augment={'flip': True, 'crop': 1.0})
    host = tiny.batch(e)
    plain = (host['image'] - np.float32(127.5)) / np.float32(127.5)
    np.testing.assert_allclose(e.prepare(host, None)['image'], plain, rtol=1e-6)
    found = np.asarray(e.prepare(host, jax.random.key(0))['image'])
    flipped = [np.allclose(row, wanted[:, ::-1]) for row, wanted in zip(found, plain, strict=True)]
    kept = [np.allclose(row, wanted) for row, wanted in zip(found, plain, strict=True)]
    assert all(a != b for a, b in zip(flipped, kept, strict=True)) and 0 < sum(flipped) < len(flipped)
    still = dataclasses.replace(e, config={**e.config, 'augment': {'flip': False, 'crop': 1.0}})
    np.testing.assert_allclose(still.prepare(host, jax.random.key(0))['image'], plain, rtol=1e-6)


def test_every_recipe_builds_with_every_rule():
    """One config for all recipes: rules for the backbone do not fail where only the head trains."""
    fields = {
        'decay': (('backbone/conv_0/.*', 0.0),),
        'penalties': (('backbone/.*', ('l2sp', 0.1)),),
        'batch_norm': (('backbone/conv_0', 'batch_fixed'),),
    }
    for name in ('scratch', 'probe', 'last', 'full', 'layerwise', 'lp_ft', 'gradual'):
        e = tiny.experiment({'batch_norm': True}, tune=tiny.recipe(name), **fields)
        assert sum(p.steps for p in e.plan.phases) == 20, name


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'sead': 1}, r"^config\.sead: there is no such field\. Did you mean 'seed'"),
        ({'data': 'digits'}, r'^config\.data: this is a section'),
        ({'data': {'name': 'arrays', 'shotss': 3}}, r"^data\.shotss: there is no such field\. Did you mean 'shots'"),
        ({'model': 'convnet'}, r'^config\.model: this is a section'),
        ({'model': {'name': 'convnt'}}, r"^model\.name: there is no model 'convnt'\. Did you mean 'convnet'"),
        ({'model': {'name': 'convnet', 'image_size': 'big'}}, r'^model\.image_size must be'),
        ({'model': {'name': 'convnet', 'chanels': (4,)}}, r"^model\.chanels: .* Did you mean 'channels'"),
        ({'task': {'name': 'clasification'}}, r"^task\.name: .* Did you mean 'classification'"),
        ({'tune': {'recipee': 'full'}}, r"^config\.tune\.recipee: there is no such field\. Did you mean 'recipe'"),
        ({'tune': {'recipe': 'prob'}}, r"^tune\.recipe: there is no recipe 'prob'\. Did you mean 'probe'"),
        ({'tune': {'probe': {'lrr': 0.1}}}, r"^config\.tune\.probe\.lrr: there is no such field\. Did you mean 'lr'"),
        ({'optimizer': {'lrr': 0.1}}, r"^config\.optimizer\.lrr: there is no such field\. Did you mean 'lr'"),
        ({'optimizer': {'lr': 'high'}}, r"^config\.optimizer\.lr: expected a number, found 'high'"),
        ({'optimizer': {'ema': 1.5}}, r'^optimizer\.ema is 1\.5'),
        ({'mesh': {'data': 3}}, r"^config\.mesh: \{'data': 3\} does not fit 1 devices"),
        ({'seed': 'x'}, r'^config\.seed: expected a whole number'),
        ({'batch_size': 0}, r'^config\.batch_size: a whole number of at least 1, found 0'),
        ({'batch_size': 10, 'accumulate': 4}, r'^config\.batch_size: 10 examples do not divide over 1 devices and 4 micro-batches'),
        ({'epochs': 1.0}, r'^config\.steps=20 and config\.epochs=1\.0: set one of them to 0'),
        ({'steps': 0}, r'^config\.steps: '),
        ({'steps': -1}, r'^config\.steps: a number of at least 0, found -1'),
        ({'steps': 0, 'epochs': float('nan')}, r'^config\.epochs: .* found nan'),
        ({'select': 'bset'}, r"^config\.select: 'last' or 'best', found 'bset'"),
        ({'init_head': 'old'}, r"^config\.init_head: 'new' or 'keep', found 'old'"),
        ({'init_from': 3}, r'^config\.init_from: the place of a checkpoint, found 3'),
        ({'init_from': 'nowhere/model.npz'}, r'nowhere/model\.npz'),
        ({'augment': {'crop': 0.0}}, r'^config\.augment\.crop: a fraction in \(0, 1\], found 0\.0'),
        ({'extend': (0,)}, r'^config\.extend: numbers of steps of at least 1, found 0'),
        ({'phases': ('probe',), 'tune': {'recipe': ''}}, r'^config\.phases\[0\]: a phase is a dict'),
        ({'init_rules': (('a',),), 'init_from': 'SAVED'}, r'^config\.init_rules: '),
        ({'init_ignore': (3,), 'init_from': 'SAVED'}, r'^config\.init_ignore: patterns of checkpoint keys'),
    ],
)
def test_wrong_fields_are_told(fields, says, saved):
    base = {'model': {'name': 'convnet', 'image_size': 8, 'channels': (4, 8), 'dense': (16,), 'batch_norm': True}, 'steps': 20}
    if fields.get('init_from') == 'SAVED':
        fields = {**fields, 'init_from': saved[0]}
    with pytest.raises(UserError, match=says):
        build({**base, **fields}, data=tiny.data(), devices=jax.devices()[:1]) if 'data' not in fields else build({**base, **fields})


def test_a_recipe_in_the_place_of_written_phases_is_said():
    phases = ({'name': 'mine', 'steps': 2, 'train': (('.*', 'all'),)},)
    replaced = tiny.experiment(phases=phases, tune=tiny.recipe('probe')).plan
    assert [phase.name for phase in replaced.phases] == ['probe']
    assert any(note.startswith('tune.recipe=probe takes the place of config.phases') for note in replaced.notes)
    written = tiny.experiment(phases=phases, tune={'recipe': ''}).plan
    assert [phase.name for phase in written.phases] == ['mine'] and not any('takes the place' in note for note in written.notes)
