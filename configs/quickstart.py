"""Does transfer help? The digits 5 to 9 with 10 examples a class, from a net that knows the digits 0 to 4, and from scratch.

The checkpoint in the package was trained by configs/digits_source.py. Each of the five seeds draws its own 10 examples a class;
both recipes take 150 steps; scratch runs with three learning rates and keeps the one that is best on validation.

    jtl compare --config=configs/quickstart.py --workdir=runs/quickstart
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'convnet'
    config.model.channels = (16, 32)
    config.model.dense = (64,)
    config.model.image_size = 8
    config.init_from = 'package:jtl/assets/digits_0_to_4.msgpack'
    config.data.name = 'digits'
    config.data.classes = ('5', '6', '7', '8', '9')
    config.data.shots = 10
    config.tune.recipe = 'lp_ft'
    config.optimizer.name = 'adamw'
    config.optimizer.lr = 3e-3
    config.steps = 150
    config.batch_size = 50
    config.log_every = 50
    config.compare.recipes = ('scratch', 'lp_ft')
    config.compare.seeds = 5
    config.compare.grid = {'scratch': ('optimizer.lr', (1e-2, 3e-3, 1e-3))}
    return config
