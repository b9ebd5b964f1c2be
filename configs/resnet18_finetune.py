"""The whole of a ResNet-18 fine-tuned with SGD 0.01 for 10 epochs.

    jtl train --config=configs/resnet18_finetune.py --config.data.root=DIR --workdir=runs/resnet18

DIR is an image folder (jtl/data/folder.py). The weights are torchvision's, as safetensors; torchvision's own .pth does as well.

Not measured here, for want of the weights. Published: PyTorch's transfer-learning tutorial (Chilamkurthy) reports about 0.94 validation
accuracy on 244 ants and bees, with SGD 0.001 falling tenfold every 7 of 25 epochs.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'resnet18'
    config.init_from = 'hf://timm/resnet18.tv_in1k'
    config.data.name = 'folder'
    config.data.root = ''
    config.augment.update(crop=0.875, flip=True)
    config.tune.recipe = 'full'
    config.optimizer.update(name='sgd', lr=0.01, momentum=0.9, schedule='cosine', warmup=0.05, weight_decay=0.0)
    config.epochs = 10.0
    config.batch_size = 32
    return config
