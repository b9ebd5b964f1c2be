"""Batches by length: what an epoch holds, random access, twins, shapes."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data.lengths import WINDOW, LengthOrder, evaluation_order
from jtl.data.sampling import class_order, order
from jtl.data.tokens import bucket_of


def by_length(lengths, batch_size, seed=0):
    lengths = np.asarray(lengths, np.int32)
    return LengthOrder(lengths, partial(order, len(lengths), seed), seed, batch_size)


def batches(drawn, first, count):
    return drawn(first * drawn.batch_size, count * drawn.batch_size).reshape(count, drawn.batch_size)


CASES = given(st.lists(st.integers(2, 512), min_size=1, max_size=90), st.integers(1, 12), st.integers(-3, 2**40), st.integers(0, 7))


@settings(derandomize=True, deadline=None, max_examples=80)
@CASES
def test_a_window_holds_what_the_order_below_holds(lengths, batch_size, seed, number):
    drawn = by_length(lengths, batch_size, seed)
    window = drawn.window
    assert window == batch_size * min(64, max(1, len(lengths) // batch_size))
    found = drawn(number * window, window)
    assert found.dtype == np.int32 and found.shape == (window,)
    assert sorted(found.tolist()) == sorted(order(len(lengths), seed, number * window, window).tolist())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 6), st.integers(0, 99))
def test_an_epoch_of_whole_windows_has_every_example_once(batch_size, number, seed):
    n = batch_size * number
    lengths = np.random.default_rng(seed).integers(2, 100, n)
    drawn = by_length(lengths, batch_size, seed)
    for epoch in range(3):
        assert sorted(drawn(epoch * n, n).tolist()) == list(range(n))


@settings(derandomize=True, deadline=None, max_examples=60)
@CASES
def test_a_place_holds_the_same_example_wherever_reading_begins(lengths, batch_size, seed, number):
    drawn = by_length(lengths, batch_size, seed)
    first, count = 5 * number, 3 * batch_size + 2
    again = by_length(lengths, batch_size, seed)
    np.testing.assert_array_equal(np.concatenate([again(place, 1) for place in range(first, first + count)]), drawn(first, count))
    assert drawn(first, 0).shape == (0,)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.integers(2, 90), st.integers(1, 12), st.integers(0, 2**40), st.integers(1, 6))
def test_no_example_is_twice_in_a_batch_though_a_window_lies_across_epochs(n, batch_size, seed, longest):
    if n < 2 * batch_size:
        return  # then a window is one batch, which is what the order below has it
    drawn = by_length(np.random.default_rng(seed).integers(1, 1 + longest, n), batch_size, seed)
    for batch in batches(drawn, 0, 4 * n // batch_size):
        assert len(set(batch.tolist())) == batch_size


def test_batches_hold_neighbours_in_length_in_a_shuffled_order():
    lengths = np.random.default_rng(0).permutation(1024)
    drawn = by_length(lengths, 16)
    assert drawn.window == 1024 == 16 * WINDOW
    found = batches(drawn, 0, 64)
    places = [int(lengths[batch].min()) // 16 for batch in found]
    assert all(sorted(lengths[batch].tolist()) == list(range(16 * k, 16 * k + 16)) for k, batch in zip(places, found, strict=True))
    assert sorted(places) == list(range(64)) != places
    assert places != [int(lengths[batch].min()) // 16 for batch in batches(drawn, 64, 64)]  # each window is shuffled anew
    assert (batches(by_length(lengths, 16, seed=1), 0, 64) != found).any()
    # Of equal lengths those come together that the order below has together.
    alike = batches(by_length(np.full(1024, 7), 16), 0, 64)
    below = order(1024, 0, 0, 1024).reshape(64, 16)
    assert sorted(map(tuple, alike)) == sorted(map(tuple, below))


def test_twins_move_no_further_than_they_must():
    """Windows of 60 of 64 places: all but the first lie across epochs, yet their batches stay short."""
    lengths = np.random.default_rng(1).permutation(np.repeat([8, 32, 128, 512], 16))
    drawn = by_length(lengths, 6)
    spread = [int(np.ptp(lengths[batch]) > 0) for batch in batches(drawn, 0, 400)]
    assert sum(spread) < 0.5 * len(spread)  # at least 3 of 10 in a window, for 16 is no multiple of 6
    natural = order(64, 0, 0, 2400).reshape(400, 6)
    assert sum(int(np.ptp(lengths[batch]) > 0) for batch in natural) > 0.99 * 400


def test_examples_of_rare_classes_are_spread_over_a_window():
    """One example of a class of its own is drawn as often as 199 others: in every batch, and no batch is made of it."""
    targets = np.array([1] + [0] * 199)
    lengths = np.random.default_rng(2).integers(5, 60, 200)
    drawn = LengthOrder(lengths, class_order(targets, 'balanced', 0), 0, 20)
    for number in range(4):
        found = batches(drawn, 10 * number, 10)
        times = np.count_nonzero(found == 0)
        assert np.count_nonzero(found == 0, axis=1).max() <= -(-times // 10) and times >= 80


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.integers(2, 64), min_size=1, max_size=60), st.integers(1, 8))
def test_there_are_no_more_shapes_than_buckets_and_little_is_filled(lengths, batch_size):
    buckets = (8, 16, 64)
    drawn = by_length(lengths, batch_size)
    widths = [bucket_of(int(drawn.lengths[batch].max()), buckets) for batch in batches(drawn, 0, 50)]
    assert set(widths) <= set(buckets)
    for width, batch in zip(widths, batches(drawn, 0, 50), strict=True):
        assert all(drawn.lengths[batch] <= width)
        assert width == buckets[0] or any(drawn.lengths[batch] > buckets[buckets.index(width) - 1])


def test_less_is_filled_than_without():
    lengths = np.clip(np.random.default_rng(0).lognormal(2.6, 0.6, 3000), 4, 512).astype(np.int32)
    buckets = (16, 32, 64, 128, 256, 512)

    def tokens(drawn):
        return sum(32 * bucket_of(int(lengths[drawn(32 * k, 32)].max()), buckets) for k in range(93))

    assert tokens(by_length(lengths, 32)) < 0.6 * tokens(partial(order, 3000, 0))


def test_evaluation_begins_with_the_longest():
    found = evaluation_order(np.array([3, 9, 3, 1, 9], np.int32))
    assert found.tolist() == [1, 4, 0, 2, 3] and found.dtype == np.int32
    assert evaluation_order(np.zeros(0, np.int32)).shape == (0,)


@pytest.mark.parametrize('batch_size', [5, 8])
def test_data_smaller_than_a_batch(batch_size):
    drawn = by_length([4, 2, 9], batch_size)
    assert drawn.window == batch_size
    found = drawn(0, 3 * batch_size)
    assert sorted(found.tolist()) == sorted(order(3, 0, 0, 3 * batch_size).tolist())
