import json
import re
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jtl.errors import UserError
from jtl.models.base import EVAL, Backbone, Mode, Stage
from jtl.models.net import Attachment, make_net
from jtl.optim import defaults
from jtl.plan import LeafPlan, RuleHits, group_of, make_plan, phase_optimizer
from jtl.recipes import FROZEN, RECIPES, Phase
from jtl.rules import RuleError, as_rules


class Layer(nn.Module):
    """A dense layer and, where asked for, BatchNorm."""

    norm: bool = False

    @nn.compact
    def __call__(self, features, mode=EVAL):
        x = nn.Dense(4, name='dense')(features['x'])
        return {'x': nn.BatchNorm(use_running_average=not mode.batch_statistics, name='bn')(x) if self.norm else x}


class Nothing(nn.Module):
    def __call__(self, features, mode=EVAL):
        return features


class Head(nn.Module):
    @nn.compact
    def __call__(self, features, mode=EVAL):
        return nn.Dense(3, name='output')(features['x'])


STAGES = (
    Stage('stem', partial(Layer, True)),
    Stage('block_1', partial(Layer, True)),
    Stage('block_10', Layer),
    Stage('norm', partial(Layer, True), tail=True),
    Stage('pool', Nothing, tail=True),
)
NET = make_net(Backbone(stages=STAGES), {'main': Head()}, {'x': jax.ShapeDtypeStruct((2,), jnp.float32)})
FORKED = make_net(NET.backbone, {'main': Head(), 'lm': Head()}, NET.inputs, {'lm': Attachment('norm')})
HEAD = [path for path in NET.params if path.startswith('heads/')]


def leaf_plans(net=NET):
    return {
        path: LeafPlan(path, spec.shape, str(spec.dtype), path in net.stats, 'loaded' if path.startswith('backbone/stem') else 'new')
        for path, spec in net.shapes.items()
    }


def phase(train, name='a', steps=5, origin='config.phases[0].train', **fields):
    return Phase(name, steps, as_rules(train, origin=origin), **fields)


def plan_of(*phases, net=NET, optimizer=(), **options):
    return make_plan(net, phases, leaf_plans(net), optimizer={**defaults(), **dict(optimizer)}, **options)


def test_every_leaf_is_covered_once():
    plan = plan_of(phase([('heads/.*', 'head'), ('backbone/block_10/.*', 'body')]))
    assert [leaf.path for leaf in plan.leaves] == list(NET.shapes)
    labels = plan.phases[0].labels
    assert labels == {**dict.fromkeys([p for p in NET.params if '/block_10/' in p], 'body@0'), **dict.fromkeys(HEAD, 'head@0')}
    assert plan.trained == set(labels)
    assert set(plan.phases[0].decay) == set(labels)
    rows = {row['path']: row for row in plan.to_json()['leaves']}
    assert set(rows) == set(NET.shapes)
    assert rows['backbone/stem/dense/kernel']['groups'] == [FROZEN] and rows['backbone/stem/bn/mean']['groups'] == ['-']
    assert rows['backbone/block_10/dense/bias']['groups'] == ['body'] and rows['heads/main/output/bias']['groups'] == ['head']


def test_hits_count_what_each_rule_decided():
    plan = plan_of(phase([('heads/.*bias', 'b'), ('heads/.*', 'head'), ('backbone/norm/.*', 'head')]), decay=[('.*kernel', 0.5)])
    hits = {(hit.what, hit.pattern): hit.hits for hit in plan.rules}
    assert hits['train', 'heads/.*bias'] == 1 and hits['train', 'heads/.*'] == 1 and hits['train', 'backbone/norm/.*'] == 4
    assert hits['decay', '.*kernel'] == 2  # of what trains
    assert all(hit.phase == 'a' for hit in plan.rules)
    assert plan.rules[0].origin == 'config.phases[0].train'


def test_a_rule_without_a_hit_names_the_nearest_paths():
    with pytest.raises(
        RuleError, match=r"Train rule of phase 'a' 'backbone/blok_1/\.\*' \(from config\.phases\[0\]\.train\) matches no path"
    ):
        plan_of(phase([('heads/.*', 'head'), ('backbone/blok_1/.*', 'body')]))
    with pytest.raises(RuleError, match=r'nearest paths are backbone/block_1/dense/kernel'):
        plan_of(phase([('heads/.*', 'head'), ('backbone/block_1/dense/kernal', 'body')]))


def test_a_shadowed_rule_names_what_took_its_paths():
    with pytest.raises(RuleError, match=r"'backbone/stem/\.\*' .* decides nothing: .* taken by the earlier 'backbone/\.\*'\."):
        plan_of(phase([('backbone/.*', 'body'), ('backbone/stem/.*', 'slow')]))


