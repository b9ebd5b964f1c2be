"""Writes resnet_<source>.npz: logits of torchvision's and transformers's ResNets for weights made by a rule, so that tests need neither.

python tests/models/golden/make_resnet.py        # with the extra `parity`
"""

import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
SIZE = (37, 52)  # odd and even sides, so that strides end in different ways


def write(name: str, model: Any, packages: tuple[str, ...]) -> None:
    """Run the original."""
    import golden_case
    import reference
    import torch

    state = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, *spec)) for key, spec in state.items()})
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    golden_case.write(name, state, logits, ('torch', 'numpy', *packages))
    print(f'{name}: logits {logits.round(3).tolist()}')


def main() -> None:
    """Both libraries."""
    import reference  # noqa: F401, before torchvision
    from torchvision.models.resnet import BasicBlock, ResNet
    from transformers import ResNetConfig, ResNetForImageClassification

    # torchvision's stem is always 64 wide, and there are always four groups of blocks
    write('resnet_torchvision', ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3), ('torchvision',))
    config = ResNetConfig(embedding_size=4, hidden_sizes=[16, 32], depths=[2, 1], num_labels=3)
    write('resnet_transformers', ResNetForImageClassification(config), ('transformers',))


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
