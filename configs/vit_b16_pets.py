"""ViT-B/16, pretrained on ImageNet-21k, on the Oxford-IIIT Pets: each block 0.75 times as fast as the one above it.

    python -c "import tensorflow_datasets as tfds; tfds.builder('oxford_iiit_pet', file_format='array_record').download_and_prepare()"
    jtl train --config=configs/vit_b16_pets.py --workdir=runs/pets

Another size of picture resizes the position embeddings: --config.model.image_size=384

Not measured here, for want of the weights and the data. Published for ViT-B/16 from ImageNet-21k at 384 px, SGD, every layer at the same rate:
94.4 % (Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, table 5).
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'vit_b16'
    config.model.stochastic_depth = 0.1
    config.init_from = 'hf://timm/vit_base_patch16_224.augreg_in21k'
    config.data.name = 'oxford_iiit_pet'
    config.augment.update(crop=0.5, resized_crop=(0.4, 1.0), flip=True, randaugment=(2, 6.0))
    config.tune.recipe = 'layerwise'
    config.tune.layerwise.update(lr=3e-4, head_lr=1e-3, decay=0.75)
    config.optimizer.update(name='adamw', lr=3e-4, weight_decay=0.05, schedule='cosine', warmup=0.1, clip=1.0)
    config.epochs = 10.0
    config.batch_size = 64
    return config
