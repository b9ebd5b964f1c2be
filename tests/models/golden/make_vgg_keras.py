"""Writes vgg_keras.npz: logits of Keras's own layers in the order and under the names of its VGG, for weights made by a rule.

KERAS_BACKEND=jax python tests/models/golden/make_vgg_keras.py        # with the extra `parity`
"""

import sys
from pathlib import Path

import numpy as np

SIZE = (28, 28)  # a map of 7 x 7, which a dense layer of Keras needs


def main() -> None:
    """Run the original's layers: two blocks, narrow, since VGG16 itself reads 224 pixels and has 138 million parameters."""
    import golden_case
    import keras
    from keras import layers

    x = pictures = keras.Input((*SIZE, 3))
    for block, (depth, channels) in enumerate([(1, 4), (2, 8)], 1):
        for i in range(1, depth + 1):
            x = layers.Conv2D(channels, (3, 3), activation='relu', padding='same', name=f'block{block}_conv{i}')(x)
        x = layers.MaxPooling2D((2, 2), strides=(2, 2), name=f'block{block}_pool')(x)
    x = layers.Flatten(name='flatten')(x)
    x = layers.Dense(16, activation='relu', name='fc1')(x)
    x = layers.Dense(16, activation='relu', name='fc2')(x)
    model = keras.Model(pictures, layers.Dense(3, name='predictions')(x))
    for weight in model.weights:
        weight.assign(golden_case.weight(weight.path, weight.shape))
    logits = np.asarray(model(golden_case.images(SIZE), training=False))
    golden_case.write('vgg_keras', {weight.path: (tuple(weight.shape), 'float32') for weight in model.weights}, logits, ('keras', 'numpy'))
    print(f'logits {logits.round(3).tolist()}')


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
