"""ResNet against logits that the original implementations gave (golden/make_resnet*.py), and facts of its papers."""

from pathlib import Path

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jtl
from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.data.base import Data, Split
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import Mode, init_shapes
from jtl.models.resnet import Block, resnet, resnet18, resnet50
from jtl.tasks.base import HEAD

GOLDEN = Path(__file__).parent / 'golden'
SIZE = (37, 52)
SIZES = {'resnet18': 11_689_512, 'resnet34': 21_797_672, 'resnet50': 25_557_032, 'resnet101': 44_549_160, 'resnet152': 60_192_808}


def test_logits_equal_those_of_torchvision():
    golden_case.check('resnet_torchvision', {'name': 'resnet18', 'depths': (1, 1, 1, 1)}, size=SIZE, tolerance=2e-5)


def test_logits_equal_those_of_transformers():
    golden_case.check('resnet_transformers', {'name': 'resnet50', 'depths': (2, 1), 'width': 4}, size=SIZE, tolerance=2e-5)


def test_logits_equal_those_of_keras():
    golden_case.check('resnet_keras', {'name': 'keras_resnet50', 'depths': (1, 1)}, size=SIZE, tolerance=2e-5)


def test_flax_file_of_transformers_gives_its_logits():
    fields = jtl.default_config()
    with fields.unlocked(), fields.ignore_type():
        fields.model.update({'name': 'resnet18', 'depths': (2, 1), 'width': 4, 'image_size': SIZE})
    fields.init_from, fields.init_head, fields.steps = str(GOLDEN / 'resnet_flax.msgpack'), 'keep', 1
    split = Split([{'image': np.zeros((*SIZE, 3), np.uint8), 'label': 0}] * 2, np.zeros(2, np.int32), str)
    experiment = jtl.build(fields, data=Data({'train': split}, ('a', 'b', 'c')))
    assert {leaf.status for leaf in experiment.plan.leaves} == {'renamed'}, 'Flax kernels lie as they do here'
    assert experiment.preprocessing.interpolation == 'bicubic'
    leaves = jtl.load_leaves(experiment)
    found = jax.jit(lambda leaves, x: experiment.net.apply(leaves, {'image': x})[0][HEAD])(leaves, golden_case.images(SIZE))
    with np.load(GOLDEN / 'resnet_flax.npz') as file:
        assert np.abs(file['logits']).max() > 0.1
        np.testing.assert_allclose(found, file['logits'], atol=2e-5, rtol=0)


@pytest.mark.parametrize('name', SIZES)
def test_sizes_are_those_published(name):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    head = ((512 if name in ('resnet18', 'resnet34') else 2048) + 1) * 1000
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) + head == SIZES[name]
    convolutions = sum(path.endswith('kernel') and '/shortcut/' not in path for path in params)
    assert convolutions + 1 == int(name.removeprefix('resnet')), 'layers with weights, that of the classifier among them'
    assert len(stats) == 2 * sum(path.endswith('scale') for path in params)
    assert [stage.name for stage in model.backbone.stages][:3] == ['stem', 'layer_1_0', 'layer_1_1']
    assert {w.preprocessing.size for w in model.weights} == {(224, 224)}
    assert round(224 / model.weights[0].preprocessing.crop) == 256


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case: compiling an initialisation takes longer than all that is tested."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape), shapes)


@pytest.mark.parametrize(('name', 'count'), [('50', 25_636_712), ('101', 44_707_176), ('152', 60_419_944)])
def test_sizes_of_keras_are_those_published(name, count):
    """Keras counts the statistics too."""
    model = build_model({'name': f'keras_resnet{name}'})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    assert sum(int(np.prod(leaf.shape)) for leaf in (params | stats).values()) + 2049 * 1000 == count
    for weights in model.weights:
        found = weights.preprocessing
        assert (found.channels, found.mean, found.std) == ('BGR', (103.939, 116.779, 123.68), (1.0,) * 3)


TINY = resnet(depths=(1, 1), width=4)
X = golden_case.images((19, 14))
VARIABLES = _fill(TINY.backbone.init, {'image': X})


def test_every_cut_equals_running_through_and_gives_its_statistics():
    mode = Mode(True, True)
    names = [stage.name for stage in TINY.backbone.stages]
    modes = dict.fromkeys(names, mode)
    whole, new = TINY.backbone.apply(VARIABLES, {'image': X}, modes, mutable=['batch_stats'])
    assert whole['map'].shape == (2, 3, 2, 32) and whole.keys() == {'map'}
    for cut in names[1:]:
        middle, first = TINY.backbone.apply(VARIABLES, {'image': X}, modes, stop=cut, mutable=['batch_stats'])
        end, second = TINY.backbone.apply(VARIABLES, middle, modes, start=cut, mutable=['batch_stats'])
        np.testing.assert_array_equal(end['map'], whole['map'], f'cut at {cut}')
        if mode.batch_statistics:
            found = {name: (second if names.index(name) >= names.index(cut) else first)['batch_stats'][name] for name in new['batch_stats']}
            jax.tree.map(np.testing.assert_array_equal, found, new['batch_stats'])


def test_bfloat16_computes_near_float32():
    half = resnet(depths=(1, 1), width=4, dtype=jnp.bfloat16)
    found = jax.jit(half.backbone.apply)(VARIABLES, {'image': X})['map']
    wanted = jax.jit(TINY.backbone.apply)(VARIABLES, {'image': X})['map']
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=0.05 * float(jnp.abs(wanted).max()))