def test_labels_say_since_when_a_leaf_trains():
    everything, heads = [('heads/.*', 'head'), ('.*', 'body')], [('heads/.*', 'head')]
    plan = plan_of(phase(heads, 'a'), phase(everything, 'b'), phase(heads, 'c'), phase(everything, 'd'))
    path = 'backbone/stem/dense/kernel'
    assert [p.labels.get(path) for p in plan.phases] == [None, 'body@1', None, 'body@3']
    assert [p.labels[HEAD[0]] for p in plan.phases] == ['head@0'] * 4
    assert group_of('body@3') == 'body'
    assert set(plan.phases[1].label_groups) == {'head@0', 'body@1'}
    assert plan.phases[1].label_groups['body@1'].name == 'body'


def test_totals_add_up():
    plan = plan_of(phase([('heads/.*', 'head')]), phase([('backbone/norm/.*', 'n'), ('heads/.*', 'head')], 'b'))
    # dense 2x4+4, then 4x4+4 three times; three norms of 4+4; head 4x3+3. Statistics: three of 4+4.
    assert plan.totals() == {
        'parameters': 12 + 60 + 24 + 15,
        'trainable': 15 + 20 + 8,
        'frozen': 12 + 40 + 16,
        'statistics': 24,
        'bytes': 4 * (12 + 60 + 24 + 15 + 24),
        'loaded': 6,
        'renamed': 0,
        'adapted': 0,
        'new': len(NET.shapes) - 6,
    }
    first, second = plan.to_json()['phases']
    assert (first['trainable_parameters'], first['frozen_parameters']) == (15, 96)
    assert (second['trainable_parameters'], second['frozen_parameters']) == (43, 68)
    assert second['groups']['n']['leaves'] == 4 and second['groups']['n']['parameters'] == 28
    assert first['optimizer_bytes'] == 2 * 4 * 15 and second['optimizer_bytes'] == 2 * 4 * 43


def test_json_round_trip():
    rules = (RuleHits('load', '', 'backbone/(.*)', (r'\1', ('transpose', 1, 0)), 6, 'a table'),)
    settings = {'decay': [('.*bias', 1.0)], 'penalties': [('.*', ('l2', 0.1))], 'batch_norm': [('backbone/stem', 'batch')]}
    plan = plan_of(phase([('.*', 'all')]), rules=rules, ignored=('_fc.bias (head)',), notes=('From scratch.',), **settings)
    data = plan.to_json()
    assert json.loads(json.dumps(data)) == data  # a resume compares the two
    assert data['stages'] == [s.name for s in STAGES]
    assert data['rules'][0] == {
        'what': 'load', 'phase': '', 'pattern': 'backbone/(.*)', 'value': [r'\1', ['transpose', 1, 0]], 'hits': 6, 'origin': 'a table'
    }  # fmt: skip
    assert data['notes'] == ['From scratch.'] and data['ignored'] == ['_fc.bias (head)']
    (row,) = [row for row in data['leaves'] if row['path'] == 'heads/main/output/bias']
    assert row['shape'] == [3] and row['bytes'] == 12 and row['groups'] == ['all'] and row['lr'] == [1e-3] and row['decay'] == [0.0]


def test_user_decay_rules_come_before_the_defaults():
    optimizer = {'weight_decay': 0.2}
    kernel, bias, scale = 'backbone/stem/dense/kernel', 'backbone/stem/dense/bias', 'backbone/stem/bn/scale'
    plain = plan_of(phase([('.*', 'all')]), optimizer=optimizer).phases[0].decay
    assert (plain[kernel], plain[bias], plain[scale]) == (1.0, 0.0, 0.0)
    plan = plan_of(phase([('.*', 'all')]), optimizer=optimizer, decay=[('heads/.*', 0.0), ('.*/bias', 0.5)])
    decay = plan.phases[0].decay
    assert (decay[kernel], decay[bias], decay[scale], decay['heads/main/output/kernel']) == (1.0, 0.5, 0.0, 0.0)
    rows = {row['path']: row['decay'] for row in plan.to_json()['leaves']}
    assert (rows[kernel], rows[bias], rows[scale]) == ([0.2], [0.1], [0.0])

    params = {path: jnp.ones(spec.shape) for path, spec in NET.params.items()}
    tx = phase_optimizer(plan.phases[0])
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert [float(updates[p].ravel()[0]) for p in (kernel, bias, scale)] == pytest.approx([-0.2e-3, -0.1e-3, 0.0])


