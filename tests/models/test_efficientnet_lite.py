"""EfficientNet-Lite against logits that the original implementation gave (golden/generate.py), and facts of its paper."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, read
from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes, unflatten
from jtl.models.mbconv import InvertedBottleneck
from jtl.names import lookup

GENERATE = Path(__file__).parent / 'golden' / 'generate.py'
weight = lookup(f'{GENERATE}:weight', {}, 'golden')
images = lookup(f'{GENERATE}:images', {}, 'golden')


def _golden():
    with np.load(GENERATE.with_name('efficientnet_lite0.npz')) as file:
        shapes = {str(key): tuple(int(n) for n in shape if n) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
        return shapes, file['logits']


def _checkpoint(shapes):
    specs = {
        key: jax.ShapeDtypeStruct(shape, jnp.int32 if key.endswith('num_batches_tracked') else jnp.float32) for key, shape in shapes.items()
    }
    return Checkpoint('golden', 'rule', specs, lambda key: weight(key, shapes[key]))


def test_a_narrow_and_shallow_one():
    model = build_model({'name': 'efficientnet_lite0', 'width': 0.25, 'depth': 0.2})
    assert [stage.name for stage in model.backbone.stages] == ['stem', *(f'block_{i}' for i in range(7)), 'top']
    params, _ = init_shapes(model.backbone, model.inputs((32, 32)))
    assert params['backbone/stem/conv/kernel'].shape == (3, 3, 3, 8) and params['backbone/top/conv/kernel'].shape == (1, 1, 80, 320)
    for wrong in ({'width': 0.0}, {'depth': -1.0}):
        with pytest.raises(UserError, match='width and depth above 0'):
            build_model({'name': 'efficientnet_lite0', **wrong})


def test_logits_equal_those_of_the_original_and_every_key_is_used():
    shapes, logits = _golden()
    model = build_model({'name': 'efficientnet_lite0'})
    params, stats = init_shapes(model.backbone, model.inputs((64, 45)))
    head = {
        'heads/main/output/kernel': jax.ShapeDtypeStruct((1280, 1000), jnp.float32),
        'heads/main/output/bias': jax.ShapeDtypeStruct((1000,), jnp.float32),
    }
    checkpoint = _checkpoint(shapes)
    found = adapt(params | stats | head, {'': Source(checkpoint, model.weights[0].table)}, head='keep')
    assert all(origin.status != 'new' for origin in found.origins.values())
    assert sorted(key for _, key, *_ in found.ignored) == sorted(key for key in shapes if key.endswith('num_batches_tracked'))
    assert sum(int(np.prod(leaf.shape)) for leaf in (params | head).values()) == 4_652_008

    leaves = {path: read(origin, checkpoint) for path, origin in found.origins.items()}
    variables = {
        'params': unflatten({path: leaves[path] for path in params}, 'backbone'),
        'batch_stats': unflatten({path: leaves[path] for path in stats}, 'backbone'),
    }
    features = jax.jit(model.backbone.apply)(variables, {'image': jnp.asarray(images())})
    assert features['map'].shape == (2, 2, 2, 1280)
    ours = features['map'].mean((1, 2)) @ leaves['heads/main/output/kernel'] + leaves['heads/main/output/bias']
    assert logits.std() > 0.1, 'the golden logits say something'
    np.testing.assert_allclose(ours, logits, atol=1e-4, rtol=0)


def test_old_head_is_not_missed_with_a_new_one():
    shapes, _ = _golden()
    model = build_model({'name': 'efficientnet_lite0'})
    params, stats = init_shapes(model.backbone, model.inputs((64, 45)))
    head = {'heads/main/output/kernel': jax.ShapeDtypeStruct((1280, 10), jnp.float32)}
    found = adapt(params | stats | head, {'': Source(_checkpoint(shapes), model.weights[0].table)}, head='new')
    assert [path for path, origin in found.origins.items() if origin.status == 'new'] == ['heads/main/output/kernel']


@pytest.mark.parametrize(('variant', 'blocks', 'million'), [(0, 16, 4.7), (1, 21, 5.4), (2, 21, 6.1), (3, 24, 8.2), (4, 30, 13.0)])
def test_sizes_are_those_published(variant, blocks, million):
    model = build_model({'name': f'efficientnet_lite{variant}'})
    size = (224, 240, 260, 280, 300)[variant]
    params, _ = init_shapes(model.backbone, model.inputs((32, 32)))
    with_head = sum(int(np.prod(leaf.shape)) for leaf in params.values()) + 1281 * 1000
    assert round(with_head / 1e6, 1) == million
    assert [stage.name for stage in model.backbone.stages] == ['stem', *(f'block_{i}' for i in range(blocks)), 'top']
    for preprocessing in (model.preprocessing, model.weights[0].preprocessing):
        assert preprocessing.size == (size, size)
        assert (preprocessing.mean, preprocessing.std) == ((127.0,) * 3, (128.0,) * 3)
        assert preprocessing.interpolation == 'bicubic'
        assert round(size / preprocessing.crop) == size + 32


def test_paths_are_readable():
    model = build_model({'name': 'efficientnet_lite0'})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    assert params['backbone/block_3/depthwise/kernel'].shape == (5, 5, 1, 144)
    assert {f'backbone/block_3/depthwise_bn/{leaf}' for leaf in ('scale', 'bias')} <= params.keys()
    assert {f'backbone/block_3/depthwise_bn/{leaf}' for leaf in ('mean', 'var')} <= stats.keys()
    assert not params.keys() & stats.keys()
    assert not any(path.startswith('backbone/block_0/expand') for path in params), 'the first block does not widen'


def test_stochastic_depth_grows_with_depth_and_needs_training():
    stages = build_model({'name': 'efficientnet_lite0', 'stochastic_depth': 0.2}).backbone.stages
    rates = [stage.make().drop_rate for stage in stages if stage.name.startswith('block')]
    np.testing.assert_allclose(rates, [0.2 * i / 16 for i in range(16)])

    block = InvertedBottleneck(4, 8, jax.nn.relu6, drop_rate=0.5)
    x = jax.random.normal(jax.random.key(0), (64, 5, 5, 4))
    variables = jax.jit(block.init)(jax.random.key(1), {'map': x})
    run = jax.jit(block.apply, static_argnums=2)
    branch = run(variables, {'map': x}, EVAL)['map'] - x
    trained = run(variables, {'map': x}, Mode(train=True), rngs={'dropout': jax.random.key(2)})['map'] - x
    kept = np.asarray(jnp.abs(trained).max((1, 2, 3)) > 1e-4)
    assert 16 < kept.sum() < 48
    np.testing.assert_allclose(trained, np.where(kept[:, None, None, None], 2 * branch, 0), atol=1e-5)


@pytest.mark.parametrize('option', [{'stochastic_depth': 1.0}, {'bn_momentum': 1.5}])
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=next(iter(option))):
        build_model({'name': 'efficientnet_lite0'} | option)


@pytest.mark.parametrize('momentum', [0.99, 0.9])
def test_bn_momentum_decides_how_much_of_the_running_statistics_is_kept(momentum):
    stem = build_model({'name': 'efficientnet_lite0', 'bn_momentum': momentum}).backbone.stages[0].make()
    x = jax.random.normal(jax.random.key(0), (8, 6, 6, 3)) * 3
    variables = jax.jit(stem.init)(jax.random.key(1), {'image': x})
    apply = jax.jit(partial(stem.apply, mutable=['batch_stats']), static_argnums=2)
    _, new = apply(variables, {'image': x}, Mode(batch_statistics=True))
    convolved = jax.lax.conv_general_dilated(
        x, variables['params']['conv']['kernel'], (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    expected = momentum * 1.0 + (1 - momentum) * convolved.var((0, 1, 2))
    np.testing.assert_allclose(new['batch_stats']['bn']['var'], expected, rtol=1e-4)
