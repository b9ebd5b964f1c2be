import re
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.errors import UserError
from jtl.recipes import FROZEN, RECIPES, expand, find_recipe, full, gradual, knobs, last, layerwise, lp_ft, probe, scratch, ulmfit
from jtl.rules import resolve


class Fake(NamedTuple):
    name: str
    tail: bool = False


def tree(stages, shared=False):
    """The paths of a backbone with these stages; the ones named pool own nothing."""
    paths = ['backbone/shared/embedding'] if shared else []
    paths += [f'backbone/{s.name}/{leaf}' for s in stages if not s.name.startswith('pool') for leaf in ('conv/kernel', 'bn/scale')]
    return [*paths, 'heads/main/output/kernel', 'heads/main/output/bias']


def groups(phase, stages, shared=False):
    return resolve(phase.train, tree(stages, shared), otherwise=FROZEN).values


def trains(phase, stages, shared=False):
    """The parts of the tree that train: stage names, 'heads', 'shared'."""
    parts = {path: path.split('/')[1] if path.startswith('backbone/') else 'heads' for path in tree(stages, shared)}
    return {parts[path] for path, group in groups(phase, stages, shared).items() if group != FROZEN}


CHAIN = [Fake(f'block_{i}') for i in range(12)]  # block_1 is a prefix of block_10
TAILED = [*CHAIN[:4], Fake('norm', tail=True), Fake('pool', tail=True)]


@st.composite
def chains(draw):
    body = [Fake(f'block_{i}') for i in range(draw(st.integers(1, 14)))]
    tails = [Fake(name, tail=True) for name in draw(st.sampled_from([(), ('norm',), ('norm', 'pool'), ('pool',)]))]
    return [*body, *tails]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(stages=chains(), steps=st.integers(1, 5000), shared=st.booleans())
def test_every_recipe_on_every_chain(stages, steps, shared):
    for name, recipe in RECIPES.items():
        try:
            phases = recipe(stages, steps)
        except UserError as error:
            assert 'steps' in str(error) and steps < (11 if name == 'ulmfit' else 6), name  # they need a step a phase
            continue
        assert sum(phase.steps for phase in phases) == steps and min(phase.steps for phase in phases) >= 1, name
        for phase in phases:
            assigned = groups(phase, stages, shared)
            assert {g for path, g in assigned.items() if path.startswith('heads/')} == {'all' if name == 'scratch' else 'head'}
            assert set(assigned.values()) - {FROZEN} <= set(phase.groups), (name, 'each group has its settings')
        whole = {'heads', *({'shared'} if shared else ()), *(s.name for s in stages if s.name != 'pool')}
        if name not in ('probe', 'last'):
            assert trains(phases[-1], stages, shared) == whole, name


def test_what_each_recipe_trains():
    whole = {'block_0', 'block_1', 'block_2', 'block_3', 'norm', 'heads'}
    assert [trains(p, TAILED) for p in scratch(TAILED, 9)] == [whole]
    assert [trains(p, TAILED) for p in probe(TAILED, 9)] == [{'heads'}]
    assert [trains(p, TAILED) for p in last(TAILED, 9, n=1)] == [{'block_3', 'norm', 'heads'}]
    assert [trains(p, TAILED) for p in last(TAILED, 9, n=0)] == [{'norm', 'heads'}]
    assert [trains(p, TAILED) for p in full(TAILED, 9)] == [whole]
    assert [trains(p, TAILED) for p in layerwise(TAILED, 9)] == [whole]
    assert [trains(p, TAILED) for p in lp_ft(TAILED, 9)] == [{'heads'}, whole]
    assert trains(last(CHAIN, 9, n=2)[0], CHAIN) == {'block_10', 'block_11', 'heads'}


def test_tails_share_the_heads_group():
    for recipe in (last, layerwise):
        assert {g for path, g in groups(recipe(TAILED, 9)[0], TAILED).items() if 'norm' in path or 'heads' in path} == {'head'}
    for phase in gradual(TAILED, 9)[1:]:
        assert {g for path, g in groups(phase, TAILED).items() if 'norm' in path or 'heads' in path} == {'head'}


