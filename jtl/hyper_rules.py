"""Hyper-parameters as functions of what is known before training: where a config gets its numbers from, not fields of it.

rule = bit_hyper_rule(examples=50_000, side=32)
config.steps, config.model.image_size, config.augment.mixup = rule.steps, rule.crop, rule.mixup
"""

from typing import NamedTuple

from jtl.errors import UserError


class HyperRule(NamedTuple):
    """What the rule chooses.

    Attributes:
      steps: of the run.
      warmup: steps of linear warm-up.
      milestones: fractions of `steps` at which the rate falls to a tenth.
      resize: side of the square that training pictures are resized to, pixels.
      crop: side of the network's input, a random crop in training, pixels.
      mixup: alpha; 0.0 is none.
    """

    steps: int
    warmup: int
    milestones: tuple[float, ...]
    resize: int
    crop: int
    mixup: float


def bit_hyper_rule(examples: int, side: int) -> HyperRule:
    """The BiT-HyperRule: schedule and mixup from the number of training examples, resolution from the size of the pictures.

    The rest of the rule is constant: SGD with momentum 0.9 and rate 0.003 at batch size 512, no weight decay, a head that starts at zero,
    random crop and horizontal flip. Source: Kolesnikov et al. 2020, Big Transfer (BiT), section 3.3.

    Args:
      examples: of the training split.
      side: of a typical picture, pixels; 96 and more is high resolution.

    Raises:
      UserError: a number below 1.
    """
    if examples < 1 or side < 1:
        raise UserError(f'bit_hyper_rule: the number of examples and the side of a picture are at least 1, found {examples} and {side}.')
    small, medium = examples < 20_000, examples < 500_000
    resize, crop = (160, 128) if side < 96 else (512, 480)
    return HyperRule(
        steps=500 if small else 10_000 if medium else 20_000,
        warmup=100 if small else 500,
        milestones=(0.4, 0.6, 0.8) if small else (0.3, 0.6, 0.9),
        resize=resize,
        crop=crop,
        mixup=0.0 if small else 0.1,
    )
