"""Collapsed patterns must say exactly their members."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.collapse import collapse


def expand(pattern: str) -> list[str]:
    """What a reader takes a pattern to mean, written independently."""
    parts = re.split(r'\{([^}]*)\}', pattern)
    choices = []
    for i, part in enumerate(parts):
        if i % 2 == 0:
            choices.append([part])
            continue
        numbers = []
        for piece in part.split(','):
            first, dots, last = piece.partition('...')
            width = len(first)
            numbers += [str(n).zfill(width) for n in range(int(first), int(last) + 1)] if dots else [piece]
        choices.append(numbers)
    return [''.join(c) for c in itertools.product(*choices)]


def test_one_position():
    names = [f'encoder.layer.{i}.{leaf}' for i in range(12) for leaf in ('bias', 'weight')] + ['pooler.weight']
    found = collapse(names)
    assert [p for p, _ in found] == ['encoder.layer.{0...11}.bias', 'encoder.layer.{0...11}.weight', 'pooler.weight']
    assert found[0][1] == [f'encoder.layer.{i}.bias' for i in range(12)]
    assert found[2][1] == ['pooler.weight']


def test_several_positions():
    names = [f'layer{s}.{b}.conv{c}.weight' for s in (1, 2) for b in range(3) for c in (1, 2)]
    assert [p for p, _ in collapse(names)] == ['layer{1,2}.{0...2}.conv{1,2}.weight']


def test_a_pattern_never_claims_what_is_not_there():
    # Stage 2 has fewer blocks: one product would be wrong.
    names = ['s1.0.w', 's1.1.w', 's1.2.w', 's2.0.w']
    assert sorted(p for p, _ in collapse(names)) in (['s1.{0...2}.w', 's2.0.w'], ['s1.{1,2}.w', 's{1,2}.0.w'])


def test_properties_keep_groups_apart():
    names = [f'block_{i}/kernel' for i in range(5)]
    found = collapse(names, [(3, 3), (3, 3), (5, 5), (3, 3), (3, 3)])
    assert [p for p, _ in found] == ['block_{0,1,3,4}/kernel', 'block_2/kernel']
    with pytest.raises(ValueError, match='5 names but 1'):
        collapse(names, ['x'])


def test_runs_gaps_and_leading_zeros():
    assert collapse([f'a{i}' for i in (0, 1, 2, 3, 5, 6, 7, 9)])[0][0] == 'a{0...3,5...7,9}'
    assert collapse([f'a{i:02}' for i in range(8, 12)])[0][0] == 'a{08...11}'
    assert collapse(['a1', 'a01', 'a2'])[0][0] == 'a{01,1,2}'
    assert collapse(['x'])[0] == ('x', ['x'])
    assert collapse([]) == []


def test_members_keep_the_given_order():
    assert collapse(['a10', 'a2', 'b', 'a1']) == [('a{1,2,10}', ['a10', 'a2', 'a1']), ('b', ['b'])]


NAME = st.lists(st.one_of(st.integers(0, 12).map(str), st.sampled_from(['a', 'b', '.', '/', '00', '01'])), min_size=1, max_size=7).map(
    ''.join
)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.tuples(NAME, st.integers(0, 1)), unique_by=lambda t: t[0], max_size=40))
def test_exact_cover(pairs):
    names, properties = [n for n, _ in pairs], [p for _, p in pairs]
    found = collapse(names, properties)
    assert sorted(itertools.chain.from_iterable(members for _, members in found)) == sorted(names)
    kind = dict(pairs)
    for pattern, members in found:
        assert sorted(expand(pattern)) == sorted(members)
        assert len({kind[m] for m in members}) == 1


def test_many_names_are_quick():
    names = [f'm.{a}.{b}.{c}.w' for a in range(20) for b in range(20) for c in range(20)]
    assert [p for p, _ in collapse(names)] == ['m.{0...19}.{0...19}.{0...19}.w']
