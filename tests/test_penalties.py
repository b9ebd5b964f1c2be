import jax
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.penalties import penalty

RNG = np.random.default_rng(0)
PARAMS = {path: RNG.normal(size=(3, 2)).astype(np.float32) for path in ('backbone/a/kernel', 'backbone/b/kernel', 'heads/main/kernel')}
ANCHORS = {path: RNG.normal(size=(3, 2)).astype(np.float32) for path in ('backbone/a/kernel', 'backbone/b/kernel')}
TERMS = {'backbone/a/kernel': ('l2sp', 0.3), 'backbone/b/kernel': ('l1', 0.7), 'heads/main/kernel': ('l2sp', 0.5)}


def as_jax(tree):
    return jax.tree.map(jax.numpy.asarray, tree)


def test_value_and_gradient_as_written_in_the_papers():
    a, b, head = PARAMS.values()
    expected = 0.3 / 2 * np.sum((a - ANCHORS['backbone/a/kernel']) ** 2) + 0.7 * np.abs(b).sum() + 0.5 / 2 * np.sum(head**2)
    value, grads = jax.value_and_grad(penalty)(as_jax(PARAMS), TERMS, as_jax(ANCHORS))
    assert value == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(grads['backbone/a/kernel'], 0.3 * (a - ANCHORS['backbone/a/kernel']), rtol=1e-5)
    np.testing.assert_allclose(grads['backbone/b/kernel'], 0.7 * np.sign(b), rtol=1e-5)
    np.testing.assert_allclose(grads['heads/main/kernel'], 0.5 * head, rtol=1e-5)


def test_l2_ignores_the_anchor_and_a_leaf_without_a_term_is_free():
    value = penalty(as_jax(PARAMS), {'backbone/a/kernel': ('l2', 2.0)}, as_jax(ANCHORS))
    assert value == pytest.approx(np.sum(PARAMS['backbone/a/kernel'] ** 2), rel=1e-5)
    assert penalty(as_jax(PARAMS), {}, {}) == 0


def test_at_the_start_l2sp_costs_nothing_and_no_gradient_reaches_the_anchor():
    params = as_jax(PARAMS)
    terms = dict.fromkeys(PARAMS, ('l2sp', 1.0))
    assert penalty(params, terms, params) == 0
    grads = jax.grad(lambda anchors: penalty(params, terms, anchors))(as_jax(ANCHORS))
    assert all(not np.any(leaf) for leaf in grads.values())


def test_sums_are_float32_for_half_precision_leaves():
    leaf = jax.numpy.full((300, 300), 0.1, jax.numpy.bfloat16)
    expected = 0.5 * 90_000 * float(leaf[0, 0]) ** 2
    assert penalty({'w': leaf}, {'w': ('l2', 1.0)}, {}) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ('terms', 'message'),
    [
        ({'backbone/a/kernel': ('l2ps', 1.0)}, "no penalty 'l2ps'. Did you mean 'l2sp'"),
        ({'backbone/a/kernel': ('l2', -1.0)}, "coefficient of penalty 'l2' is -1.0"),
        ({'backbone/a/kernel': 0.1}, 'a penalty is a pair'),
        ({'backbone/c/kernel': ('l2', 1.0)}, 'does not train in this phase. Did you mean'),
    ],
)
def test_wrong_terms_are_refused(terms, message):
    with pytest.raises(UserError, match=message):
        penalty(as_jax(PARAMS), terms, {})
