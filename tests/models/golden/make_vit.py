"""Writes vit_timm.npz and vit_dinov2.npz: logits of timm's and transformers's models for weights made by a rule, so that tests need neither.

python tests/models/golden/make_vit.py        # with the extra `parity`
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
SIZE = (8, 12)  # of 2 x 3 patches


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
    from timm.models.vision_transformer import VisionTransformer
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersForImageClassification

    model = VisionTransformer(SIZE, 4, embed_dim=8, depth=2, num_heads=2, mlp_ratio=1.5, num_classes=3)
    state, specs = fill(model.state_dict())
    model.load_state_dict(state)
    write('vit_timm', model, specs, 'timm')

    config = Dinov2WithRegistersConfig(
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_ratio=2,
        patch_size=4,
        image_size=20,  # 5 x 5 patches: the model resizes its positions when it runs
        num_labels=3,
        num_register_tokens=2,
    )
    with tempfile.TemporaryDirectory() as directory:  # the names in the file are not those in memory
        Dinov2WithRegistersForImageClassification(config).save_pretrained(directory)
        file = Path(directory) / 'model.safetensors'
        state, specs = fill(load_file(file))
        save_file(state, file, {'format': 'pt'})
        write('vit_dinov2', Dinov2WithRegistersForImageClassification.from_pretrained(directory), specs, 'transformers')


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
