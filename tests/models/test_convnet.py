"""The small convolutional net against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.errors import UserError
from jtl.models.base import Mode, init_shapes, unflatten
from jtl.models.convnet import convnet


def _numpy_stage(x, kernel, bias):
    batch, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.zeros((batch, height, width, kernel.shape[-1]))
    for i in range(height):
        for j in range(width):
            y[:, i, j] = np.tensordot(padded[:, i : i + 3, j : j + 3], kernel, 3) + bias
    y = np.maximum(y, 0)[:, : height // 2 * 2, : width // 2 * 2]
    return y.reshape(batch, height // 2, 2, width // 2, 2, -1).max((2, 4))


@pytest.mark.parametrize('size', [(8, 8), (7, 5)])
def test_equals_numpy(size):
    model = convnet(channels=(3, 4), dense=(6,))
    params, stats = init_shapes(model.backbone, model.inputs(size))
    assert not stats
    random = np.random.RandomState(0)
    leaves = {path: random.standard_normal(leaf.shape).astype(np.float32) for path, leaf in params.items()}
    x = random.standard_normal((2, *size, 1)).astype(np.float32)
    found = jax.jit(model.backbone.apply)({'params': unflatten(leaves, 'backbone')}, {'image': jnp.asarray(x)})
    for i in range(2):
        x = _numpy_stage(x, leaves[f'backbone/conv_{i}/conv/kernel'], leaves[f'backbone/conv_{i}/conv/bias'])
    flat = x.reshape(2, -1) @ leaves['backbone/dense_0/dense/kernel'] + leaves['backbone/dense_0/dense/bias']
    assert found.keys() == {'pooled'}
    np.testing.assert_allclose(found['pooled'], np.maximum(flat, 0), rtol=1e-4, atol=1e-4)


def test_the_plain_start_has_the_sizes_it_says():
    model = convnet()
    params, _ = init_shapes(model.backbone, model.inputs((28, 28)))
    assert {path.removeprefix('backbone/'): leaf.shape for path, leaf in params.items()} == {
        'conv_0/conv/kernel': (3, 3, 1, 32),
        'conv_0/conv/bias': (32,),
        'conv_1/conv/kernel': (3, 3, 32, 64),
        'conv_1/conv/bias': (64,),
        'dense_0/dense/kernel': (7 * 7 * 64, 128),
        'dense_0/dense/bias': (128,),
    }


def test_without_dense_stages_the_map_comes_out():
    model = convnet(channels=(2,), dense=(), image_channels=3)
    assert model.preprocessing.channels == 'RGB'
    out = model.backbone.init_with_output(jax.random.key(0), {'image': jnp.ones((2, 6, 6, 3))})[0]
    assert {name: value.shape for name, value in out.items()} == {'map': (2, 3, 3, 2)}


def test_dropout_only_in_training():
    model = convnet(channels=(2,), dense=(200,), dropout=0.5)
    x = {'image': jax.random.normal(jax.random.key(0), (2, 4, 4, 1))}
    variables = model.backbone.init(jax.random.key(1), x)
    still = model.backbone.apply(variables, x)['pooled']
    trained = model.backbone.apply(variables, x, {'dense_0': Mode(train=True)}, rngs={'dropout': jax.random.key(2)})['pooled']
    kept = np.asarray(trained != 0)
    np.testing.assert_allclose(trained[kept], 2 * still[kept], rtol=1e-5)
    assert 0.3 < kept[np.asarray(still != 0)].mean() < 0.7


def test_batch_norm_replaces_the_bias():
    params, stats = init_shapes((model := convnet(batch_norm=True)).backbone, model.inputs((8, 8)))
    assert 'backbone/conv_0/conv/bias' not in params
    assert {'backbone/conv_0/bn/scale', 'backbone/conv_0/bn/bias'} <= params.keys()
    assert sorted(stats) == sorted(f'backbone/conv_{i}/bn/{leaf}' for i in range(2) for leaf in ('mean', 'var'))


def test_an_image_too_small_for_the_pools():
    with pytest.raises(UserError, match=r'image_size is 3 x 8.*at least 4'):
        convnet().inputs((3, 8))
