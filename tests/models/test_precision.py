"""Dtypes of stages and heads, and stages that are computed twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes
from jtl.models.precision import with_precision, with_remat
from jtl.tasks.heads import Head

MODEL = build_model(
    {'name': 'bert_tiny', 'width': 16, 'depth': 2, 'heads': 2, 'vocab_size': 20, 'pooler': False, 'image_size': 0}
    | {'dtype': 'float32', 'param_dtype': 'float32', 'dropout': 0.3}
)
HEADS = {'main': Head(3)}
IDS = np.arange(12).reshape(2, 6) % 20
BATCH = {'ids': IDS, 'mask': IDS < 18, 'segments': np.zeros_like(IDS)}


def variables(backbone):
    shapes = jax.eval_shape(backbone.init, jax.random.key(0), BATCH)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def tokens(backbone, stop=None):
    return backbone.apply(variables(backbone), BATCH, stop=stop)['tokens']


def test_a_stage_computes_hands_on_and_keeps_parameters_as_its_rule_says():
    rules = [('backbone/layer_0', {'compute': 'bfloat16'}), ('backbone/layer_1', {'params': 'float16', 'output': 'float16'})]
    backbone, heads, assigned = with_precision(MODEL.backbone, HEADS, [*rules, ('heads/.*', {'compute': 'bfloat16', 'params': 'bfloat16'})])
    assert assigned.hits == (1, 1, 1)
    assert [str(tokens(backbone, stop).dtype) for stop in ('layer_0', 'layer_1', None)] == ['float32', 'bfloat16', 'float16']
    dtypes = {path.split('/')[1]: str(spec.dtype) for path, spec in init_shapes(backbone, MODEL.inputs((6,)))[0].items()}
    assert dtypes == {'embeddings': 'float32', 'layer_0': 'float32', 'layer_1': 'float16'}
    assert (heads['main'].dtype, heads['main'].param_dtype, HEADS['main'].dtype) == (jnp.bfloat16, jnp.bfloat16, jnp.float32)
    assert 1e-4 < np.abs(tokens(backbone, 'layer_1') - tokens(MODEL.backbone, 'layer_1')).max() < 0.1  # rounded, and not more than that


def test_without_rules_nothing_is_another():
    backbone, heads, _ = with_precision(MODEL.backbone, HEADS, ())
    assert backbone == MODEL.backbone and heads == HEADS


@pytest.mark.parametrize(
    ('rule', 'says'),
    [
        (('backbone/layer_0', 'bfloat16'), r'a dict with params, compute or output'),
        (('backbone/layer_0', {}), r'a dict with params, compute or output'),
        (('backbone/layer_0', {'compte': 'bfloat16'}), "'compte' is none of params, compute, output. .*compute"),
        (('backbone/layer_0', {'compute': 'bf16'}), "compute is one of float32, bfloat16, float16, found 'bf16'"),
        (('backbone/layer_7', {'compute': 'bfloat16'}), r'matches no path\. The nearest paths are backbone/layer_[01]'),
    ],
)
def test_wrong_rules_of_precision(rule, says):
    with pytest.raises(UserError, match=says):
        with_precision(MODEL.backbone, HEADS, [rule])


def loss_of(backbone, mode):
    modes = {stage.name: mode for stage in backbone.stages}

    def loss(given):
        return (backbone.apply(given, BATCH, modes, rngs={'dropout': jax.random.key(1)})['tokens'] ** 3).sum()

    return loss


@pytest.mark.parametrize('mode', [EVAL, Mode(train=True)])
def test_a_stage_that_is_computed_twice_gives_the_same(mode):
    """Values, gradients and names of parameters; with dropout, whose masks are drawn again."""
    twice, assigned = with_remat(MODEL.backbone, [('backbone/layer_.*', True)])
    assert assigned.hits == (2,)
    given = variables(MODEL.backbone)
    assert jax.tree.structure(given) == jax.tree.structure(variables(twice))
    once, again = (jax.value_and_grad(loss_of(backbone, mode))(given) for backbone in (MODEL.backbone, twice))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4), once, again)


def test_what_is_computed_twice_costs_one_more_forward_pass_and_is_not_kept():
    def flops(backbone, loss=None):
        made = loss or jax.grad(loss_of(backbone, EVAL))
        return jax.jit(made).lower(given).cost_analysis()['flops']

    def kept(backbone):
        pulled = jax.eval_shape(lambda given: jax.vjp(loss_of(backbone, EVAL), given)[1], given)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pulled))

    given = variables(MODEL.backbone)
    twice, _ = with_remat(MODEL.backbone, [('backbone/layer_0', True)])
    layer = flops(MODEL.backbone, lambda g: MODEL.backbone.apply(g, BATCH, stop='layer_1')) - flops(
        MODEL.backbone, lambda g: MODEL.backbone.apply(g, BATCH, stop='layer_0')
    )
    assert layer > 1e5
    assert flops(twice) - flops(MODEL.backbone) == pytest.approx(layer, rel=0.1)  # its last sums are read by nobody the second time
    parameters = sum(leaf.nbytes for leaf in jax.tree.leaves(given))
    assert kept(MODEL.backbone) - kept(twice) > 0.4 * (kept(MODEL.backbone) - parameters)  # one layer of two, and the embeddings


@pytest.mark.parametrize(('rule', 'says'), [(('backbone/layer_.*', 'full'), 'True or False'), (('layer_0', True), 'matches no path')])
def test_wrong_rules_of_remat(rule, says):
    with pytest.raises(UserError, match=says):
        with_remat(MODEL.backbone, [rule])
