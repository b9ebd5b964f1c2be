"""A linear head on DINOv2's frozen features, the class token beside the mean of the patches; k nearest neighbours beside it.

    jtl train --config=configs/dinov2_probe.py --config.data.root=DIR --workdir=runs/dinov2
    jtl probe --config=configs/dinov2_probe.py --config.data.root=DIR        # without training: neighbours and a closed-form linear probe

DIR is an image folder (jtl/data/folder.py). ViT-S/14; dinov2_b14 and dinov2_l14 with hf://facebook/dinov2-base and -large are larger.

Not measured here, for want of the weights. Published for ViT-S/14 on ImageNet-1k: 81.1 % linear, 79.0 % with neighbours (the README of
facebookresearch/dinov2).
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'dinov2_s14'
    config.model.image_size = 224
    config.init_from = 'hf://facebook/dinov2-small'
    config.task.pool = 'pooled_and_mean'
    config.data.name = 'folder'
    config.data.root = ''
    config.augment.update(crop=0.5, resized_crop=(0.25, 1.0), flip=True)
    config.tune.recipe = 'probe'
    config.optimizer.update(name='sgd', lr=0.01, momentum=0.9, schedule='cosine', weight_decay=0.0)
    config.epochs = 10.0
    config.batch_size = 128
    config.evaluators = ('knn', 'linear')
    return config
