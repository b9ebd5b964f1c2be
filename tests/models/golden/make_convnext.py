"""Writes convnext_<source>.npz: logits of torchvision's and transformers's ConvNeXts for weights made by a rule, so that tests need neither.

python tests/models/golden/make_convnext.py        # with the extra `parity`
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
SIZE = (37, 50)  # sides that patches of 4 and 2 do not divide


def fill(shapes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Weights by golden_case's rule, and their specification."""
    import golden_case
    import torch

    specs = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in shapes.items()}
    return {key: torch.tensor(golden_case.weight(key, *spec)) for key, spec in specs.items()}, specs


def write(name: str, model: Any, specs: dict[str, Any], package: str) -> None:
    """Run the original."""
    import golden_case
    import reference

    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    golden_case.write(name, specs, logits, ('torch', 'numpy', package))
    print(f'{name}: logits {logits.round(3).tolist()}')


def main() -> None:
    """Both libraries."""
    import reference  # noqa: F401, before torchvision
    from safetensors.torch import load_file, save_file
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt
    from transformers import ConvNextConfig, ConvNextForImageClassification

    model = ConvNeXt([CNBlockConfig(4, 8, 1), CNBlockConfig(8, None, 1)], num_classes=3)
    state, specs = fill(model.state_dict())
    model.load_state_dict(state)
    write('convnext_torchvision', model, specs, 'torchvision')

    config = ConvNextConfig(num_stages=2, hidden_sizes=[4, 8], depths=[1, 1], num_labels=3)
    with tempfile.TemporaryDirectory() as directory:  # the names in the file need not be those in memory
        ConvNextForImageClassification(config).save_pretrained(directory)
        file = Path(directory) / 'model.safetensors'
        state, specs = fill(load_file(file))
        save_file(state, file, {'format': 'pt'})
        write('convnext_transformers', ConvNextForImageClassification.from_pretrained(directory), specs, 'transformers')


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
