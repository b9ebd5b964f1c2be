"""The depthwise convolution against `nn.Conv(feature_group_count=C)`, value and gradients; squeeze-and-excite by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.models.layers import DepthwiseConv, SqueezeExcite, depthwise_conv, pads, stochastic_depth


def _pair(kernel, stride, channels, dtype=jnp.float32):
    ours = DepthwiseConv(kernel, stride, dtype=dtype)
    reference = nn.Conv(
        channels,
        (kernel, kernel),
        strides=(stride, stride),
        padding='SAME',
        feature_group_count=channels,
        use_bias=False,
        dtype=dtype,
    )
    return ours, reference


@pytest.mark.parametrize(('height', 'width', 'kernel', 'stride'), [(8, 7, 3, 1), (5, 4, 3, 2), (1, 4, 4, 3)])
def test_equals_grouped_convolution(height, width, kernel, stride):
    ours, reference = _pair(kernel, stride, 3)
    x = jax.random.normal(jax.random.key(0), (2, height, width, 3))
    shapes = [jax.eval_shape(module.init, jax.random.key(1), x) for module in (ours, reference)]
    assert shapes[0] == shapes[1], 'the same checkpoint fits'
    variables = {'params': {'kernel': jax.random.normal(jax.random.key(1), shapes[0]['params']['kernel'].shape)}}

    def run(module):
        def loss(variables, x):
            y = module.apply(variables, x)
            return jnp.sum(jnp.sin(y)), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    ((_, y), grads), ((_, y_ref), grads_ref) = run(ours), run(reference)
    assert y.shape == (2, -(-height // stride), -(-width // stride), 3)
    np.testing.assert_allclose(y, y_ref, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, grads_ref)


@pytest.mark.parametrize(('kernel', 'stride', 'padding'), [(3, 2, 1), (4, 1, 3), (3, 2, 'VALID')])
def test_padding_and_bias_are_those_of_a_convolution(kernel, stride, padding):
    x = jax.random.normal(jax.random.key(0), (2, 8, 7, 3))
    params = {'kernel': jax.random.normal(jax.random.key(1), (kernel, kernel, 1, 3)), 'bias': jnp.arange(3.0)}
    reference = nn.Conv(3, (kernel, kernel), strides=(stride, stride), padding=pads(padding), feature_group_count=3)
    ours = DepthwiseConv(kernel, stride, padding, use_bias=True)
    np.testing.assert_allclose(ours.apply({'params': params}, x), reference.apply({'params': params}, x), atol=1e-5)


def test_squeeze_excite_by_hand():
    """One picture of two pixels and two channels, one reduced channel."""
    x = jnp.array([[[[1.0, 2.0], [3.0, -6.0]]]])  # means 2 and -2
    params = {
        'reduce': {'kernel': jnp.array([[2.0], [1.0]]), 'bias': jnp.array([1.0])},  # relu(2 * 2 - 2 + 1) = 3
        'expand': {'kernel': jnp.array([[1.0, -1.0]]), 'bias': jnp.array([0.0, 3.0])},  # 3 and 0
    }
    gate = 1 / (1 + np.exp(-np.array([3.0, 0.0])))
    np.testing.assert_allclose(SqueezeExcite(1).apply({'params': params}, x), x * gate, rtol=1e-6)


def test_bfloat16_sums_in_float32():
    ours, _ = _pair(3, 1, 4, jnp.bfloat16)
    x = jax.random.normal(jax.random.key(0), (2, 9, 9, 4))
    y, variables = jax.jit(ours.init_with_output)(jax.random.key(1), x)
    assert y.dtype == jnp.bfloat16
    assert variables['params']['kernel'].dtype == jnp.float32
    rounded = x.astype(jnp.bfloat16).astype(jnp.float32), variables['params']['kernel'].astype(jnp.bfloat16).astype(jnp.float32)
    exact = jax.jit(depthwise_conv)(*rounded)
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16), 'rounded once, at the end')


def test_form_follows_the_platform_compiled_for_not_the_machine():
    def lowered(platform):
        traced = jax.jit(depthwise_conv, static_argnums=2).trace(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 1, 4)), 2)
        return traced.lower(lowering_platforms=(platform,)).as_text()

    assert 'feature_group_count = 4' in lowered('tpu')
    assert 'feature_group_count = 4' in lowered('cuda')
    assert 'stablehlo.convolution' not in lowered('cpu')


def test_stochastic_depth_keeps_the_expectation_and_its_key_is_the_path():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return stochastic_depth(self, x, 0.25)

    module, x = Twice(), jnp.ones((4000, 1, 2, 1))
    out = module.apply({}, x, rngs={'dropout': jax.random.key(0)})
    assert set(np.unique(out)) == {0.0, np.float32(1 / 0.75)}
    np.testing.assert_array_equal(out[:, 0, 0], out[:, 0, 1], 'an example is dropped whole')
    np.testing.assert_allclose(out.mean(), 1.0, atol=0.05)
    np.testing.assert_array_equal(out, module.apply({}, x, rngs={'dropout': jax.random.key(0)}))