@settings(derandomize=True, deadline=None, max_examples=40)
@given(stages=chains(), chunks=st.integers(1, 8))
def test_gradual_thaws_from_the_top_and_never_freezes_again(stages, chunks):
    phases = gradual(stages, 1000, chunks=chunks)
    body = [s.name for s in stages if not s.tail]
    assert len(phases) == 1 + min(chunks, len(body))
    assert trains(phases[0], stages) == {'heads'}
    sizes, before = [], None
    for phase in phases[1:]:
        now = trains(phase, stages) & set(body)
        assert now == set(body[len(body) - len(now) :]), 'a run of stages up to the top'
        assigned = groups(phase, stages)
        assert before is None or all(assigned[path] == group for path, group in before.items() if group != FROZEN), 'groups are kept'
        sizes.append(len(now) - sum(sizes))
        before = assigned
    assert sum(sizes) == len(body) and max(sizes) - min(sizes) <= 1


def test_gradual_lowers_the_rate_chunk_by_chunk():
    phases = gradual(CHAIN, 50, lr=0.2, head_lr=0.5, decay=0.5)
    assert [p.steps for p in phases] == [10] * 5
    assert phases[0].groups == {'head': {'lr': 0.5}}
    assert phases[4].groups['chunk_1'] == {'lr': 0.2, 'lr_factor': 1.0}
    assert phases[4].groups['chunk_4'] == {'lr': 0.2, 'lr_factor': 0.125}


@settings(derandomize=True, deadline=None, max_examples=40)
@given(steps=st.integers(9, 3000), chunks=st.integers(1, 8), fraction=st.floats(0.01, 0.99))
def test_the_last_phase_of_gradual_has_its_fraction(steps, chunks, fraction):
    lengths = [p.steps for p in gradual(CHAIN, steps, chunks=chunks, last_fraction=fraction)]
    *before, after = lengths
    assert sum(lengths) == steps and min(lengths) >= 1 and max(before) - min(before) <= 1
    assert abs(after - fraction * steps) <= 0.5 or sum(before) == chunks or after == 1  # no phase is left without a step


def test_ulmfit_is_two_language_models_and_then_gradual():
    assert [(p.name, p.steps, p.task, p.data) for p in ulmfit(TAILED, 100, chunks=2)] == [
        ('general_lm', 40, 'lm', 'general'),
        ('target_lm', 20, 'lm', 'target'),
        ('heads', 10, 'main', ''),
        ('thaw_1', 10, 'main', ''),
        ('thaw_2', 20, 'main', ''),
    ]
    first, second, *rest = ulmfit(
        CHAIN, 100, general_lr=0.3, target_lr=0.2, target_decay=0.5, lr=0.1, head_lr=0.4, decay=0.25, last_fraction=0.0
    )
    assert first.groups == {'head': {'lr': 0.3}, 'backbone': {'lr': 0.3}}
    assert second.groups['head'] == {'lr': 0.2} and second.groups['block_9'] == {'lr': 0.2, 'lr_factor': 0.25}
    assert tuple(rest) == gradual(CHAIN, 40, lr=0.1, head_lr=0.4, decay=0.25)


def test_ulmfit_without_a_language_model_and_under_other_names():
    assert ulmfit(CHAIN, 50, general_fraction=0.0, target_fraction=0.0, last_fraction=0.5) == gradual(
        CHAIN, 50, decay=1 / 2.6, last_fraction=0.5
    )
    phases = ulmfit(CHAIN, 50, task='words', general='wiki', target='mine')
    assert [(p.task, p.data) for p in phases[:3]] == [('words', 'wiki'), ('words', 'mine'), ('main', '')]
    assert [p.name for p in ulmfit(CHAIN, 50, general_fraction=0.0)][:2] == ['target_lm', 'heads']


