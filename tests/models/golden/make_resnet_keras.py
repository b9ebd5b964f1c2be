"""Writes resnet_keras.npz: logits of Keras's ResNet blocks for weights made by a rule, so that tests need no Keras.

KERAS_BACKEND=jax python tests/models/golden/make_resnet_keras.py        # with the extra `parity`
"""

import sys
from pathlib import Path

import numpy as np

SIZE = (37, 52)  # odd and even sides, so that strides end in different ways


def main() -> None:
    """Run the original: two groups of one block; the stem is always 64 wide."""
    import golden_case
    import keras
    from keras.src.applications import resnet

    def stack(x: keras.KerasTensor) -> keras.KerasTensor:
        x = resnet.stack_residual_blocks_v1(x, 64, 1, stride1=1, name='conv2')
        return resnet.stack_residual_blocks_v1(x, 128, 1, name='conv3')

    options = {'preact': False, 'use_bias': True, 'weights': None, 'input_shape': (*SIZE, 3), 'classes': 3}
    model = resnet.ResNet(stack, classifier_activation=None, name='resnet', **options)
    for weight in model.weights:
        weight.assign(golden_case.weight(weight.path, weight.shape))
    logits = np.asarray(model(golden_case.images(SIZE), training=False))
    golden_case.write(
        'resnet_keras', {weight.path: (tuple(weight.shape), 'float32') for weight in model.weights}, logits, ('keras', 'numpy')
    )
    print(f'logits {logits.round(3).tolist()}')


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
