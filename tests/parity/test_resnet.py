"""ResNet against torchvision, timm, transformers and Keras: random weights and statistics in files that these libraries wrote."""

import jax
import numpy as np
import pytest

import jtl
from jtl.models.base import unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (67, 45)


def _compare(path, name, original, classes=5, size=SIZE, tolerance=1e-4, **options):
    x = reference.images(size)
    experiment = reference.experiment(path, {'name': name, **options}, classes=classes, size=size)
    return reference.check(experiment, x, reference.torch_outputs(original, x), tolerance=tolerance)


@pytest.mark.parametrize(('name', 'block', 'depths'), [('resnet18', 'BasicBlock', (1, 2, 1, 1)), ('resnet50', 'Bottleneck', (2, 1, 1, 1))])
def test_torchvision_state_dict(tmp_path, name, block, depths):
    resnet = pytest.importorskip('torchvision.models.resnet')
    original = reference.randomise(resnet.ResNet(getattr(resnet, block), list(depths), num_classes=5))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, depths=depths)


@pytest.mark.parametrize(('name', 'block', 'depths'), [('resnet34', 'BasicBlock', (1, 1, 2, 1)), ('resnet50', 'Bottleneck', (1, 2, 1, 1))])
def test_timm_state_dict(tmp_path, name, block, depths):
    """Its training script saves the one, its hub holds the other."""
    resnet = pytest.importorskip('timm.models.resnet')
    safetensors = pytest.importorskip('safetensors.torch')
    original = reference.randomise(resnet.ResNet(getattr(resnet, block), depths, num_classes=5))
    torch.save({'state_dict': original.state_dict(), 'epoch': 3}, tmp_path / 'model.pth.tar')
    safetensors.save_model(original, str(tmp_path / 'model.safetensors'))
    for file in ('model.pth.tar', 'model.safetensors'):
        _compare(tmp_path / file, name, original, depths=depths)


@pytest.mark.parametrize('kind', ['basic', 'bottleneck'])
def test_transformers_safetensors(tmp_path, kind):
    transformers = pytest.importorskip('transformers')
    depths, width = (2, 1, 1), 8
    hidden = [width * (4 if kind == 'bottleneck' else 1) * 2**i for i in range(3)]
    config = transformers.ResNetConfig(embedding_size=width, hidden_sizes=hidden, depths=list(depths), layer_type=kind, num_labels=5)
    assert not config.downsample_in_bottleneck, 'v1.5'
    original = reference.randomise(transformers.ResNetForImageClassification(config))
    original.save_pretrained(tmp_path)
    name = 'resnet18' if kind == 'basic' else 'resnet50'
    _compare(tmp_path / 'model.safetensors', name, original, depths=depths, width=width)


@pytest.mark.parametrize('kind', ['basic', 'bottleneck'])
def test_transformers_without_head(tmp_path, kind):
    transformers = pytest.importorskip('transformers')
    hidden = [8 * (4 if kind == 'bottleneck' else 1) * 2**i for i in range(3)]
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=hidden, depths=[2, 1, 1], layer_type=kind)
    original = reference.randomise(transformers.ResNetModel(config))
    name = 'resnet18' if kind == 'basic' else 'resnet50'
    reference.check_bare(tmp_path, original, {'name': name, 'depths': (2, 1, 1), 'width': 8}, SIZE)


@pytest.mark.parametrize('kind', ['h5', 'weights.h5', 'keras', 'legacy'])
def test_keras_files(tmp_path, kind):
    """Two groups of its own blocks, so that the file is small; the stem is always 64 wide."""
    keras_reference = pytest.importorskip('keras_reference')
    from keras.src.applications import resnet

    def stack(x):
        x = resnet.stack_residual_blocks_v1(x, 64, 2, stride1=1, name='conv2')
        return resnet.stack_residual_blocks_v1(x, 128, 2, name='conv3')

    options = {'preact': False, 'use_bias': True, 'weights': None, 'input_shape': (*SIZE, 3), 'classes': 5}
    original = keras_reference.randomise(resnet.ResNet(stack, classifier_activation=None, name='resnet', **options))
    path = keras_reference.save(original, tmp_path, kind)
    x = reference.images(SIZE)
    experiment = reference.experiment(path, {'name': 'keras_resnet50', 'depths': (2, 2)}, classes=5, size=SIZE)
    reference.check(experiment, x, keras_reference.outputs(original, x))
    assert experiment.preprocessing.channels == 'BGR'


@pytest.mark.parametrize('kind', ['h5', 'weights.h5'])
def test_the_whole_resnet50_of_keras_without_its_top(tmp_path, kind):
    keras_reference = pytest.importorskip('keras_reference')
    import keras

    original = keras_reference.randomise(keras.applications.ResNet50(weights=None, include_top=False, input_shape=(33, 47, 3)))
    path = keras_reference.save(original, tmp_path, kind)
    x = reference.images((33, 47))
    experiment = reference.experiment(path, {'name': 'keras_resnet50'}, classes=2, size=(33, 47), head='new')
    leaves = jtl.load_leaves(experiment)
    variables = {
        'params': unflatten({path: leaf for path, leaf in leaves.items() if path in experiment.net.params}, 'backbone'),
        'batch_stats': unflatten({path: leaf for path, leaf in leaves.items() if path in experiment.net.stats}, 'backbone'),
    }
    found = jax.jit(lambda variables, x: experiment.net.backbone.apply(variables, {'image': x}, stop='pooling')['map'])(variables, x)
    wanted = keras_reference.outputs(original, x)
    assert wanted.shape == (2, 2, 2, 2048) and np.abs(wanted).max() > 0.5
    difference = float(np.abs(found - wanted).max())
    print(f'largest difference {difference:.2e} of features up to {np.abs(wanted).max():.2f}')
    assert difference <= 1e-4
    count = sum(int(np.prod(leaf.shape)) for path, leaf in experiment.net.params.items() if path.startswith('backbone/'))
    assert count == sum(int(np.prod(w.shape)) for w in original.trainable_weights)
