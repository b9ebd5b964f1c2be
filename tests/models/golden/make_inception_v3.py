"""Writes inception_v3_<source>.npz: logits of torchvision's and Keras's Inception v3 for weights made by a rule, so that tests need neither.

python tests/models/golden/make_inception_v3.py        # with the extra `parity`
"""

import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[2]
SIZE = (98, 75)
THIN = 16  # times; all channels are multiples of it
GAIN = 1.5


def torchvision() -> None:
    """With the auxiliary classifier among its keys."""
    import golden_case
    import reference  # before torchvision
    import torch
    from torchvision.models import inception

    def thin(channels: int, out: int, **options: object) -> torch.nn.Module:
        return inception.BasicConv2d(channels if channels == 3 else channels // THIN, out // THIN, **options)

    kinds = (inception.InceptionA, inception.InceptionB, inception.InceptionC, inception.InceptionD, inception.InceptionE)
    blocks = [thin, *(partial(kind, conv_block=thin) for kind in (*kinds, inception.InceptionAux))]
    model = inception.Inception3(num_classes=3, inception_blocks=blocks, init_weights=False)
    model.fc = torch.nn.Linear(2048 // THIN, 3)
    state = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, *spec, gain=GAIN)) for key, spec in state.items()})
    _write('inception_v3_torchvision', state, reference.torch_outputs(model.eval(), golden_case.images(SIZE)), 'torchvision')


def keras() -> None:
    """Layers counted in the model's order, as files have them."""
    import golden_case
    from keras.src.applications import inception_v3

    whole = inception_v3.conv2d_bn
    inception_v3.conv2d_bn = lambda x, filters, *args, **options: whole(x, filters // THIN, *args, **options)
    model = inception_v3.InceptionV3(weights=None, input_shape=(*SIZE, 3), classes=3, classifier_activation=None)
    counts: Counter[str] = Counter()
    specs = {}
    for layer in model.layers:
        if not layer.weights:
            continue
        base = {'Conv2D': 'conv2d', 'BatchNormalization': 'batch_normalization', 'Dense': 'predictions'}[type(layer).__name__]
        name = f'{base}_{counts[base]}' if counts[base] else base
        counts[base] += 1
        for weight in layer.weights:
            key = f'{name}/{weight.name}'
            specs[key] = (tuple(weight.shape), 'float32')
            weight.assign(golden_case.weight(key, weight.shape, gain=GAIN))
    _write('inception_v3_keras', specs, np.asarray(model(golden_case.images(SIZE), training=False)), 'keras')


def _write(name: str, specs: dict, logits: np.ndarray, package: str) -> None:
    import golden_case

    print(f'{name}: logits up to {abs(logits).max():.2f}, those of two pictures differ by up to {abs(logits[0] - logits[1]).max():.2f}')
    golden_case.write(name, specs, logits, (package, 'numpy'))


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    os.environ['KERAS_BACKEND'] = 'jax'
    torchvision()
    keras()
