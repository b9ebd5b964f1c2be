"""How rules split leaves, on meshes of one real device listed as often as a test needs; tests/parallel/test_meshes.py has eight."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import init_shapes
from jtl.parallel.mesh import make_mesh
from jtl.parallel.placement import largest_over, partition, place, spec_of, spec_text

SHAPES = {'backbone/layer_0/attention/query/kernel': (32, 32), 'backbone/norm/scale': (32,), 'heads/main/output/kernel': (32, 3)}


def mesh(**sizes):
    return make_mesh(sizes, jax.devices()[:1] * int(np.prod(list(sizes.values()))))


@pytest.mark.parametrize(
    ('value', 'shape', 'spec'),
    [
        ('whole', (32, 32), 'whole'),
        ('fsdp', (32, 64), '- x fsdp'),
        ('fsdp', (64, 32), 'fsdp x -'),
        ('fsdp', (32, 32), '- x fsdp'),  # the last of equals
        ('fsdp', (3, 3, 30, 6), 'whole'),
        ('fsdp', (3, 4, 30, 6), '- x fsdp x - x -'),  # 30 is larger, but does not divide
        ('fsdp', (), 'whole'),
        (('tensor', -1), (32, 64), 'fsdp x tensor'),
        (('tensor', 0), (32, 64), 'tensor x fsdp'),
        (('tensor', -1), (32, 63), 'fsdp x -'),  # two do not divide 63
        (('tensor', -1), (32,), 'tensor,fsdp'),
        (('tensor', 0), (6,), 'tensor'),
        ((None, 'fsdp'), (3, 4), '- x fsdp'),
        ((('fsdp', 'tensor'), None), (16, 3), 'fsdp,tensor x -'),
        (('data', None), (16, 3), 'whole'),  # an axis of one device
    ],
)
def test_what_a_value_means_on_four_times_two_devices(value, shape, spec):
    assert spec_text(spec_of(value, shape, mesh(fsdp=4, tensor=2))) == spec


@pytest.mark.parametrize('value', ['fsdp', ('tensor', 0), (('fsdp', 'tensor'), None)])
def test_nothing_is_split_on_one_device(value):
    assert spec_text(spec_of(value, (8, 8), mesh(data=1))) == 'whole'


@given(st.lists(st.integers(0, 40), max_size=4), st.sampled_from([1, 2, 4, 8]))
def test_the_largest_dimension_that_divides(shape, devices):
    spec = largest_over('fsdp', shape, mesh(fsdp=devices))
    fit = [n for n in shape if n and n % devices == 0]
    split = [n for n, axes in zip(shape, spec, strict=True) if axes]
    assert split == ([max(fit)] if fit and devices > 1 else [])


@pytest.mark.parametrize(
    ('value', 'says'),
    [
        ('fdsp', "'whole', 'fsdp', .* found 'fdsp'"),
        (('tensor', 2), 'has 2 dimensions, the rule splits dimension 2'),
        (('fsdp',), r'has 2 dimensions \(32, 32\), the rule has 1 entries'),
        (('model', None), 'each of the axes dcn, data, fsdp, tensor at most once'),
        (('fsdp', 'fsdp'), 'at most once'),
        ((('fsdp', 'tensor', 'data'), None), 'a dimension of 32 is not divisible by the 24 devices of fsdp, tensor, data'),
        (3, 'found 3'),
    ],
)
def test_values_that_mean_nothing_are_told(value, says):
    with pytest.raises(UserError, match=rf"^config\.sharding, 'backbone/layer.*': backbone/layer_0/attention/query/kernel.*{says}"):
        place(mesh(fsdp=4, tensor=2, data=3), SHAPES, rules=[('backbone/layer.*', value)])


def test_a_users_rule_comes_first_and_one_that_matches_nothing_is_told():
    placement, assigned = place(mesh(fsdp=2), SHAPES, rules=[('heads/.*', 'whole')])
    assert {path: spec_text(spec) for path, spec in placement.specs.items()} == dict(
        zip(SHAPES, ('- x fsdp', 'fsdp', 'whole'), strict=True)
    )
    assert assigned.hits == (1, 2)
    assert [placement.parts(path) for path in SHAPES] == [2, 2, 1]
    with pytest.raises(UserError, match=r"^Sharding rule 'head/\.\*' \(from config\.sharding\) matches no path\. Paths look like backbone"):
        place(mesh(fsdp=2), SHAPES, rules=[('head/.*', 'whole')])


def test_what_is_frozen_and_statistics_have_values_of_their_own():
    scale = 'backbone/norm/scale'
    frozen = [path for path in SHAPES if path.startswith('backbone')]
    placement, _ = place(mesh(fsdp=2), SHAPES, frozen=frozen, frozen_value='whole', rules=[(scale, 'fsdp')])
    assert [spec_text(placement.specs[path]) for path in SHAPES] == ['whole', 'fsdp', 'fsdp x -']
    placement, _ = place(mesh(fsdp=2), SHAPES, statistics=[scale])
    assert [spec_text(placement.specs[path]) for path in SHAPES] == ['- x fsdp', 'whole', 'fsdp x -']


def test_moments_lie_as_their_leaf_does_where_they_have_its_shape():
    placement, _ = place(mesh(fsdp=2), SHAPES)
    kernel = 'heads/main/output/kernel'
    assert placement.moment(kernel, (32, 3)) == placement.leaf(kernel)
    assert placement.moment(kernel, (3,)).spec == PartitionSpec(None)  # a factored one (Adafactor)
    assert placement.moment(kernel, (32,)).spec == PartitionSpec('fsdp')


def test_partitions_are_what_jax_says():
    assert partition(((), ('fsdp',), ('dcn', 'data'))) == PartitionSpec(None, 'fsdp', ('dcn', 'data'))


@pytest.mark.parametrize(
    ('model', 'size'),
    [
        ({'name': 'bert_tiny', 'width': 32, 'heads': 2, 'vocab_size': 30}, (8,)),
        ({'name': 'vit_ti16', 'depth': 2, 'image_size': 32}, (32, 32)),
    ],
)
def test_transformers_split_the_matrices_of_attention_and_mlp(model, size):
    """By columns, then by rows, as Megatron-LM does it; and nothing else."""
    found = build_model({'dtype': 'float32', 'param_dtype': 'float32', 'image_size': 0, **model})
    shapes = {path: spec.shape for path, spec in init_shapes(found.backbone, found.inputs(size))[0].items()}
    placement, _ = place(mesh(tensor=2), shapes, family=found.sharding)
    split = {
        path.split('/', 2)[2]: spec_text(spec) for path, spec in placement.specs.items() if any(spec) and path.split('/')[1].endswith('_1')
    }
    columns = {f'attention/{name}/kernel': '- x tensor' for name in ('query', 'key', 'value')} | {'mlp/fc1/kernel': '- x tensor'}
    biases = {f'{path.rpartition("/")[0]}/bias': 'tensor' for path in columns}
    assert split == columns | biases | {'attention/out/kernel': 'tensor x -', 'mlp/fc2/kernel': 'tensor x -'}
