"""Inception v3 against torchvision, timm and Keras: random weights and statistics in files that these libraries wrote."""

import numpy as np
import pytest

from jtl.checkpoint.base import CheckpointError
from jtl.data.images import normalize

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (98, 75)
GAIN = 1.42  # on kernels, else what a picture changes shrinks from layer to layer


def _experiment(path, name, size=SIZE):
    return reference.experiment(path, {'name': name}, classes=5, size=size)


def _check(experiment, x, wanted):
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05, 'two pictures give the same: that would tell nothing'
    return reference.check(experiment, x, wanted, tolerance=1e-5)


def _randomise(model):
    for value in reference.randomise(model).state_dict().values():
        if value.ndim == 4:
            value.mul_(GAIN)
    return model


def _torchvision(**options):
    models = pytest.importorskip('torchvision.models.inception')
    return _randomise(models.Inception3(num_classes=5, init_weights=False, **options))


def test_torchvision_state_dict_with_its_auxiliary_classifier(tmp_path):
    original = _torchvision()
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    experiment = _experiment(tmp_path / 'model.pth', 'inception_v3')
    x = reference.images(SIZE)
    _check(experiment, x, reference.torch_outputs(original, x))
    ignored = {item.key for item in experiment.adaptation.ignored}
    assert {key for key in original.state_dict() if key.startswith('AuxLogits')} < ignored
    assert (experiment.preprocessing.interpolation, round(299 / experiment.preprocessing.crop)) == ('bilinear', 342)


def test_what_torchvision_does_to_pixels(tmp_path):
    """`transform_input=True`, as the published weights are built, undoes the mean and std of ImageNet that its transform applies."""
    original = _torchvision(transform_input=True)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    experiment = _experiment(tmp_path / 'model.pth', 'inception_v3')
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.float32)
    transformed = (pixels / 255 - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    _check(experiment, np.asarray(normalize(pixels, experiment.preprocessing)), reference.torch_outputs(original, transformed))


def test_timm_state_dict(tmp_path):
    timm = pytest.importorskip('timm')
    original = _randomise(timm.create_model('inception_v3', num_classes=5))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    experiment = _experiment(tmp_path / 'model.pth', 'inception_v3')
    x = reference.images(SIZE)
    _check(experiment, x, reference.torch_outputs(original, x))
    assert (experiment.preprocessing.interpolation, experiment.preprocessing.crop) == ('bicubic', 0.875)


def test_a_checkpoint_of_the_other_lineage_is_refused(tmp_path):
    torch.save(_torchvision(aux_logits=False).state_dict(), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        _experiment(tmp_path / 'model.pth', 'keras_inception_v3')


@pytest.fixture(scope='module')
def keras_model():
    """After another model, so that its layers count up from where that one ended."""
    keras_reference = pytest.importorskip('keras_reference')
    keras_reference.keras.layers.Conv2D(1, 1), keras_reference.keras.layers.BatchNormalization()
    make = keras_reference.keras.applications.InceptionV3
    return keras_reference.randomise(make(weights=None, input_shape=(*SIZE, 3), classes=5, classifier_activation=None), gain=GAIN)


@pytest.mark.parametrize('kind', ['h5', 'weights.h5', 'keras', 'legacy'])
def test_keras_files_on_pixels(tmp_path, keras_model, kind):
    keras_reference = pytest.importorskip('keras_reference')
    assert 'conv2d' not in {layer.name for layer in keras_model.layers}
    experiment = _experiment(keras_reference.save(keras_model, tmp_path, kind), 'keras_inception_v3')
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype(np.float32)
    theirs = keras_reference.keras.applications.inception_v3.preprocess_input(pixels.copy())
    _check(experiment, np.asarray(normalize(pixels, experiment.preprocessing)), keras_reference.outputs(keras_model, theirs))


def test_published_counts(keras_model):
    keras_reference = pytest.importorskip('keras_reference')
    models = pytest.importorskip('torchvision.models.inception')
    assert keras_reference.keras.applications.InceptionV3(weights=None).count_params() == 23_851_784
    with_auxiliary, without = (models.Inception3(aux_logits=aux, init_weights=False) for aux in (True, False))
    assert sum(p.numel() for p in with_auxiliary.parameters()) == 27_161_264
    assert sum(p.numel() for p in without.parameters()) == 23_834_568
