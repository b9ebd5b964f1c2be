"""VGG against torchvision, timm and Keras: random weights and statistics in files that these libraries wrote."""

import types

import jax
import numpy as np
import pytest

import jtl
from jtl.models.base import unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (67, 45)
NARROW = {'width': 4, 'fc': True, 'fc_width': 32}
CONFIGURATIONS = {'vgg11': 'A', 'vgg13': 'B', 'vgg16': 'D', 'vgg19': 'E'}


def _narrow(configuration):
    """The original's list of layers, with a sixteenth of the channels."""
    return [channels if channels == 'M' else channels // 16 for channels in configuration]


def _compare(path, name, original, size=SIZE, **options):
    x = reference.images(size)
    experiment = reference.experiment(path, {'name': name, **options}, classes=5, size=size)
    return reference.check(experiment, x, reference.torch_outputs(original, x))


@pytest.mark.parametrize(
    ('name', 'size'),
    [('vgg11', (224, 224)), ('vgg13_bn', SIZE), ('vgg16', (97, 320)), ('vgg16_bn', SIZE), ('vgg19', SIZE), ('vgg19_bn', SIZE)],
)
def test_torchvision_state_dict(tmp_path, name, size):
    vgg = pytest.importorskip('torchvision.models.vgg')
    plain = name.removesuffix('_bn')
    features = vgg.make_layers(_narrow(vgg.cfgs[CONFIGURATIONS[plain]]), batch_norm=name.endswith('_bn'))
    original = vgg.VGG(features, num_classes=1, init_weights=False)
    for place, (before, after) in {0: (32 * 49, 32), 3: (32, 32), 6: (32, 5)}.items():  # torchvision's own are 4096 wide, and as many in
        original.classifier[place] = torch.nn.Linear(before, after)
    reference.randomise(original)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, size, **NARROW)


@pytest.mark.parametrize(('name', 'size'), [('vgg11_bn', SIZE), ('vgg16', (224, 224)), ('vgg16', (100, 33))])
def test_timm_state_dict(tmp_path, name, size):
    """timm averages to 7 x 7 only what is smaller; up to 224 pixels it computes what torchvision does."""
    vgg = pytest.importorskip('timm.models.vgg')
    norm = torch.nn.BatchNorm2d if name.endswith('_bn') else None
    original = vgg.VGG(_narrow(vgg.cfgs[name.removesuffix('_bn')]), num_classes=5, norm_layer=norm)
    original.pre_logits = vgg.ConvMlp(32, 32, 7)
    original.head = vgg.ClassifierHead(32, 5)
    reference.randomise(original)
    torch.save({'state_dict': original.state_dict()}, tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, size, **NARROW)


@pytest.mark.parametrize('kind', ['h5', 'weights.h5', 'keras', 'legacy'])
@pytest.mark.parametrize('name', ['vgg16', 'vgg19'])
def test_keras_files_with_their_top(tmp_path, monkeypatch, name, kind):
    """Keras's own function, whose layers are given fewer channels on the way: at 224 pixels, since its dense layers read no other size."""
    keras_reference = pytest.importorskip('keras_reference')
    import keras
    from keras import layers

    module = __import__(f'keras.src.applications.{name}', fromlist=[name])
    narrow = types.SimpleNamespace(**{key: getattr(layers, key) for key in ('Input', 'MaxPooling2D', 'Flatten')})
    narrow.Conv2D = lambda channels, *args, **options: layers.Conv2D(channels // 16, *args, **options)
    narrow.Dense = lambda units, **options: layers.Dense(32 if units == 4096 else units, **options)
    monkeypatch.setattr(module, 'layers', narrow)
    keras.utils.clear_session()
    original = getattr(module, name.upper())(weights=None, classes=5, classifier_activation=None)
    keras_reference.randomise(original, gain=2**0.5)
    path = keras_reference.save(original, tmp_path, kind)
    x = reference.images((224, 224))
    experiment = reference.experiment(path, {'name': name, **NARROW}, classes=5, size=(224, 224))
    reference.check(experiment, x, keras_reference.outputs(original, x))
    assert (experiment.preprocessing.channels, experiment.preprocessing.mean) == ('BGR', (103.939, 116.779, 123.68))


def _map(experiment, x):
    leaves = jtl.load_leaves(experiment)
    variables = {'params': unflatten({path: leaf for path, leaf in leaves.items() if path in experiment.net.params}, 'backbone')}
    return np.asarray(jax.jit(lambda v, x: experiment.net.backbone.apply(v, {'image': x}, stop='pooling')['map'])(variables, x))


@pytest.mark.parametrize(('name', 'kind', 'inside'), [('vgg16', 'h5', False), ('vgg16', 'weights.h5', True), ('vgg19', 'h5', True)])
def test_the_whole_vgg_of_keras_without_its_top(tmp_path, name, kind, inside):
    """`inside`: as the first layer of somebody's model."""
    keras_reference = pytest.importorskip('keras_reference')
    import keras

    keras.utils.clear_session()
    original = getattr(keras.applications, name.upper())(weights=None, include_top=False, input_shape=(70, 33, 3))
    keras_reference.randomise(original, gain=2**0.5)
    model = keras.Sequential([original, keras.layers.Flatten(), keras.layers.Dropout(0.5), keras.layers.Dense(3, name='mine')])
    path = keras_reference.save(model if inside else original, tmp_path, kind)
    x = reference.images((70, 33))
    ignore = (('mine/.*' if kind == 'h5' else 'layers/dense/.*'),) if inside else ()
    experiment = reference.experiment(path, {'name': name}, classes=2, size=(70, 33), head='new', init_ignore=ignore)
    found, wanted = _map(experiment, x), keras_reference.outputs(original, x)
    assert wanted.shape == (2, 2, 1, 512) and np.abs(wanted).max() > 0.5
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of features up to {np.abs(wanted).max():.2f}')
    assert difference <= 1e-4
    count = sum(int(np.prod(leaf.shape)) for path, leaf in experiment.net.params.items() if path.startswith('backbone/'))
    assert count == original.count_params() == {'vgg16': 14_714_688, 'vgg19': 20_024_384}[name]
