"""The HDF5 reader against Keras itself: models that Keras built, trained and saved, every array compared."""

import re
from collections import Counter

import numpy as np
import pytest

from jtl.checkpoint.sources import open_checkpoint

pytestmark = pytest.mark.parity

keras_reference = pytest.importorskip('keras_reference')
import keras  # noqa: E402
from keras import layers  # noqa: E402
from keras.src.utils.naming import to_snake_case  # noqa: E402

SIZE = (16, 12, 3)


def _model(inner=True):
    """Every kind of layer that the families have, two branches whose order of making is not that of depth, and a model inside."""
    x = pictures = keras.Input(SIZE)
    x = layers.Conv2D(4, 3, name='stem_conv')(x)
    x = layers.BatchNormalization(name='stem_bn')(x)
    short = layers.Conv2D(3, 1)(layers.SeparableConv2D(5, 3, padding='same')(x))
    long = layers.Conv2D(4, 1)(layers.DepthwiseConv2D(3, padding='same')(x))
    long = layers.BatchNormalization(scale=False)(layers.Conv2D(5, 3, padding='same', use_bias=False)(long))
    x = layers.Concatenate()([short, long])
    x = layers.Dropout(0.5)(x)
    if inner:
        x = keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(6, 1), layers.BatchNormalization()], name='inside')(x)
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(pictures, layers.Dense(3, name='predictions')(layers.PReLU()(x)))


def _trained(inner=True):
    keras.utils.clear_session()
    _model()  # so that Keras counts on in the one that is saved
    model = keras_reference.randomise(_model(inner))
    model.compile('adam', 'mse')
    model.fit(np.zeros((2, *SIZE)), np.zeros((2, 3)), verbose=0)
    return model


def _places(model):
    """Each layer with its place as Keras counts it: by class, in the model's order."""
    counts = Counter()
    for layer in model.layers:
        kind = to_snake_case(type(layer).__name__)
        yield layer, f'{kind}_{counts[kind]}' if counts[kind] else kind
        counts[kind] += 1


def _by_place(model, prefix='layers/'):
    """What each layer itself says that it saves."""
    found = {}
    for layer, place in _places(model):
        if isinstance(layer, keras.Model):
            found |= _by_place(layer, f'{prefix}{place}/layers/')
        else:
            store = {}
            layer.save_own_variables(store)
            found |= {f'{prefix}{place}/vars/{i}': value for i, value in store.items()}
    return {key: keras.ops.convert_to_numpy(value) for key, value in found.items()}


def _by_name(model):
    """Layers that Keras named have its class's name, and are counted; weights have Keras's own names. Of a model inside, as they are."""
    found, counts = {}, Counter()
    for layer in model.layers:
        name, kind = layer.name, to_snake_case(type(layer).__name__)
        if re.fullmatch(rf'{kind}(_\d+)?', name):
            name = f'{kind}_{counts[kind]}' if counts[kind] else kind
            counts[kind] += 1
        for weight in layer.weights:
            found[f'{name}/{weight.path.removeprefix(layer.name + "/")}'] = keras.ops.convert_to_numpy(weight)
    return found


def _compare(found, wanted):
    assert found.specs.keys() == wanted.keys()
    for key, want in wanted.items():
        got = found.read(key)
        assert (got.shape, got.dtype) == (want.shape, want.dtype) == (found.specs[key].shape, found.specs[key].dtype), key
        np.testing.assert_array_equal(got, want, key)
    print(f'{found.format}: {len(wanted)} arrays, bit for bit')


@pytest.mark.parametrize('kind', keras_reference.FORMATS)
def test_every_weight_of_a_trained_model(tmp_path, kind):
    model = _trained()
    found = open_checkpoint(str(keras_reference.save(model, tmp_path, kind)))
    named = kind in ('h5', 'legacy')
    _compare(found, _by_name(model) if named else _by_place(model))
    assert found.format == {'h5': 'keras h5', 'legacy': 'keras h5', 'weights.h5': 'keras weights.h5', 'keras': 'keras zip'}[kind]
    if kind != 'legacy':
        assert found.metadata['not listed']['optimizer'] == f'{len(model.optimizer.variables)} arrays'
    if kind != 'weights.h5':
        assert found.metadata['keras_version'] == keras.__version__
    if kind in ('h5', 'keras'):
        assert [layer['config']['name'] for layer in found.metadata['model_config']['config']['layers']] == [la.name for la in model.layers]
    if not named:
        names = {place.rpartition('/')[2]: name for place, name in found.metadata['layer_names'].items() if place.count('/') == 1}
        assert names == {place: layer.name for layer, place in _places(model) if layer.weights and not isinstance(layer, keras.Model)}


def test_counted_names_are_keras_places_whatever_was_built_before(tmp_path):
    model = _trained(inner=False)
    made = [layer.name for layer in model.layers if layer.name.startswith('conv2d')]
    assert made == ['conv2d_5', 'conv2d_6', 'conv2d_4'], 'Keras counted on, and its order is that of depth'
    by_name = open_checkpoint(str(keras_reference.save(model, tmp_path, 'h5')))
    by_place = open_checkpoint(str(keras_reference.save(model, tmp_path, 'weights.h5')))
    convolutions = [key for key in by_name.specs if key.startswith('conv2d') and key.endswith('kernel')]
    assert convolutions == ['conv2d/kernel', 'conv2d_1/kernel', 'conv2d_2/kernel']
    for i, key in enumerate(convolutions, 1):  # by place stem_conv is counted, too
        np.testing.assert_array_equal(by_name.read(key), by_place.read(f'layers/conv2d_{i}/vars/0'))


def test_weights_in_bfloat16(tmp_path):
    keras.utils.clear_session()
    model = keras_reference.randomise(keras.Sequential([keras.Input((4,)), layers.Dense(3, dtype='bfloat16')]))
    model.save_weights(tmp_path / 'm.weights.h5')
    found = open_checkpoint(str(tmp_path / 'm.weights.h5'))
    assert found.specs['layers/dense/vars/0'].dtype.name == 'bfloat16'
    np.testing.assert_array_equal(found.read('layers/dense/vars/0'), keras.ops.convert_to_numpy(model.layers[0].kernel))


def test_many_layers_whose_names_keras_writes_in_pieces(tmp_path):
    keras.utils.clear_session()
    names = [f'{"a long name " * 20}{i}'.replace(' ', '_') for i in range(300)]
    model = keras.Sequential([keras.Input((1,)), *(layers.Dense(1, use_bias=False, name=name) for name in names)])
    path = keras_reference.save(keras_reference.randomise(model), tmp_path, 'legacy')
    found = open_checkpoint(str(path))
    assert list(found.specs) == [f'{name}/kernel' for name in names]
    for name, layer in zip(names, model.layers, strict=True):
        np.testing.assert_array_equal(found.read(f'{name}/kernel'), keras.ops.convert_to_numpy(layer.kernel))
