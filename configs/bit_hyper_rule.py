"""BiT-M ResNet-50x1 by the BiT-HyperRule: schedule, resolution and mixup follow from the size of the data set.

    python -c "import tensorflow_datasets as tfds; tfds.builder('cifar10', file_format='array_record').download_and_prepare()"
    jtl train --config=configs/bit_hyper_rule.py:cifar10 --workdir=runs/bit

The argument is a name of DATA below, or 'NAME,EXAMPLES,SIDE' for another TFDS set: 'food101,75750,512'. The rule is for 512 examples a step; with
fewer devices take --config.accumulate=8, or as its authors do --config.batch_size=128 --config.optimizer.lr=0.001.

Otherwise than there, pictures that are not square keep their proportions.

Not measured here, for want of the weights and the data. Published for BiT-M-R50x1 in JAX with 128 examples a step: CIFAR-10 97.3 %, CIFAR-100
86.4 % (the README of google-research/big_transfer).
"""

from jtl import default_config
from jtl.errors import UserError
from jtl.hyper_rules import bit_hyper_rule

DATA = {
    'cifar10': (50_000, 32),
    'cifar100': (50_000, 32),
    'oxford_iiit_pet': (3_680, 400),
    'oxford_flowers102': (1_020, 500),
    'imagenet2012': (1_281_167, 500),
}


def get_config(data='cifar10'):
    name, *numbers = data.split(',')
    if not numbers and name not in DATA:
        raise UserError(f'--config=...:{data}: known are {", ".join(DATA)}; for others write NAME,EXAMPLES,SIDE.')
    examples, side = (int(n) for n in numbers) if numbers else DATA[name]
    rule = bit_hyper_rule(examples, side)
    config = default_config()
    config.model.name = 'bit_resnet50x1'
    config.model.image_size = rule.crop
    config.init_from = 'hf://timm/resnetv2_50x1_bit.goog_in21k'
    config.data.name = name
    config.augment.update(crop=rule.crop / rule.resize, flip=True, mixup=rule.mixup)
    config.preprocessing.update(crop=1.0)  # evaluation sees the whole picture
    config.tune.recipe = 'full'
    config.optimizer.update(name='sgd', lr=0.003, momentum=0.9, weight_decay=0.0)
    config.optimizer.update(schedule='step', warmup=rule.warmup / rule.steps, milestones=rule.milestones, factor=0.1)
    config.steps = rule.steps
    config.batch_size = 512
    config.eval_every = max(rule.steps // 10, 1)
    return config