@pytest.mark.parametrize('zero', [True, False])
def test_new_block_starts_as_its_shortcut(zero):
    block = Block(2, zero_init=zero)
    x = golden_case.images((5, 4), channels=8)
    variables = _fill(block.init, {'map': x})
    assert set(variables['params']) == {'conv_1', 'bn_1', 'conv_2', 'bn_2', 'conv_3', 'bn_3'}
    start = jax.jit(lambda key: block.init(key, {'map': x})['params']['bn_3'])(jax.random.key(0))
    variables['params']['bn_3'] = start
    variables['batch_stats']['bn_3']['mean'] *= 0
    assert np.array_equal(block.apply(variables, {'map': x})['map'], np.maximum(x, 0)) == zero


@pytest.mark.parametrize('first', [False, True])
def test_which_convolution_of_a_bottleneck_has_the_stride(first):
    """v1.5 strides in the 3 x 3 and still sees a pixel that the 1 x 1 of v1 skips."""
    block = Block(1, stride=2, stride_first=first, epsilon=0.0)
    x = np.zeros((1, 4, 4, 4), np.float32)
    variables = jax.tree.map(jnp.ones_like, _fill(block.init, {'map': x}))
    variables['batch_stats'] = {
        name: {'mean': np.zeros_like(leaves['mean']), 'var': leaves['var']} for name, leaves in variables['batch_stats'].items()
    }
    variables['params'] = {
        name: leaves if 'kernel' in leaves else {'scale': leaves['scale'], 'bias': np.zeros_like(leaves['bias'])}
        for name, leaves in variables['params'].items()
    }
    x[0, 1, 1] = 1
    seen = block.apply(variables, {'map': x})['map'][0, :, :, 0]
    # the shortcut skips the pixel too; all kernels are ones, so the window of each output counts it once for each of four channels
    np.testing.assert_array_equal(seen, np.zeros((2, 2)) if first else np.full((2, 2), 4.0))


def _in_memory(name):
    """A checkpoint of the keys and shapes of a golden file."""
    with np.load(GOLDEN / f'{name}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
    specs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    return Checkpoint(name, 'golden', specs, lambda key: golden_case.weight(key, shapes[key]))


def test_grey_pictures_get_the_sum_of_the_colour_kernels():
    model = resnet18(depths=(1, 1, 1, 1), image_channels=1)
    assert (model.preprocessing.channels, model.weights[0].preprocessing.channels) == ('L', 'L')
    np.testing.assert_allclose(model.preprocessing.mean, [(0.485 + 0.456 + 0.406) / 3 * 255])
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    checkpoint = _in_memory('resnet_torchvision')
    found = adapt(params | stats, {'': Source(checkpoint, model.weights[0].table)}).origins['backbone/stem/conv/kernel']
    wanted = golden_case.weight('conv1.weight', (64, 3, 7, 7)).transpose(2, 3, 1, 0).sum(2, keepdims=True)
    np.testing.assert_allclose(read(found, checkpoint), wanted, atol=1e-6)


def test_a_shallower_checkpoint_is_refused_with_the_missing_keys():
    model = resnet18()
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    checkpoint = _in_memory('resnet_torchvision')
    table = choose_table(checkpoint, [weights.table for weights in model.weights], params | stats)
    with pytest.raises(CheckpointError, match=r'40 missing[^$]*backbone/layer_\{1\.\.\.4\}_1/conv'):
        adapt(params | stats, {'': Source(checkpoint, table)})


@pytest.mark.parametrize(
    ('golden', 'name'), [('resnet_keras', 'resnet50'), ('resnet_torchvision', 'keras_resnet50'), ('bit_npz', 'resnet50')]
)
def test_checkpoints_of_another_lineage_are_refused(golden, name):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        choose_table(_in_memory(golden), [weights.table for weights in model.weights], params | stats)


def test_bn_momentum_and_the_first_group_without_stride():
    model = resnet50(depths=(1,), width=2, bn_momentum=0.75)
    variables = _fill(model.backbone.init, {'image': X})
    _, new = model.backbone.apply(variables, {'image': X}, {'stem': Mode(True, True)}, stop='layer_1_0', mutable=['batch_stats'])
    kernel = variables['params']['stem']['conv']['kernel']
    convolved = jax.lax.conv_general_dilated(X, kernel, (2, 2), ((3, 3), (3, 3)), dimension_numbers=('NHWC', 'HWIO', 'NHWC'))
    kept = 0.75 * variables['batch_stats']['stem']['bn']['mean']
    np.testing.assert_allclose(new['batch_stats']['stem']['bn']['mean'], kept + 0.25 * convolved.mean((0, 1, 2)), atol=1e-5)
    assert jax.eval_shape(model.backbone.apply, variables, {'image': X})['map'].shape == (2, 5, 4, 8)


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'depths': ()}, 'depths'),
        ({'depths': (1, 0)}, 'depths'),
        ({'width': 0}, 'width'),
        ({'bn_momentum': 1.5}, 'bn_momentum'),
        ({'image_channels': 0}, 'image_channels'),
        ({'depths': 3}, 'kind of its default'),
    ],
)
def test_options_out_of_range(option, message):
    with pytest.raises(UserError, match=message):
        build_model({'name': 'resnet50'} | option)
