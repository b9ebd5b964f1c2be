"""The classical recipe: VGG16's convolutions frozen, a new dense head on the flattened map, geometric augmentation.

224 px; flatten, Dense 256 ReLU, softmax; cross-entropy; SGD 0.001 with momentum 0.9; rotation 20 degrees, shifts 0.2, shear 0.2 degrees,
zoom 0.2, horizontal flip, filled with the nearest pixel; 10 epochs.

    jtl train --config=configs/vgg16_classical.py --config.data.root=DIR --workdir=runs/vgg16

DIR is an image folder (jtl/data/folder.py). The weights are torchvision's, as safetensors; Keras's file does as well, with its own
preprocessing (BGR minus the mean): --config.init_from=vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5

Not measured here, for want of the weights. Published: frozen VGG16 features and a dense head of 256 gave 0.90 to 0.91 validation accuracy
on 2,000 cats and dogs of 150 px (Chollet 2016, "Building powerful image classification models using very little data", the
Keras blog, which augments likewise).
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'vgg16'
    config.model.image_size = 224
    config.init_from = 'hf://timm/vgg16.tv_in1k'
    config.task.update(pool='flatten', head='mlp', hidden=(256,), zero_init=False)
    config.data.name = 'folder'
    config.data.root = ''
    config.augment.update(rotation=20.0, width_shift=0.2, height_shift=0.2, shear=0.2, zoom=0.2, flip=True, fill='nearest')
    config.tune.recipe = 'probe'
    config.optimizer.update(name='sgd', lr=0.001, momentum=0.9, schedule='constant', weight_decay=0.0)
    config.epochs = 10.0
    config.batch_size = 32
    return config
