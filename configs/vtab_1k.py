"""VTAB-1k style: 1000 examples of a TFDS data set, a fifth of them for validation, the whole test split.

    python -c "import tensorflow_datasets as tfds; tfds.builder('caltech101', file_format='array_record').download_and_prepare()"
    jtl train --config=configs/vtab_1k.py:caltech101 --workdir=runs/caltech101
    jtl compare --config=configs/vtab_1k.py:caltech101 --recipes=scratch,probe,full --seeds=3 --workdir=runs/caltech101_compare

The argument is a name of DATA below: the sets of VTAB whose labels are classes in TFDS. (Those that bin numbers, such as CLEVR's counts,
need a data function of your own.) The 1000 are drawn by data.seed, where VTAB fixes which; a set that brings a validation split keeps it
whole.

Not measured here, for want of the weights and the data. Published for BiT-M-R101x3 with the BiT-HyperRule, mean over the 19 tasks: 72.7 %, over
the natural ones 80.3 % (the README of google-research/big_transfer).
"""

from jtl import default_config
from jtl.errors import UserError, did_you_mean
from jtl.hyper_rules import bit_hyper_rule

# name: (side of the pictures, label where there are several)
DATA = {
    'caltech101': (300, ''),
    'cifar100': (32, 'label'),
    'dtd': (400, ''),
    'oxford_flowers102': (500, ''),
    'oxford_iiit_pet': (400, 'label'),
    'sun397': (500, ''),
    'svhn_cropped': (32, ''),
    'patch_camelyon': (96, ''),
    'eurosat': (64, ''),
    'resisc45': (256, ''),
    'diabetic_retinopathy_detection': (1000, ''),
    'dmlab': (360, ''),
    'smallnorb': (96, 'label_azimuth'),
}


def get_config(name='caltech101'):
    if name not in DATA:
        raise UserError(f'--config=...:{name}: no such data set here. {did_you_mean(name, DATA)}')
    side, label = DATA[name]
    rule = bit_hyper_rule(1000, side)
    config = default_config()
    config.model.name = 'bit_resnet50x1'
    config.model.image_size = rule.crop
    config.init_from = 'hf://timm/resnetv2_50x1_bit.goog_in21k'
    config.data.name = name
    config.data.label_key = label
    config.data.update(examples=1000, validation=0.2)
    config.augment.update(crop=rule.crop / rule.resize, flip=True)
    config.preprocessing.update(crop=1.0)
    config.tune.recipe = 'full'
    config.optimizer.update(name='sgd', lr=0.003, momentum=0.9, weight_decay=0.0)
    config.optimizer.update(schedule='step', warmup=rule.warmup / rule.steps, milestones=rule.milestones, factor=0.1)
    config.steps = rule.steps
    config.batch_size = 512
    return config