def test_layerwise_rates_are_geometric_from_the_top():
    phase = layerwise(TAILED, 10, lr=0.4, head_lr=1.0, decay=0.5)[0]
    rate = {path: phase.groups[g].get('lr', 0) * phase.groups[g].get('lr_factor', 1) for path, g in groups(phase, TAILED, True).items()}
    assert [rate[f'backbone/block_{i}/conv/kernel'] for i in range(4)] == [0.05, 0.1, 0.2, 0.4]
    assert rate['backbone/norm/conv/kernel'] == rate['heads/main/output/bias'] == 1.0
    assert rate['backbone/shared/embedding'] == 0.05  # counted with the first stage


def test_stages_may_be_called_as_groups_are():
    stages = [Fake('frozen'), Fake('head')]
    phase = layerwise(stages, 10, lr=0.4, head_lr=1.0, decay=0.5)[0]
    assert trains(phase, stages) == {'frozen', 'head', 'heads'}
    assert phase.groups['head'] == {'lr': 1.0}


def test_a_rate_of_zero_means_the_configs_own():
    for name, recipe in RECIPES.items():
        for phase in recipe(CHAIN, 100):
            assert all('lr' not in group for group in phase.groups.values()), name


def test_lp_ft_shares_its_steps():
    assert [p.steps for p in lp_ft(CHAIN, 100)] == [30, 70]
    assert [p.steps for p in lp_ft(CHAIN, 2, probe_fraction=0.01)] == [1, 1]
    assert [p.steps for p in lp_ft(CHAIN, 2, probe_fraction=0.99)] == [1, 1]
    assert [p.groups for p in lp_ft(CHAIN, 9, probe_lr=0.3, lr=0.1, head_lr=0.2)] == [
        {'head': {'lr': 0.3}},
        {'head': {'lr': 0.2}, 'backbone': {'lr': 0.1}},
    ]


def test_knobs_are_the_keywords_of_the_signature():
    assert knobs(last) == {'n': 1, 'lr': 0.0, 'head_lr': 0.0}
    assert knobs(gradual)['chunks'] == 4
    assert find_recipe('lp_ft') is lp_ft


SECTION = {'recipe': 'last', **{name: knobs(recipe) for name, recipe in RECIPES.items()}}
PHASE = {'name': 'a', 'steps': 3, 'train': (('heads/.*', 'head'),)}


def test_expand_hands_the_knobs_of_the_chosen_recipe_over():
    (phase,) = expand({**SECTION, 'last': {'n': 3}}, (), CHAIN, 7)
    assert phase.steps == 7 and trains(phase, CHAIN) == {'block_9', 'block_10', 'block_11', 'heads'}
    assert expand(SECTION, (PHASE,), CHAIN, 7)[0].name == 'last'  # a recipe replaces written phases


def test_expand_takes_written_phases():
    second = {'steps': 4, 'train': (('.*', 'all'),), 'groups': {'all': {'lr': 0.1}}, 'batch_norm': (('backbone/.*', 'running'),)}
    a, b = expand({'recipe': ''}, (PHASE, second), CHAIN, 0)
    assert (a.name, a.steps, trains(a, CHAIN)) == ('a', 3, {'heads'})
    assert (b.name, b.steps, b.groups, b.batch_norm[0].value) == ('phase_1', 4, {'all': {'lr': 0.1}}, 'running')
    assert not a.train[0].optional and a.train[0].origin == 'config.phases[0].train'


def test_a_recipe_of_ones_own(tmp_path):
    (tmp_path / 'mine.py').write_text(
        'from jtl.recipes import probe\ndef twice(stages, steps, *, lr=0.5): return probe(stages, steps // 2, lr=lr) * 2\n'
    )
    name = f'{tmp_path}/mine.py:twice'
    assert [p.steps for p in expand({'recipe': name}, (), CHAIN, 8)] == [4, 4]
    assert expand({'recipe': name, name: {'lr': 0.25}}, (), CHAIN, 8)[0].groups == {'head': {'lr': 0.25}}


