import json
import math
from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jtl.checkpoint.leaf import apply, as_functions, describe, spec_after
from jtl.errors import UserError

fixed = settings(derandomize=True, deadline=None, max_examples=60)

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)


def array(shape):
    return np.arange(math.prod(shape), dtype=np.float32).reshape(shape)


@st.composite
def shape_and_functions(draw):
    """A shape and a chain of functions that fit it, drawn one after another on the shape they meet."""
    shape = first = draw(shapes)
    functions = []
    for _ in range(draw(st.integers(0, 3))):
        axis = draw(st.integers(-len(shape), len(shape) - 1)) if shape else 0
        kind = draw(st.sampled_from(['transpose', 'reshape', 'part', 'flip', 'squeeze', 'expand']))
        if kind == 'transpose':
            order = draw(st.permutations(range(len(shape))))
            functions.append((kind, *order))
            shape = tuple(shape[a] for a in order)
        elif kind == 'reshape':
            functions.append((kind, -1))
            shape = (math.prod(shape),)
        elif kind == 'part' and shape:
            n = draw(st.sampled_from([d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0]))
            functions.append((kind, draw(st.integers(0, n - 1)), n, axis))
            shape = tuple(s // n if a == axis % len(shape) else s for a, s in enumerate(shape))
        elif kind == 'flip' and shape:
            functions.append((kind, axis))
        elif kind == 'squeeze' and shape and shape[axis] == 1:
            functions.append((kind, axis))
            shape = tuple(s for a, s in enumerate(shape) if a != axis % len(shape))
        elif kind == 'expand':
            functions.append((kind, 0))
            shape = (1, *shape)
    return first, tuple(functions), shape


@fixed
@given(shape_and_functions())
def test_planned_shape_is_the_loaded_shape_and_numpy_equals_jax(drawn):
    first, functions, expected = drawn
    x = array(first)
    loaded = apply(functions, x)
    assert loaded.shape == expected
    assert spec_after(functions, jax.ShapeDtypeStruct(first, np.float32)).shape == expected
    assert jax.eval_shape(partial(apply, functions), jax.ShapeDtypeStruct(first, np.float32)).shape == expected
    np.testing.assert_array_equal(np.asarray(jax.jit(partial(apply, functions))(x)), loaded)


@fixed
@given(shapes, st.data())
def test_transpose_is_undone_by_its_inverse_and_equals_numpy(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    x = array(shape)
    there = apply((('transpose', *order),), x)
    np.testing.assert_array_equal(there, np.transpose(x, order))
    np.testing.assert_array_equal(apply((('transpose', *np.argsort(order).tolist()),), there), x)


@fixed
@given(shapes, st.data())
def test_parts_concatenated_give_the_whole(shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    n = data.draw(st.sampled_from([d for d in range(1, shape[axis] + 1) if shape[axis] % d == 0]))
    x = array(shape)
    parts = [apply((('part', i, n, axis),), x) for i in range(n)]
    assert len({p.shape for p in parts}) == 1
    np.testing.assert_array_equal(np.concatenate(parts, axis), x)


@fixed
@given(shapes, st.data())
def test_flip_reshape_squeeze_and_expand_equal_numpy(shape, data):
    x = array(shape)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    np.testing.assert_array_equal(apply((('flip', axis),), x), np.flip(x, axis))
    np.testing.assert_array_equal(apply((('reshape', -1, shape[-1]),), x), x.reshape(-1, shape[-1]))
    into = data.draw(st.integers(-len(shape) - 1, len(shape)))
    expanded = apply((('expand', into),), x)
    np.testing.assert_array_equal(expanded, np.expand_dims(x, into))
    np.testing.assert_array_equal(apply((('squeeze', into),), expanded), x)


def test_torch_kernels_become_flax_kernels():
    """Hand computed: OIHW to HWIO, of a 1x1 kernel with 2 inputs and 3 outputs; then depthwise (C,1,H,W) to (H,W,1,C)."""
    oihw = np.array([[1, 2], [3, 4], [5, 6]]).reshape(3, 2, 1, 1)
    assert apply((('transpose', 2, 3, 1, 0),), oihw)[0, 0].tolist() == [[1, 3, 5], [2, 4, 6]]
    assert apply((('transpose', 2, 3, 1, 0),), np.zeros((8, 1, 5, 5))).shape == (5, 5, 1, 8)


def test_functions_are_data():
    functions = (('transpose', 1, 0), ('reshape', 3, -1, 1), ('part', 0, 2, -1))
    assert as_functions(json.loads(json.dumps(functions))) == functions
    assert hash(as_functions([list(f) for f in functions])) == hash(functions)
    assert describe(functions) == 'transpose(1, 0) then reshape(3, -1, 1) then part(0, 2, -1)'
    assert describe(()) == ''


def test_spec_keeps_the_dtype_of_the_source():
    for dtype in (np.float64, np.int64, jax.numpy.bfloat16, np.bool_):
        assert spec_after((('flip', 0),), jax.ShapeDtypeStruct((2,), dtype)) == jax.ShapeDtypeStruct((2,), dtype)


@pytest.mark.parametrize(
    ('function', 'says'),
    [
        (('transpose', 0), r"transpose\(0\).*'w' of shape \(4, 3\).*1 axes, the array has 2"),
        (('transpose', 0, 0), 'named twice'),
        (('transpose', 0, 2), 'axis 2 is out of range'),
        (('reshape', 5, -1), r"reshape\(5, -1\).*'w' of shape \(4, 3\).*12 numbers"),
        (('reshape', -1, -1), 'at most one is -1'),
        (('reshape', 4, 4), '12 numbers'),
        (('reshape', 0, -1), '12 numbers'),
        (('reshape', -2, 6), 'whole numbers from 0'),
        (('part', 0, 2, 1), 'axis 1 of size 3 does not divide into 2'),
        (('part', 2, 2, 0), 'no part 2 of 2'),
        (('part', -1, 2, 0), 'no part -1 of 2'),
        (('part', 0, 0, 0), 'no part 0 of 0'),
        (('part', 0, 1, 2), 'axis 2 is out of range'),
        (('flip', -3), 'axis -3 is out of range'),
        (('squeeze', 0), 'size 4, not 1'),
        (('expand', 4), 'axis 4 is out of range'),
        (('flip', 0, 1), r"w: \('flip', 0, 1\) should be written \('flip', axis\)"),
        (('flip', '0'), 'whole numbers'),
        (('flip', True), 'whole numbers'),
        (('transposed', 0, 1), "no leaf function 'transposed'.*'transpose'"),
        (('zzzz',), 'Known: channels, expand, flip'),
        ('flip', r"leaf function is a tuple .*found 'flip'"),
        ((), 'leaf function is a tuple'),
    ],
)
def test_wrong_functions_say_what_is_wrong_alike_for_data_and_shapes(function, says):
    for call in (
        lambda: apply((function,), array((4, 3)), key='w'),
        lambda: spec_after((function,), jax.ShapeDtypeStruct((4, 3), np.float32), key='w'),
    ):
        with pytest.raises(UserError, match=f'(?s){says}'):
            call()