def test_penalties_by_rule():
    rules = [('heads/.*', ('l1', 0.1)), ('.*bias', None), ('backbone/.*', ('l2sp', 0.2))]
    penalties = plan_of(phase([('.*', 'all')]), penalties=rules).phases[0].penalties
    assert penalties['heads/main/output/bias'] == ('l1', 0.1) and penalties['backbone/stem/dense/kernel'] == ('l2sp', 0.2)
    assert not any(path.endswith('bias') for path in penalties if path.startswith('backbone/'))


def test_rules_for_what_a_phase_freezes_wait_for_their_phase():
    """One config serves every recipe, so a rule for the backbone is no mistake where only the head trains."""
    rules = {'decay': [('backbone/.*', 0.5)], 'penalties': [('backbone/.*', ('l2sp', 0.1))], 'batch_norm': [('backbone/stem', 'running')]}
    for recipe in RECIPES.values():
        plan = plan_of(*recipe(STAGES, 100), net=FORKED, **rules)
        for p in plan.phases:
            assert set(p.penalties) == {path for path in p.labels if path.startswith('backbone/')}
            assert set(p.decay) == set(p.labels)
    for wrong in ({'decay': [('bakbone/.*', 0.5)]}, {'penalties': [('bakbone/.*', ('l2', 0.1))]}):
        with pytest.raises(RuleError, match=rf"'bakbone/\.\*' \(from config\.{next(iter(wrong))}\) matches no path"):
            plan_of(phase([('heads/.*', 'head')]), **wrong)


def test_default_switches_and_modes():
    (p,) = plan_of(phase([('heads/.*', 'head'), ('backbone/block_1/dense/bias', 'body')])).phases
    assert p.switches == {'stem': 'running', 'block_1': 'batch', 'norm': 'running'}  # block_10 has no statistics
    assert p.modes == {
        'stem': EVAL,
        'block_1': Mode(train=True, batch_statistics=True),
        'block_10': EVAL,
        'norm': EVAL,
        'pool': Mode(train=True),  # owns nothing: runs as the stages do
    }
    (probe,) = plan_of(phase([('heads/.*', 'head')])).phases
    assert set(probe.modes.values()) == {EVAL}


def test_batch_norm_rules_of_the_phase_come_first():
    own = as_rules([('backbone/norm', 'batch')], origin='config.phases[0].batch_norm')
    p = plan_of(
        phase([('.*', 'all')], batch_norm=own), batch_norm=[('backbone/(norm|stem)', 'running'), ('backbone/block_1', 'batch_fixed')]
    ).phases[0]
    assert p.switches == {'stem': 'running', 'block_1': 'batch_fixed', 'norm': 'batch'}
    assert p.modes['stem'] == Mode(train=True) and p.modes['block_1'] == Mode(train=True, batch_statistics=True)


def test_what_another_task_alone_reads_is_frozen():
    """Its head, and the stages past the place where the phase's head is attached."""
    plan = plan_of(phase([('.*', 'all')], 'a', task='lm', data='more'), phase([('.*', 'all')], 'b'), net=FORKED)
    a, b = plan.phases
    assert set(FORKED.params) - set(a.labels) == {path for path in FORKED.params if path.startswith(('heads/main/', 'backbone/norm/'))}
    assert set(FORKED.params) - set(b.labels) == {path for path in FORKED.params if path.startswith('heads/lm/')}
    assert (a.modes['norm'], a.modes['stem'].train, b.modes['norm'].train) == (EVAL, True, True)
    assert (a.switches['norm'], b.switches['norm']) == ('running', 'batch')
    assert [(p.task, p.data) for p in plan.phases] == [('lm', 'more'), ('main', '')]
    assert [(p['task'], p['data']) for p in plan.to_json()['phases']] == [('lm', 'more'), ('main', '')]
    assert b.labels['backbone/stem/dense/kernel'] == 'all@0' and b.labels['backbone/norm/dense/kernel'] == 'all@1'
    hits = {(hit.phase, hit.pattern): hit.hits for hit in plan.rules if hit.what == 'train'}
    assert hits == {('a', '.*'): len(a.labels), ('b', '.*'): len(b.labels)}


def test_a_head_that_rests_for_a_phase_starts_its_optimizer_anew():
    plan = plan_of(phase([('.*', 'all')], 'a'), phase([('.*', 'all')], 'b', task='lm'), phase([('.*', 'all')], 'c'), net=FORKED)
    assert [p.labels.get('heads/main/output/bias') for p in plan.phases] == ['all@0', None, 'all@2']
    assert [p.labels.get('heads/lm/output/bias') for p in plan.phases] == [None, 'all@1', None]
    assert [p.labels['backbone/stem/dense/bias'] for p in plan.phases] == ['all@0'] * 3


