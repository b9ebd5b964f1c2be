"""Writes bit_<source>.npz: logits of timm's and transformers's BiT for weights made by a rule, so that tests need neither.

    python tests/models/golden/make_bit.py        # with the extra `parity`

The original's npz is read by timm's own function for it.
"""

import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[2]
SIZE = (37, 52)  # odd and even sides, so that strides end in different ways


def timm_model(depths: tuple[int, ...], width: int, classes: int) -> Any:
    """As timm's resnetv2_50x1_bit, but smaller."""
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    return ResNetV2(
        list(depths),
        channels=tuple(256 * 2**i for i in range(len(depths))),
        num_classes=classes,
        width_factor=width / 64,
        stem_type='fixed',
        conv_layer=partial(StdConv2d, eps=1e-8),
    )


def transformers_model(depths: tuple[int, ...], width: int, classes: int) -> Any:
    """As google/bit-50, but smaller."""
    from transformers import BitConfig, BitForImageClassification

    hidden = [4 * width * 2**i for i in range(len(depths))]
    return BitForImageClassification(BitConfig(embedding_size=width, hidden_sizes=hidden, depths=list(depths), num_labels=classes))


def npz_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the published npz files (google-research/big_transfer, bit_pytorch/models.py) for a model of timm's."""
    conv = 'standardized_conv2d/kernel'
    keys = {f'resnet/root_block/{conv}': model.stem.conv.weight}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            unit = f'resnet/block{i + 1}/unit{j + 1:02d}'
            for k, part in enumerate('abc', 1):
                norm = getattr(block, f'norm{k}')
                keys[f'{unit}/{part}/{conv}'] = getattr(block, f'conv{k}').weight
                keys |= {f'{unit}/{part}/group_norm/gamma': norm.weight, f'{unit}/{part}/group_norm/beta': norm.bias}
            if block.downsample is not None:
                keys[f'{unit}/a/proj/{conv}'] = block.downsample.conv.weight
    keys |= {'resnet/group_norm/gamma': model.norm.weight, 'resnet/group_norm/beta': model.norm.bias}
    keys |= {'resnet/head/conv2d/kernel': model.head.fc.weight, 'resnet/head/conv2d/bias': model.head.fc.bias}
    return {key: tuple(x.shape[i] for i in (2, 3, 1, 0)) if x.ndim == 4 else tuple(x.shape) for key, x in keys.items()}


def main() -> None:
    """Both libraries."""
    import golden_case
    import reference  # before timm
    import torch

    model = timm_model((2, 1), 32, 3)
    shapes = npz_shapes(model)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / 'BiT.npz'
        np.savez(path, **{key: golden_case.weight(key, shape) for key, shape in shapes.items()})
        model.load_pretrained(str(path))
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    golden_case.write('bit_npz', {key: (shape, 'float32') for key, shape in shapes.items()}, logits, ('timm', 'torch', 'numpy'))
    print(f'npz: logits {logits.round(3).tolist()}')

    model = transformers_model((1, 2), 32, 3)
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, shape)) for key, shape in state.items()})
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    packages = ('transformers', 'torch', 'numpy')
    golden_case.write('bit_transformers', {key: (shape, 'float32') for key, shape in state.items()}, logits, packages)
    print(f'transformers: logits {logits.round(3).tolist()}')


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
