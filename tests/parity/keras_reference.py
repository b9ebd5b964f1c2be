"""What parity tests against Keras share: the backend, weights at random, the formats that Keras writes, outputs.

import keras_reference  # before keras
"""

import os
from pathlib import Path
from typing import Any

os.environ.setdefault('KERAS_BACKEND', 'jax')

import keras
import numpy as np

FORMATS = ('h5', 'weights.h5', 'keras', 'legacy')


def randomise(model: Any, seed: int = 0, gain: float = 1.0) -> Any:
    """The model, all of it random: kernels of a spread of `gain` by the root of their fan-in, biases, scales near 1, BatchNorm's statistics too."""
    draw = np.random.default_rng(seed)
    for weight in model.weights:
        shape, name = tuple(weight.shape), weight.name
        if name in ('gamma', 'moving_variance'):
            value = 0.5 + draw.random(shape)
        elif len(shape) <= 1:
            value = 0.2 * draw.normal(size=shape)
        else:
            fan_in = np.prod(shape[:-1]) if 'depthwise' not in weight.path and 'dwconv' not in weight.path else np.prod(shape[:2])
            value = gain * draw.normal(size=shape) * fan_in**-0.5
        weight.assign(value.astype(np.float32))
    return model


def save(model: Any, folder: Path, kind: str) -> Path:
    """The model in a file that Keras itself writes: `model.save` to .h5 or .keras, `model.save_weights` of Keras 3, or of Keras 2 ('legacy')."""
    path = folder / f'model.{kind.replace("legacy", "h5")}'
    if kind == 'weights.h5':
        model.save_weights(path)
    elif kind == 'legacy':
        import h5py
        from keras.src.legacy.saving import legacy_h5_format

        with h5py.File(path, 'w') as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    else:
        model.save(path)
    return path


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    """The model's outputs on (n, H, W, C) pictures."""
    return np.asarray(keras.ops.convert_to_numpy(model(x, training=False)))