def test_a_rule_for_what_the_phase_does_not_read_is_a_mistake():
    for pattern in ('heads/main/.*', 'backbone/norm/.*'):
        with pytest.raises(RuleError, match=rf"Train rule of phase 'a' '{re.escape(pattern)}' .* matches no path"):
            plan_of(phase([('heads/lm/.*', 'head'), (pattern, 'more')], 'a', task='lm'), phase([('.*', 'all')], 'b'), net=FORKED)


def test_groups_differ_from_the_optimizer_by_what_the_phase_says():
    groups = {'head': {'lr': 0.5, 'name': 'sgd'}, 'body': {'lr_factor': 0.25}}
    p = plan_of(phase([('heads/.*', 'head'), ('.*', 'body')], groups=groups), optimizer={'lr': 0.1, 'clip': 2.0, 'ema': 0.9}).phases[0]
    assert (p.groups['head'].optimizer, p.groups['head'].lr) == ('sgd', 0.5)
    assert (p.groups['body'].optimizer, p.groups['body'].lr) == ('adamw', pytest.approx(0.025))
    assert (p.clip, p.ema) == (2.0, 0.9)
    rows = {row['path']: row['lr'] for row in plan_of(phase([('heads/.*', 'head')], groups={'head': {'lr': 0.5}})).to_json()['leaves']}
    assert rows['heads/main/output/bias'] == [0.5] and rows['backbone/stem/dense/bias'] == [0.0]


@pytest.mark.parametrize('name', RECIPES)
def test_every_recipe_plans(name):
    plan = plan_of(*RECIPES[name](STAGES, 100), net=FORKED, optimizer={'weight_decay': 0.1, 'clip': 1.0})
    assert sum(p.steps for p in plan.phases) == 100
    for p in plan.phases:
        assert jax.eval_shape(phase_optimizer(p).init, {path: FORKED.params[path] for path in p.labels}) is not None
    json.dumps(plan.to_json())


def test_last_with_no_stage_trains_the_tails_and_heads():
    (p,) = plan_of(*RECIPES['last'](STAGES, 10, n=0)).phases
    assert {path.split('/')[1] for path in p.labels} == {'norm', 'main'}


@pytest.mark.parametrize(
    ('make', 'says'),
    [
        (lambda: plan_of(phase([('.*', FROZEN)])), r"^phase 'a' trains nothing"),
        (lambda: plan_of(phase([('heads/.*', 'head')], groups={'haed': {}})), r"the group 'haed' has settings, but no rule names it\. Rules name head\."),
        (lambda: plan_of(phase([('heads/.*', 'head')], groups={'head': {'lrr': 1.0}})), r"group 'head'\): there is no field 'lrr'\. Did you mean 'lr'"),
        (lambda: plan_of(phase([('heads/.*', 'head')], groups={'head': {'lr': 'x'}})), r"group 'head'\)\.lr is 'x'; expected a finite number"),
        (lambda: plan_of(phase([('heads/.*', 'head')], groups={'head': {'lr_factor': -1.0}})), r"group 'head'\)\.lr_factor is -1\.0"),
        (lambda: plan_of(phase([('heads/.*', 'head')], groups={'head': {'clip': 1.0}})), r'clip .* cannot differ between groups'),
        (lambda: plan_of(phase([('heads/.*', 'head')]), optimizer={'ema': 1.5}), r'^optimizer\.ema is 1\.5; expected a finite number in \[0, 1\)'),
        (lambda: plan_of(phase([('heads/.*', 'head')]), optimizer={'clip': -1.0}), r'^optimizer\.clip is -1\.0'),
        (lambda: plan_of(phase([('.*', 'a')]), decay=[('.*', 'no')]), r"^config\.decay, '\.\*' is 'no'; expected a finite number"),
        (lambda: plan_of(phase([('.*', 'a')]), penalties=[('.*', ('l3', 1.0))]), r"^config\.penalties, '\.\*': there is no penalty 'l3'"),
        (lambda: plan_of(phase([('.*', 'a')]), penalties=[('.*', 0.1)]), r'^config\.penalties, .*: a penalty is a pair'),
        (lambda: plan_of(phase([('.*', 'a')]), batch_norm=[('backbone/stem', 'off')]), r"^config\.batch_norm: 'backbone/stem' needs one of batch, "),
        (lambda: plan_of(phase([('.*', 'a')]), batch_norm=[('stem', 'batch')]), r"^Batch_norm rule 'stem' .* matches no path\. Paths look like backbone/stem"),
    ],
)  # fmt: skip
def test_wrong_settings_are_told(make, says):
    with pytest.raises(UserError, match=says):
        make()


def test_a_config_section_will_do():
    section = ConfigDict(defaults())
    assert make_plan(NET, [phase([('heads/.*', 'head')])], leaf_plans(), optimizer=section).phases[0].groups['head'].lr == 1e-3
