"""Writes mobilenet_v3_<source>.npz: logits of torchvision's and timm's MobileNetV3 for weights made by a rule, so that tests need neither.

python tests/models/golden/make_mobilenet_v3.py        # with the extra `parity`
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
SIZE = (44, 67)
GAINS = {'torchvision': 1.5, 'timm': 1.5}


def write(name: str, model: Any, packages: tuple[str, ...]) -> None:
    """Run the original."""
    import golden_case
    import reference
    import torch

    state = {key: (tuple(value.shape), str(value.dtype).removeprefix('torch.')) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(golden_case.weight(key, *spec, gain=GAINS[name])) for key, spec in state.items()})
    logits = reference.torch_outputs(model.eval(), golden_case.images(SIZE))
    print(f'{name}: logits up to {abs(logits).max():.2f}, those of two pictures differ by up to {abs(logits[0] - logits[1]).max():.2f}')
    golden_case.write(f'mobilenet_v3_{name}', state, logits, packages)


def torchvision() -> Any:
    """The first blocks of the small one's groups, of the second group both; half the width."""
    from torchvision.models.mobilenetv3 import MobileNetV3, _mobilenet_v3_conf

    setting, last = _mobilenet_v3_conf('mobilenet_v3_small', width_mult=0.5)
    return MobileNetV3([setting[i] for i in (0, 1, 2, 3, 6, 8)], last, num_classes=3)


def timm() -> Any:
    """The same blocks as TensorFlow pads, of full width."""
    from timm.models._efficientnet_blocks import SqueezeExcite
    from timm.models._efficientnet_builder import decode_arch_def, round_channels
    from timm.models.mobilenetv3 import MobileNetV3
    from torch import nn

    blocks = [
        ['ds_r1_k3_s2_e1_c16_se0.25_nre'],
        ['ir_r1_k3_s2_e4.5_c24_nre', 'ir_r1_k3_s1_e3.67_c24_nre'],
        ['ir_r1_k5_s2_e4_c40_se0.25'],
        ['ir_r1_k5_s1_e3_c48_se0.25'],
        ['ir_r1_k5_s2_e6_c96_se0.25'],
        ['cn_r1_k1_s1_c576'],
    ]
    return MobileNetV3(
        decode_arch_def(blocks),
        num_classes=3,
        stem_size=16,
        num_features=1024,
        pad_type='same',
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3),
        act_layer=nn.Hardswish,
        se_layer=partial(SqueezeExcite, gate_layer='hard_sigmoid', force_act_layer=nn.ReLU, rd_round_fn=round_channels),
    )


if __name__ == '__main__':
    sys.path[:0] = [str(TESTS / 'models'), str(TESTS / 'parity')]
    import reference  # noqa: F401  (before torchvision and timm)

    write('torchvision', torchvision(), ('torch', 'torchvision', 'numpy'))
    write('timm', timm(), ('torch', 'timm', 'numpy'))
