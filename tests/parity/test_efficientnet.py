"""EfficientNet against torchvision, timm, transformers and Keras: random weights and statistics in files that these libraries wrote."""

import math
from functools import partial

import numpy as np
import pytest

from jtl.checkpoint.base import CheckpointError
from jtl.data.images import normalize
from jtl.models import build_model
from jtl.models.base import init_shapes

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE, SIDE = (67, 45), 61
GAIN = 1.5
TINY = {'width': 0.5, 'depth': 0.5}  # 10 blocks, of which 3 have a residual


def _compare(path, name, original, size=SIZE, tolerance=1e-5):
    x = reference.images(size)
    wanted = reference.torch_outputs(original, x)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.1, 'two pictures give the same: that would tell nothing'
    experiment = reference.experiment(path, {'name': name, **TINY}, classes=5, size=size)
    reference.check(experiment, x, wanted, tolerance=tolerance)
    return experiment


def _randomise(model):
    """With larger kernels, else SiLU and the gates of squeeze-and-excite shrink what a picture changes to nothing."""
    for value in reference.randomise(model).state_dict().values():
        if value.ndim == 4:
            value.mul_(GAIN)
    return model


def _timm(name, **options):
    models = pytest.importorskip('timm.models.efficientnet')
    return _randomise(
        models._gen_efficientnet(name, channel_multiplier=TINY['width'], depth_multiplier=TINY['depth'], num_classes=5, **options)
    )


def test_torchvision_state_dict(tmp_path):
    models = pytest.importorskip('torchvision.models.efficientnet')
    setting, last = models._efficientnet_conf('efficientnet_b0', width_mult=TINY['width'], depth_mult=TINY['depth'])
    original = _randomise(models.EfficientNet(setting, 0.2, num_classes=5, last_channel=last))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    found = _compare(tmp_path / 'model.pth', 'efficientnet_b0', original)
    assert found.preprocessing.interpolation == 'bicubic'


@pytest.mark.parametrize('size', [SIZE, (64, 50)])
def test_timm_state_dict(tmp_path, size):
    original = _timm('efficientnet_b0')
    torch.save({'state_dict': original.state_dict()}, tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', 'efficientnet_b0', original, size)


@pytest.mark.parametrize('size', [SIZE, (64, 50)])
def test_timm_weights_of_tensorflow(tmp_path, size):
    original = _timm('tf_efficientnet_b0', pad_type='same', bn_eps=1e-3)
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', 'tf_efficientnet_b0', original, size)


def test_the_two_lineages_differ(tmp_path):
    original = _timm('efficientnet_b0')
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    with pytest.raises(AssertionError):
        _compare(tmp_path / 'model.pth', 'tf_efficientnet_b0', original, tolerance=1e-2)


def test_transformers_safetensors(tmp_path):
    """Its padding is fixed for one size: stem and block 2 and 7 meet sides of 38 x 22, 19 x 11 and 5 x 3."""
    transformers = pytest.importorskip('transformers')
    config = transformers.EfficientNetConfig(
        width_coefficient=TINY['width'], depth_coefficient=TINY['depth'], hidden_dim=640, depthwise_padding=[2, 7], num_labels=5
    )
    original = _randomise(transformers.EfficientNetForImageClassification(config))
    original.save_pretrained(tmp_path)
    _compare(tmp_path / 'model.safetensors', 'tf_efficientnet_b0', original, (76, 44))


def test_transformers_without_head(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.EfficientNetConfig(
        width_coefficient=TINY['width'], depth_coefficient=TINY['depth'], hidden_dim=640, depthwise_padding=[2, 7]
    )
    original = _randomise(transformers.EfficientNetModel(config))
    reference.check_bare(tmp_path, original, {'name': 'tf_efficientnet_b0', **TINY}, (76, 44))


def test_a_checkpoint_of_the_other_lineage_is_refused_where_its_keys_tell(tmp_path):
    models = pytest.importorskip('torchvision.models.efficientnet')
    torch.save(models.efficientnet_b0().state_dict(), tmp_path / 'model.pth')
    with pytest.raises(CheckpointError, match='in no layout that this model knows'):
        reference.experiment(tmp_path / 'model.pth', {'name': 'tf_efficientnet_b0'}, classes=5, size=SIZE)


@pytest.fixture(scope='module')
def keras_model(tmp_path_factory):
    """A model that read its weights and the statistics of its Normalization layer as it reads the published ones."""
    keras_reference = pytest.importorskip('keras_reference')
    from keras.src.applications import efficientnet

    folder = tmp_path_factory.mktemp('published')
    make = partial(
        efficientnet.EfficientNet,
        width_coefficient=TINY['width'],
        depth_coefficient=TINY['depth'],
        default_size=SIDE,  # published weights with their top want square pictures
        classifier_activation=None,
        weights_name='b0',
    )
    model = keras_reference.randomise(make(weights=None), gain=1.4)
    model.get_layer('normalization').set_weights(
        [np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32), np.array(0, np.int32)]
    )
    path = keras_reference.save(model, folder, 'legacy')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet.file_utils, 'get_file', lambda *args, **kwargs: str(path))
        return make(weights='imagenet')


@pytest.mark.parametrize('kind', ['h5', 'weights.h5', 'keras', 'legacy'])
def test_keras_files_on_pixels(tmp_path, keras_model, kind):
    """The original normalises in its own layers, jtl as the preprocessing of these weights says."""
    keras_reference = pytest.importorskip('keras_reference')
    path = keras_reference.save(keras_model, tmp_path, kind)
    experiment = reference.experiment(path, {'name': 'tf_efficientnet_b0', **TINY}, classes=1000, size=(SIDE, SIDE))
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    x = np.asarray(normalize(pixels, experiment.preprocessing))
    wanted = keras_reference.outputs(keras_model, pixels)
    assert np.abs(wanted[0] - wanted[1]).max() > 0.05, 'two pictures give the same: that would tell nothing'
    reference.check(experiment, x, wanted, tolerance=1e-5)


def test_published_count_of_keras():
    """It counts the statistics of BatchNorm, and mean, variance and count of its Normalization layer."""
    keras_reference = pytest.importorskip('keras_reference')
    original = keras_reference.keras.applications.EfficientNetB0(weights=None)
    model = build_model({'name': 'tf_efficientnet_b0'})
    params, stats = init_shapes(model.backbone, model.inputs((32, 32)))
    ours = sum(math.prod(leaf.shape) for leaf in (params | stats).values()) + 1281 * 1000
    assert original.count_params() == ours + 3 + 3 + 1 == 5_330_571