@pytest.mark.parametrize(
    ('section', 'written', 'steps', 'says'),
    [
        ({'recipe': 'prob'}, (), 9, r"^tune\.recipe: there is no recipe 'prob'\. Did you mean 'probe'"),
        ({'recipe': 'last', 'last': {'m': 3}}, (), 9, r"^config\.tune\.last: there is no knob 'm'\. It has n, lr, head_lr\."),
        ({'recipe': 'last', 'last': {'n': 13}}, (), 9, r'^config\.tune\.last\.n: the backbone has 12 stages, found 13\.'),
        ({'recipe': 'last', 'last': {'n': -1}}, (), 9, r'found -1'),
        ({'recipe': 'last', 'last': {'n': 1.5}}, (), 9, r'^config\.tune\.last\.n: a number such as 1, found 1\.5\.'),
        ({'recipe': 'full', 'full': {'lr': 'high'}}, (), 9, r"^config\.tune\.full\.lr: a number such as 0\.0, found 'high'\."),
        ({'recipe': 'gradual', 'gradual': {'chunks': 0}}, (), 9, r'^config\.tune\.gradual\.chunks: .* found 0\.'),
        ({'recipe': 'gradual'}, (), 4, r'has 5 phases and needs as many steps, found 4'),
        ({'recipe': 'lp_ft'}, (), 1, r'needs at least 2 steps, found 1'),
        ({'recipe': 'lp_ft', 'lp_ft': {'probe_fraction': 1.0}}, (), 9, r'^config\.tune\.lp_ft\.probe_fraction: .* found 1\.0'),
        ({'recipe': 'gradual', 'gradual': {'last_fraction': 1.0}}, (), 9, r'^config\.tune\.gradual\.last_fraction: .* found 1\.0'),
        ({'recipe': 'ulmfit', 'ulmfit': {'chunks': 0}}, (), 99, r'^config\.tune\.ulmfit\.chunks: .* found 0\.'),
        ({'recipe': 'ulmfit', 'ulmfit': {'target_fraction': -0.1}}, (), 99, r'^config\.tune\.ulmfit\.target_fraction: .* found -0\.1'),
        ({'recipe': 'ulmfit', 'ulmfit': {'task': 3}}, (), 99, r"^config\.tune\.ulmfit\.task: a name such as 'lm', found 3\."),
        ({'recipe': 'ulmfit'}, (), 9, r'leave 3 of 9 steps, but the task has 5 phases and needs as many\.'),
        ({'recipe': 'ulmfit', 'ulmfit': {'general_fraction': 0.9}}, (), 50, r'leave 0 of 50 steps'),
        ({'recipe': 'probe'}, (), 0, r'^config\.steps: '),
        ({'recipe': ''}, (), 9, r'config\.phases'),
        ({'recipe': ''}, ({**PHASE, 'stesp': 1},), 9, r"^config\.phases\[0\]: there is no field 'stesp'\. A phase has batch_norm, "),
        ({'recipe': ''}, (PHASE, {**PHASE, 'steps': 0}), 9, r'^config\.phases\[1\]\.steps: .* found 0\.'),
        ({'recipe': ''}, ({**PHASE, 'steps': True},), 9, r'^config\.phases\[0\]\.steps: .* found True\.'),
        ({'recipe': ''}, ({'steps': 3},), 9, r'^config\.phases\[0\]\.train: '),
        ({'recipe': ''}, ({**PHASE, 'train': (('heads/(', 'head'),)},), 9, r'^config\.phases\[0\]\.train: .* is no regular expression'),
        ({'recipe': ''}, ({**PHASE, 'groups': {'head': 0.1}},), 9, r'^config\.phases\[0\]\.groups: .* found'),
        ({'recipe': ''}, ('probe',), 9, r"^config\.phases\[0\]: a phase is a dict with .* found 'probe'"),
    ],
)
def test_wrong_sections_are_told(section, written, steps, says):
    with pytest.raises(UserError, match=says) as caught:
        expand(section, written, CHAIN, steps)
    assert len(re.findall('\n', str(caught.value))) == 0


def test_a_pooling_that_learns_is_new_like_the_heads():
    chain = [*CHAIN[:4], Fake('pooling', tail=True)]
    paths = [*tree(CHAIN[:4]), 'backbone/pooling/score/kernel']
    for phase in (*probe(chain, 10), gradual(chain, 10, chunks=2)[0], *last(chain, 10, n=1)):
        assert resolve(phase.train, paths, otherwise=FROZEN).values['backbone/pooling/score/kernel'] == 'head'
