"""Inception v3 against logits that the original implementations gave (golden/make_inception_v3.py), and facts of its paper."""

import math
from functools import partial

import golden_case
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.data.images import normalize
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import EVAL, Mode, init_shapes
from jtl.models.inception_v3 import Module, inception_v3, keras_inception_v3

SIZE = (98, 75)
STAGES = [
    *('conv_1a', 'conv_2a', 'conv_2b', 'conv_3b', 'conv_4a', 'mixed_5b', 'mixed_5c', 'mixed_5d'),
    *('mixed_6a', 'mixed_6b', 'mixed_6c', 'mixed_6d', 'mixed_6e', 'mixed_7a', 'mixed_7b', 'mixed_7c'),
]


@pytest.mark.parametrize(('golden', 'name'), [('torchvision', 'inception_v3'), ('keras', 'keras_inception_v3')])
def test_logits_equal_those_of_the_original(golden, name):
    golden_case.check(f'inception_v3_{golden}', {'name': name, 'width': 1 / 16}, size=SIZE, gain=1.5, tolerance=2e-5)


def test_sizes_are_those_published():
    head = 2049 * 1000
    model = inception_v3()
    params, _ = init_shapes(model.backbone, model.inputs((75, 75)))
    assert sum(math.prod(leaf.shape) for leaf in params.values()) + head == 23_834_568, 'torchvision without auxiliary classifier'
    assert [stage.name for stage in model.backbone.stages] == STAGES
    model = keras_inception_v3()
    params, stats = init_shapes(model.backbone, model.inputs((75, 75)))
    assert sum(math.prod(leaf.shape) for leaf in (params | stats).values()) + head == 23_851_784, (
        'Keras counts statistics, and has no scales'
    )


def test_maps_have_the_sizes_of_the_paper():
    model = inception_v3()
    x = {'image': jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)}
    variables = jax.eval_shape(model.backbone.init, jax.random.key(0), x)
    sizes = []
    for start, stop in zip(STAGES, [*STAGES[1:], None], strict=True):
        x = jax.eval_shape(partial(model.backbone.apply, start=start, stop=stop), variables, x)
        sizes.append(x['map'].shape[1:])
    assert sizes[:5] == [(149, 149, 32), (147, 147, 32), (73, 73, 64), (73, 73, 80), (35, 35, 192)]
    assert sizes[5:] == [*[(35, 35, c) for c in (256, 288, 288)], *[(17, 17, 768)] * 5, (8, 8, 1280), *[(8, 8, 2048)] * 2]


def test_preprocessing_of_torchvision_is_what_its_model_makes_of_its_transform():
    torchvision, timm = (weights.preprocessing for weights in inception_v3().weights)
    pixels = np.random.RandomState(0).uniform(0, 255, (2, 5, 4, 3)).astype(np.float32)
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    transformed = (pixels / 255 - mean) / std
    undone = transformed * (std / 0.5) + (mean - 0.5) / 0.5  # transform_input=True
    np.testing.assert_allclose(normalize(pixels, torchvision), undone, atol=1e-5)
    np.testing.assert_allclose(normalize(pixels, keras_inception_v3().weights[0].preprocessing), pixels / 127.5 - 1, atol=1e-6)
    assert round(299 / torchvision.crop) == 342 and (timm.crop, timm.interpolation) == (0.875, 'bicubic')


@pytest.mark.parametrize('keras', [False, True])
def test_averages_at_the_border(keras):
    stage = Module((('average',),), count_padding=not keras)
    found = stage.apply({}, {'map': jnp.ones((1, 3, 4, 1))})['map'][0, :, :, 0]
    corner, edge = (1.0, 1.0) if keras else (4 / 9, 6 / 9)
    wanted = [[corner, edge, edge, corner], [edge, 1, 1, edge], [corner, edge, edge, corner]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def _fill(init, *inputs):
    """Variables of the shapes that `init` makes, by the rule of golden_case: compiling an initialisation takes longer than all that is tested."""
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree_util.tree_map_with_path(
        lambda path, s: golden_case.weight('/'.join(key.key for key in path), s.shape, gain=1.5), shapes
    )


MODEL = inception_v3(width=1 / 16)
VARIABLES = _fill(MODEL.backbone.init, {'image': jnp.zeros((1, 75, 75, 3))})


X = {'map': jnp.asarray(golden_case.images((7, 6), channels=4))}


@pytest.mark.parametrize('mode', [EVAL, Mode(True, True)])
def test_every_cut_equals_running_through(mode):
    """Of two convolutions and a module, op by op: equal bit by bit."""
    run = partial(MODEL.backbone.apply, VARIABLES, modes=dict.fromkeys(STAGES[3:6], mode), mutable=['batch_stats'])
    whole, _ = run(X, start='conv_3b', stop='mixed_5c')
    assert whole['map'].shape == (2, 2, 1, 16) and whole.keys() == {'map'}
    for cut in ('conv_4a', 'mixed_5b'):
        middle, _ = run(X, start='conv_3b', stop=cut)
        end, _ = run(middle, start=cut, stop='mixed_5c')
        np.testing.assert_array_equal(end['map'], whole['map'], f'cut at {cut}')


def test_bfloat16_computes_near_float32():
    half = inception_v3(width=1 / 16, dtype=jnp.bfloat16)
    found = half.backbone.apply(VARIABLES, X, start='conv_3b', stop='mixed_5b')['map']
    wanted = MODEL.backbone.apply(VARIABLES, X, start='conv_3b', stop='mixed_5b')['map']
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(np.float32), wanted, atol=0.05 * float(jnp.abs(wanted).max()))


