"""Order of training examples by class: quotas, permutations within a class, random access."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.data.pipeline import train_batches
from jtl.data.sampling import class_counts, class_order, order
from jtl.errors import UserError
from jtl.models.preprocessing import Preprocessing

GREY = Preprocessing((4, 4), mean=(0.0,), std=(1.0,), channels='L')
COUNTS = (40, 10, 1, 0, 9)
TARGETS = np.random.default_rng(0).permutation(np.repeat(np.arange(5), COUNTS)).astype(np.int32)


def test_the_natural_order_is_what_it_always_was():
    """Batches of earlier runs: the permutations of numpy's generator by (seed, epoch), one after the other."""
    whole = np.concatenate([np.random.default_rng([7, 0, epoch]).permutation(11) for epoch in range(4)])
    for first, count in ((0, 11), (3, 30), (40, 4), (22, 0)):
        found = order(11, 7, first, count)
        np.testing.assert_array_equal(found, whole[first : first + count])
        assert found.dtype == np.int32


@pytest.mark.parametrize(('sampling', 'quotas'), [('balanced', (15, 15, 15, 15)), ('sqrt', (29, 15, 5, 14)), ('natural', (40, 10, 1, 9))])
def test_every_round_has_the_quotas_and_no_example_twice_before_all_once(sampling, quotas):
    # sqrt: 60 * sqrt((40, 10, 1, 9)) / 13.487 = 28.14, 14.07, 4.45, 13.35
    if sampling == 'sqrt':
        roots = np.sqrt([40, 10, 1, 9])
        quotas = tuple(np.rint(60 * roots / roots.sum()).astype(int))
    drawn = class_order(TARGETS, sampling, seed=3)
    assert drawn.quotas == quotas
    size = sum(quotas)
    rounds = drawn(0, 5 * size).reshape(5, size)
    for found in rounds:
        assert np.bincount(TARGETS[found], minlength=5).tolist() == [*quotas[:3], 0, quotas[3]]
    for label, count in enumerate(COUNTS):
        positions = [p for p in rounds.ravel() if TARGETS[p] == label]
        for start in range(0, len(positions) - count + 1, max(count, 1)):
            assert sorted(positions[start : start + count]) == np.flatnonzero(label == TARGETS).tolist()
    assert (TARGETS[rounds[0]] != TARGETS[rounds[1]]).any()  # each round is shuffled anew


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=40),
    st.sampled_from(['balanced', 'sqrt']),
    st.integers(-3, 2**40),
    st.integers(0, 200),
    st.integers(1, 60),
)
def test_a_place_holds_the_same_example_wherever_reading_begins(targets, sampling, seed, first, count):
    drawn = class_order(np.array(targets), sampling, seed)
    found = drawn(first, count)
    assert found.shape == (count,) and found.dtype == np.int32 and found.min() >= 0 and found.max() < len(targets)
    again = class_order(np.array(targets), sampling, seed)
    np.testing.assert_array_equal(np.concatenate([again(place, 1) for place in range(first, first + count)]), found)


def split_of(targets):
    return from_arrays({'train': np.zeros((len(targets), 4, 4, 1), np.uint8)}, {'train': targets}, labels='abcde').splits['train']


def test_batches_are_balanced_and_the_same_for_any_host_worker_or_resume():
    split = split_of(TARGETS)
    options = {'batch_size': 12, 'seed': 5, 'preprocessing': GREY, 'sampling': 'balanced'}
    whole = [b['index'] for b in islice(train_batches(split, **options), 20)]
    assert np.bincount(TARGETS[np.concatenate(whole)], minlength=5).tolist() == [60, 60, 60, 0, 60]
    assert all(len(set(index.tolist())) > 4 for index in whole)
    for more in ({'workers': 1}, {'first_step': 7}):
        first = more.get('first_step', 0)
        found = [b['index'] for b in islice(train_batches(split, **options, **more), 20 - first)]
        np.testing.assert_array_equal(found, whole[first:])
    parts = [[b['index'] for b in islice(train_batches(split, **options, rows=s), 20)] for s in (range(0, 5), range(5, 12))]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), whole)


def test_what_it_does_is_said_and_what_has_no_classes_is_refused(tmp_path):
    images = np.zeros((len(TARGETS), 4, 4), np.uint8)
    np.savez(tmp_path / 'a.npz', train_images=images, train_labels=TARGETS)
    np.savez(tmp_path / 'b.npz', train_images=images, train_labels=TARGETS.astype(np.float32))
    section = {'name': 'arrays', 'root': str(tmp_path / 'a.npz'), 'validation': 0.0, 'test': 0.0}
    data = load_data({**section, 'sampling': 'balanced'})
    assert data.notes == (
        'sampling=balanced: a class is 25.0% to 25.0% of the examples drawn in training (1.7% to 66.7% of those there are).',
    )
    assert class_counts(data) == COUNTS
    with pytest.raises(UserError, match=r"data.sampling: there is no 'balance'. Did you mean 'balanced'\?"):
        load_data({**section, 'sampling': 'balance'})
    with pytest.raises(UserError, match=r"data.sampling='sqrt': these data have no classes \(their targets are values\)"):
        load_data({**section, 'root': str(tmp_path / 'b.npz'), 'sampling': 'sqrt'})
    assert class_counts(load_data({**section, 'root': str(tmp_path / 'b.npz')})) is None
