"""MobileNetV3 against torchvision, timm and Keras: random weights and statistics in files that these libraries wrote."""

import math
import re

import numpy as np
import pytest

from jtl.checkpoint.base import CheckpointError
from jtl.data.images import normalize
from jtl.models import build_model
from jtl.models.base import init_shapes, unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (67, 45)


GAINS = {'large': 1.25, 'small': 1.35}  # on kernels, else hard-swish and the gates of squeeze-and-excite shrink all that pictures change


def _randomise(model, kind):
    for value in reference.randomise(model).state_dict().values():
        if value.ndim == 4:
            value.mul_(GAINS[kind])
    return model


def _compare(path, name, original, size=SIZE, tolerance=1e-5):
    x = reference.images(size)
    wanted = reference.torch_outputs(original, x)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05, 'two pictures give the same: that would tell nothing'
    experiment = reference.experiment(path, {'name': name}, classes=5, size=size)
    reference.check(experiment, x, wanted, tolerance=tolerance)
    return experiment


@pytest.mark.parametrize('kind', ['large', 'small'])
def test_torchvision_state_dict(tmp_path, kind):
    models = pytest.importorskip('torchvision.models.mobilenetv3')
    original = _randomise(getattr(models, f'mobilenet_v3_{kind}')(num_classes=5), kind)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', f'mobilenet_v3_{kind}', original)


@pytest.mark.parametrize('name', ['mobilenetv3_large_100', 'mobilenetv3_small_100', 'tf_mobilenetv3_large_100', 'tf_mobilenetv3_small_100'])
def test_timm_state_dict(tmp_path, name):
    timm = pytest.importorskip('timm')
    original = _randomise(timm.create_model(name, num_classes=5), 'small' if 'small' in name else 'large')
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, (64, 50) if 'small' in name else SIZE)


def test_the_lineages_differ(tmp_path):
    timm = pytest.importorskip('timm')
    original = _randomise(timm.create_model('mobilenetv3_small_100', num_classes=5), 'small')
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    with pytest.raises(AssertionError):
        _compare(tmp_path / 'model.pth', 'tf_mobilenetv3_small_100', original, tolerance=1e-2)
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        reference.experiment(tmp_path / 'model.pth', {'name': 'mobilenet_v3_small'}, classes=5, size=SIZE)


@pytest.fixture(scope='module', params=['Large', 'Small'])
def keras_model(request):
    keras_reference = pytest.importorskip('keras_reference')
    make = getattr(keras_reference.keras.applications, f'MobileNetV3{request.param}')
    model = make(weights=None, input_shape=(*SIZE, 3), classes=5, classifier_activation=None)
    return request.param.lower(), keras_reference.randomise(model, gain=GAINS[request.param.lower()])


@pytest.mark.parametrize('kind', ['h5', 'weights.h5', 'keras', 'legacy'])
def test_keras_files_on_pixels(tmp_path, keras_model, kind):
    """The original maps pixels to [-1, 1] itself, jtl as the preprocessing of these weights says."""
    keras_reference = pytest.importorskip('keras_reference')
    variant, model = keras_model
    path = keras_reference.save(model, tmp_path, kind)
    experiment = reference.experiment(path, {'name': f'tf_mobilenetv3_{variant}_100'}, classes=5, size=SIZE)
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.float32)
    x = np.asarray(normalize(pixels, experiment.preprocessing))
    wanted = keras_reference.outputs(model, pixels)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05, 'two pictures give the same: that would tell nothing'
    reference.check(experiment, x, wanted, tolerance=1e-5)


def _named_as_by_keras_2(layer):
    """As tf.keras names the layers of MobileNetV3, in the files that it publishes."""
    name = layer.name
    for new, old in (('squeeze_excite_conv', 'squeeze_excite/Conv'), ('logits', 'Logits')):
        name = name.replace(new, old)
    if name.startswith('conv'):
        name = name.capitalize()
    if name.startswith('expanded_conv'):
        first, part = re.fullmatch(r'(expanded_conv(?:_[0-9]+)?)_(.+)', name).groups()
        name = f'{first}/{part}'
    return f'{name[:-3]}/BatchNorm' if name.endswith('_bn') else name


def test_keras_2_file(tmp_path):
    keras_reference = pytest.importorskip('keras_reference')
    make = keras_reference.keras.applications.MobileNetV3Small
    model = make(weights=None, input_shape=(*SIZE, 3), classes=5, classifier_activation=None, include_preprocessing=False)
    x = reference.images(SIZE)
    wanted = keras_reference.outputs(keras_reference.randomise(model, gain=GAINS['small']), x)
    for layer in model.layers:
        if layer.weights:
            layer.name = _named_as_by_keras_2(layer)
            for weight in layer.weights:
                weight._path = f'{layer.name}/{"depthwise_kernel" if "Depthwise" in type(layer).__name__ else weight.name}:0'
    experiment = reference.experiment(
        keras_reference.save(model, tmp_path, 'legacy'), {'name': 'tf_mobilenetv3_small_100'}, classes=5, size=SIZE
    )
    reference.check(experiment, x, wanted, tolerance=1e-5)
    assert 'expanded_conv_8/squeeze_excite/Conv_1/bias' in {origin.key for origin in experiment.adaptation.origins.values()}


@pytest.mark.parametrize('kind', ['legacy', 'weights.h5'])
def test_keras_file_without_top_gives_its_map(tmp_path, kind):
    keras_reference = pytest.importorskip('keras_reference')
    make = keras_reference.keras.applications.MobileNetV3Small
    model = make(weights=None, input_shape=(*SIZE, 3), include_top=False, include_preprocessing=False, pooling='avg')
    path = keras_reference.save(keras_reference.randomise(model, gain=GAINS['small']), tmp_path, kind)
    experiment = reference.experiment(path, {'name': 'tf_mobilenetv3_small_100', 'hidden': False}, classes=5, size=SIZE, head='new')
    x = reference.images(SIZE)
    leaves = {leaf: value for leaf, value in reference.jtl.load_leaves(experiment).items() if leaf.startswith('backbone/')}
    net = experiment.net
    variables = {
        'params': unflatten({p: v for p, v in leaves.items() if p in net.params}, 'backbone'),
        'batch_stats': unflatten({p: v for p, v in leaves.items() if p in net.stats}, 'backbone'),
    }
    found = net.backbone.apply(variables, {'image': x})['pooled']
    np.testing.assert_allclose(found, keras_reference.outputs(model, x), atol=1e-5)


def test_published_count_of_keras():
    """It counts the statistics of BatchNorm."""
    keras_reference = pytest.importorskip('keras_reference')
    for kind, count in (('Large', 5_507_432), ('Small', 2_554_968)):
        model = build_model({'name': f'tf_mobilenetv3_{kind.lower()}_100'})
        params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
        features = params['backbone/hidden/dense/bias'].shape[0]
        ours = sum(math.prod(leaf.shape) for leaf in (params | stats).values()) + (features + 1) * 1000
        assert getattr(keras_reference.keras.applications, f'MobileNetV3{kind}')(weights=None).count_params() == ours == count