def _golden(name):
    """A checkpoint of the keys and shapes of a golden file."""
    with np.load(golden_case.GOLDEN / f'{name}.npz') as file:
        shapes = {str(key): tuple(int(n) for n in shape if n >= 0) for key, shape in zip(file['keys'], file['shapes'], strict=True)}
    specs = {key: jax.ShapeDtypeStruct(shape, jnp.float32) for key, shape in shapes.items()}
    return Checkpoint(name, 'golden', specs, lambda key: golden_case.weight(key, shapes[key]))


def test_auxiliary_classifier_is_dropped_and_tells_torchvision_from_timm():
    checkpoint = _golden('inception_v3_torchvision')
    params, stats = init_shapes(MODEL.backbone, MODEL.inputs((75, 75)))
    table = choose_table(checkpoint, [weights.table for weights in MODEL.weights], params | stats)
    found = adapt(params | stats, {'': Source(checkpoint, table)})
    auxiliary = {key for key in checkpoint.specs if key.startswith('AuxLogits.')}
    assert len(auxiliary) == 14 and auxiliary < {item.key for item in found.ignored}
    assert table.name == 'torchvision Inception v3'
    without = Checkpoint('timm', 'golden', {k: v for k, v in checkpoint.specs.items() if k not in auxiliary}, checkpoint.read)
    assert choose_table(without, [weights.table for weights in MODEL.weights], params | stats).name == 'timm Inception v3'


@pytest.mark.parametrize(('golden', 'name'), [('keras', 'inception_v3'), ('torchvision', 'keras_inception_v3')])
def test_checkpoints_of_the_other_lineage_are_refused(golden, name):
    model = build_model({'name': name})
    params, stats = init_shapes(model.backbone, model.inputs((75, 75)))
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        choose_table(_golden(f'inception_v3_{golden}'), [weights.table for weights in model.weights], params | stats)


def test_layers_of_keras_are_counted_by_depth():
    """In a module, what is farther from its end comes first; at equal distance the branches come in their order."""
    paths = [rule.pattern.split('/', 1)[1] for rule in keras_inception_v3().weights[0].table.rules if rule.pattern.endswith('kernel')]
    assert len(paths) == 94
    assert [path.split('/')[1] for path in paths if path.startswith('mixed_5b')] == [
        *('branch3x3dbl_1', 'branch5x5_1', 'branch3x3dbl_2'),
        *('branch1x1', 'branch5x5_2', 'branch3x3dbl_3', 'branch_pool'),
    ]
    assert [path.split('/')[1] for path in paths if path.startswith('mixed_7c')] == [
        *('branch3x3dbl_1', 'branch3x3_1', 'branch3x3dbl_2'),
        *('branch3x3_2a', 'branch3x3_2b', 'branch3x3dbl_3a', 'branch3x3dbl_3b', 'branch1x1', 'branch_pool'),
    ]
    numbers = {'kernel': 0, 'beta': 0, 'moving_mean': 1, 'moving_variance': 2}
    for named, counted in zip(*(weights.table.rules for weights in keras_inception_v3().weights), strict=True):
        (key, *_), (place, *_) = ((rule.value,) if isinstance(rule.value, str) else rule.value for rule in (named, counted))
        layer, weight = key.split('/')
        assert place == f'layers/{layer}/vars/{numbers[weight]}'


def test_grey_pictures_get_the_sum_of_the_colour_kernels():
    for model, golden, key in (
        (inception_v3(width=1 / 16, image_channels=1), 'inception_v3_torchvision', 'Conv2d_1a_3x3.conv.weight'),
        (keras_inception_v3(width=1 / 16, image_channels=1), 'inception_v3_keras', 'conv2d/kernel'),
    ):
        assert {weights.preprocessing.channels for weights in model.weights} == {'L'}
        params, stats = init_shapes(model.backbone, model.inputs((75, 75)))
        checkpoint = _golden(golden)
        found = adapt(params | stats, {'': Source(checkpoint, model.weights[0].table)}).origins['backbone/conv_1a/conv/kernel']
        whole = checkpoint.read(key)
        wanted = (whole.transpose(2, 3, 1, 0) if '.' in key else whole).sum(2, keepdims=True)
        np.testing.assert_allclose(read(found, checkpoint), wanted, atol=1e-6)


@pytest.mark.parametrize('option', [{'width': 0.0}, {'bn_momentum': 1.5}, {'image_channels': 0}])
def test_options_out_of_range(option):
    with pytest.raises(UserError, match=next(iter(option))):
        build_model({'name': 'inception_v3'} | option)


def test_a_picture_too_small_is_refused():
    with pytest.raises(UserError, match=r'74 x 200.*at least 75 pixels'):
        inception_v3().inputs((74, 200))
