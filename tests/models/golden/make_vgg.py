"""Writes vgg_torchvision.npz: logits of a tiny VGG of torchvision for weights made by a rule, so that tests need no torch.

python tests/models/golden/make_vgg.py        # with the extra `parity`
"""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]
SIZE = (37, 52)  # a map of 9 x 13, which the 7 x 7 windows of the average divide in different ways


def main() -> None:
    """Run the original, with narrow layers in the place of its own."""
    import golden_case
    import reference
    import torch
    from torchvision.models import vgg

    model = vgg.VGG(vgg.make_layers([4, 'M', 8, 8, 'M'], batch_norm=True), num_classes=1, init_weights=False)
    for place, (before, after) in {0: (8 * 49, 16), 3: (16, 16), 6: (16, 3)}.items():
        model.classifier[place] = torch.nn.Linear(before, after)
    state = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, *spec)) for key, spec in state.items()})
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    golden_case.write('vgg_torchvision', state, logits, ('torch', 'torchvision', 'numpy'))
    print(f'logits {logits.round(3).tolist()}')


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    main()
