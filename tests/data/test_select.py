import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.data import load_data
from jtl.data.arrays import from_arrays
from jtl.data.select import drop, keep_classes, keep_examples, keep_shots, make_split
from jtl.errors import UserError


def numbered(targets, labels=('ant', 'bee', 'cow')):
    """Data whose pictures carry their position."""
    images = np.arange(len(targets), dtype=np.float32).reshape(-1, 1, 1, 1).repeat(2, axis=1)
    return from_arrays({'train': images}, {'train': np.array(targets)}, labels)


def positions(split):
    return [int(split.examples[k]['image'][0, 0, 0]) for k in range(len(split))]


def test_shots_are_stratified_seeded_and_short_classes_are_named():
    data = numbered([0] * 20 + [1] * 3 + [2] * 9)
    few = keep_shots(data, 5, seed=1)
    assert np.bincount(few.splits['train'].targets).tolist() == [5, 3, 5]
    assert few.notes == ('shots: 5 a class, 13 of 32 training examples, seed 1. Fewer than that in: bee (3).',)
    assert positions(few.splits['train']) == positions(keep_shots(data, 5, seed=1).splits['train'])
    assert positions(few.splits['train']) != positions(keep_shots(data, 5, seed=2).splits['train'])
    assert few.fingerprint != keep_shots(data, 5, seed=2).fingerprint
    for split in few.splits.values():
        for k, position in enumerate(positions(split)):
            assert split.targets[k] == data.splits['train'].targets[position]
            assert split.name_of(k) == f'train[{position}]'


def test_examples_are_seeded_and_counted_before_validation_is_taken():
    data = numbered([0] * 50 + [1] * 30 + [2] * 20)
    few = keep_examples(data, 40, seed=1)
    assert len(few.splits['train']) == 40 and few.notes == ('examples: 40 of 100 training examples, seed 1.',)
    assert positions(few.splits['train']) == positions(keep_examples(data, 40, seed=1).splits['train'])
    assert positions(few.splits['train']) != positions(keep_examples(data, 40, seed=2).splits['train'])
    assert keep_examples(data, 100, seed=1) is data
    loaded = load_data({'name': 'digits', 'examples': 100, 'validation': 0.2, 'test': 0.25})
    sizes = {name: len(split) for name, split in loaded.splits.items()}
    assert sizes['train'] + sizes['validation'] == 100 and sizes['test'] == 355


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.05, 0.9), st.integers(0, 9))
def test_a_split_takes_its_share_of_each_class(sizes, share, seed):
    data = numbered(np.repeat(np.arange(len(sizes)), sizes), [f'c{k}' for k in range(len(sizes))])
    made = make_split(data, 'test', share, seed)
    parts = [positions(made.splits[name]) for name in ('train', 'test')]
    assert sorted(parts[0] + parts[1]) == list(range(sum(sizes)))
    for size, count in zip(sizes, np.bincount(made.splits['test'].targets, minlength=len(sizes)), strict=True):
        assert 1 <= count <= size - 1
        assert abs(count - share * size) <= 1


def test_a_class_never_loses_its_only_training_example():
    made = make_split(numbered([0, 1, 1, 1, 1]), 'validation', 0.5, 0)
    assert np.bincount(made.splits['train'].targets).tolist() == [1, 2]
    with pytest.raises(UserError, match=r'too few to make a validation split of 0.5. Set data.validation=0.0'):
        make_split(numbered([0, 1]), 'validation', 0.5, 0)


def test_values_are_split_without_classes():
    data = from_arrays({'train': np.zeros((10, 2, 2))}, {'train': np.arange(10) / 10})
    assert len(make_split(data, 'test', 0.3, 0).splits['test']) == 3
    for action in (lambda: keep_shots(data, 1, 0), lambda: keep_classes(data, ('x',))):
        with pytest.raises(UserError, match='these data have no classes'):
            action()


def test_classes_are_renumbered_in_the_order_given():
    data = numbered([0, 1, 2, 0, 1, 2])
    kept = keep_classes(data, ('cow', 'ant'))
    assert kept.labels == ('cow', 'ant')
    assert positions(kept.splits['train']) == [0, 2, 3, 5]
    assert kept.splits['train'].targets.tolist() == [1, 0, 1, 0]
    assert kept.splits['train'].targets.dtype == np.int32
    with pytest.raises(UserError, match=r"no class 'bea'. Did you mean 'bee'"):
        keep_classes(data, ('bea',))
    with pytest.raises(UserError, match='named twice'):
        keep_classes(data, ('ant', 'ant'))


def test_drop():
    data = drop(numbered([0, 1, 2, 0]), 'train', [1, 2], 'two are gone.')
    assert positions(data.splits['train']) == [0, 3] and data.notes == ('two are gone.',)
