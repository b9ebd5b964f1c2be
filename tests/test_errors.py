from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.errors import did_you_mean, nearest

fixed = settings(derandomize=True, deadline=None, max_examples=100)
words = st.text('abAB_1', max_size=6)


@fixed
@given(words, st.lists(words))
def test_nearest_are_distinct_choices_and_an_exact_one_is_first(word, choices):
    found = nearest(word, choices)
    assert set(found) <= set(choices)
    assert len(found) == len(set(found)) <= 3
    if word and word in choices:
        assert found[0] == word


def test_nearest_finds_a_slip_and_another_case():
    models = ['efficientnet_lite0', 'efficientnet_lite1', 'cnn']
    assert nearest('eficientnet_lite0', models)[0] == 'efficientnet_lite0'
    assert nearest('CNN', models) == ['cnn']
    assert nearest('bert', models) == []
    assert nearest('Probe', iter(['probes', 'probe', 'Probe', 'full']), n=2) == ['Probe', 'probe']


def test_did_you_mean_names_the_near_else_the_few_else_nothing():
    assert did_you_mean('prob', ['probe', 'full']) == "Did you mean 'probe'?"
    assert did_you_mean('zzz', ['full', 'probe', 'full']) == 'Known: full, probe.'
    assert did_you_mean('zzz', [f'name_{i}' for i in range(13)]) == ''
    assert did_you_mean('zzz', []) == ''
