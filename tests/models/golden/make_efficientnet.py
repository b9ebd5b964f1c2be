"""Writes efficientnet_<source>.npz: outputs of torchvision's and transformers' EfficientNets for weights made by a rule, so that tests need neither.

python tests/models/golden/make_efficientnet.py        # with the extra `parity`
"""

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
SIZES = {'torchvision': (37, 52), 'transformers': (76, 44)}
GAIN = 1.5


def write(name: str, model: Any, packages: tuple[str, ...]) -> None:
    """Run the original."""
    import golden_case
    import reference
    import torch

    state = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, *spec, gain=GAIN)) for key, spec in state.items()})
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZES[name]))
    print(f'{name}: logits up to {abs(logits).max():.2f}, those of two pictures differ by up to {abs(logits[0] - logits[1]).max():.2f}')
    golden_case.write(f'efficientnet_{name}', state, logits, packages)


def torchvision() -> Any:
    """A quarter of the width and depth: 7 blocks, of which the first has a residual."""
    from torchvision.models.efficientnet import EfficientNet, _efficientnet_conf

    setting, last = _efficientnet_conf('efficientnet_b0', width_mult=0.25, depth_mult=0.25)
    return EfficientNet(setting, 0.2, num_classes=3, last_channel=last)


def transformers() -> Any:
    """Half the width, a quarter of the depth; blocks 2 and 5 meet odd sides."""
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(width_coefficient=0.5, depth_coefficient=0.25, hidden_dim=640, depthwise_padding=[2, 5], num_labels=3)
    return EfficientNetForImageClassification(config)


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    import reference  # noqa: F401  (before torchvision)

    write('torchvision', torchvision(), ('torch', 'torchvision', 'numpy'))
    write('transformers', transformers(), ('torch', 'transformers', 'numpy'))
