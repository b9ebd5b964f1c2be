import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.rules import Rule, RuleError, as_rules, resolve

fixed = settings(derandomize=True, deadline=None, max_examples=150)

paths_ = st.lists(
    st.builds('/'.join, st.lists(st.sampled_from(['backbone', 'heads', 'block_0', 'block_1', 'kernel', 'bias']), min_size=1, max_size=3)),
    max_size=8,
)
patterns = st.sampled_from(
    ['.*', 'backbone/.*', 'heads/.*', '.*/kernel', '.*/bias', r'.*block_\d.*', 'backbone', 'backbone|heads', '(?:backbone|heads)/.*', 'x']
)
rules_ = st.lists(st.builds(Rule, patterns, st.integers(), st.just(True)), max_size=6)


def naive(rules, path):
    """Index and value of the first rule whose anchored search finds the path: written apart from the package."""
    for index, rule in enumerate(rules):
        if re.search(rf'\A(?:{rule.pattern})\Z', path):
            return index, rule.value
    return -1, 'default'


@fixed
@given(rules_, paths_)
def test_first_full_match_wins(rules, paths):
    found = resolve(rules, paths, otherwise='default')
    assert {p: (found.by[p], found.values[p]) for p in paths} == {p: naive(rules, p) for p in paths}


@fixed
@given(rules_, paths_)
def test_order_of_paths_is_kept_and_hits_sum_to_the_paths_covered(rules, paths):
    found = resolve(rules, paths, otherwise='default')
    unique = list(dict.fromkeys(paths))
    assert list(found.values) == list(found.by) == unique
    assert sum(found.hits) == sum(naive(rules, p)[0] >= 0 for p in unique)
    assert found.hits == tuple(sum(naive(rules, p)[0] == k for p in unique) for k in range(len(rules)))


@fixed
@given(rules_, paths_)
def test_match_is_that_of_the_rule_that_decided(rules, paths):
    found = resolve(rules, paths, otherwise='default')
    for path in paths:
        match = found.match(path)
        if found.by[path] < 0:
            assert match is None
        else:
            assert match.group() == path
            assert match.re.pattern == rules[found.by[path]].pattern


@fixed
@given(rules_, paths_)
def test_without_otherwise_exactly_full_coverage_passes(rules, paths):
    bare = [p for p in dict.fromkeys(paths) if naive(rules, p)[0] < 0]
    if bare:
        with pytest.raises(RuleError, match=re.escape(f'covers {len(bare)} of {len(set(paths))} paths, such as {", ".join(bare[:3])}.')):
            resolve(rules, paths)
    else:
        assert 'default' not in resolve(rules, paths).values.values()


@fixed
@given(rules_, paths_)
def test_a_required_rule_raises_exactly_when_it_decides_nothing(rules, paths):
    for k, rule in enumerate(rules):
        one = [*rules[:k], Rule(rule.pattern, rule.value), *rules[k + 1 :]]
        if any(naive(rules, p)[0] == k for p in paths):
            resolve(one, paths, otherwise=0)
        else:
            with pytest.raises(RuleError, match=re.escape(repr(rule.pattern))):
                resolve(one, paths, otherwise=0)


@fixed
@given(rules_, paths_)
def test_a_shadowed_rule_names_the_rules_that_took_its_paths(rules, paths):
    for k, rule in enumerate(rules):
        takers = sorted({naive(rules, p)[0] for p in paths if rule.match(p)})
        if not takers or k in takers:
            continue
        with pytest.raises(RuleError) as error:
            resolve([*rules[:k], Rule(rule.pattern, 0), *rules[k + 1 :]], paths, otherwise=0)
        assert str(error.value).startswith(f'Rule {rule.pattern!r} decides nothing')
        assert f'taken by the earlier {", ".join(repr(rules[t].pattern) for t in takers)}.' in str(error.value)


def test_a_rule_without_hits_names_the_nearest_paths_and_who_wrote_it():
    rules = as_rules([(r'backbone/blok_3/.*', 1)], origin='config.tune.rules')
    with pytest.raises(RuleError) as error:
        resolve(rules, ['heads/main/bias', 'backbone/block_3/kernel', 'backbone/stem/kernel'], otherwise=0, what='learning-rate rule')
    message = str(error.value)
    assert message.startswith(r"Learning-rate rule 'backbone/blok_3/.*' (from config.tune.rules) matches no path.")
    assert 'nearest paths are backbone/block_3/kernel' in message


def test_a_pattern_like_no_path_shows_what_paths_look_like():
    with pytest.raises(RuleError, match='Paths look like backbone/stem/kernel'):
        resolve([Rule('QQQQ', 0)], ['backbone/stem/kernel'], otherwise=0)
    with pytest.raises(RuleError, match='There are no paths'):
        resolve([Rule('QQQQ', 0)], [], otherwise=0)


def test_every_problem_is_told_at_once():
    with pytest.raises(RuleError) as error:
        resolve([Rule('a', 0), Rule('a|b', 0), Rule('b', 0), Rule('zz', 0)], ['a', 'b', 'c'])
    lines = str(error.value).splitlines()
    assert [next(p for p in ("'b'", "'zz'", 'No rule covers 1 of 3') if p in line) for line in lines] == [
        "'b'",
        "'zz'",
        'No rule covers 1 of 3',
    ]


def test_a_partial_match_is_none():
    assert resolve([Rule('backbone', 1, optional=True)], ['backbone/stem'], otherwise=0).hits == (0,)
    assert resolve([Rule('a|b', 1)], ['a', 'b', 'ab'], otherwise=0).values == {'a': 1, 'b': 1, 'ab': 0}


def test_none_is_a_value():
    assert resolve([Rule('a', None)], ['a']).values == {'a': None}
    assert resolve([], ['a'], otherwise=None).values == {'a': None}


def test_as_rules_keeps_rules_and_marks_pairs():
    kept = Rule('a', 1, origin='me')
    assert as_rules([kept, ['b', 2]], optional=True, origin='recipe') == (kept, Rule('b', 2, True, 'recipe'))


@pytest.mark.parametrize('pairs', [['ab'], [('a',)], [('a', 1, 2)], [(1, 'a')], [5], [None], [{'a': 1, 'b': 2}], 'ab', {'ab': 1}, 5, None])
def test_what_is_no_pair_is_told(pairs):
    with pytest.raises(RuleError, match=r'config\.x: .*pairs? \(pattern, value\), found'):
        as_rules(pairs, origin='config.x')


@pytest.mark.parametrize('pattern', ['(', '*', '[a', 'a{99999999999999999999}', r'(?P<1>a)', r'\1'])
def test_bad_patterns_are_told_with_their_origin(pattern):
    with pytest.raises(RuleError, match=r'config\.x: ' + re.escape(repr(pattern)) + ' is no regular expression'):
        as_rules([(pattern, 1)], origin='config.x')
