"""Does transfer help? The digits 5 to 9 with 10 examples a class, from a net that knows the digits 0 to 4, and from scratch.

The checkpoint in the package was trained by configs/digits_source.py. Each of the five seeds draws its own 10 examples a class; both
take 20 steps; scratch runs with three learning rates and keeps the one that is best on validation.

    jtl compare --config=configs/quickstart.py --workdir=runs/quickstart

Test accuracy, mean and standard deviation over the five seeds, 2 CPU cores, 45 seconds:

    scratch  84.4 +- 0.8 %  (lr 0.01 of 0.02, 0.01, 0.005: 50.1, 84.4, 84.0; the best on validation)
    full     95.1 +- 1.2 %  full - scratch: +10.7 points, 95 % interval +9.6 to +11.8

What transfer gives here is mostly a head start: with --config.steps=60 scratch has 89.5 +- 4.0 and full 92.9 +- 0.6 %, +3.4 points (-2.0
to +8.8). Logistic regression on the 64 pixels has 92.5 %.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'convnet'
    config.model.channels = (32, 64, 64)
    config.model.dense = ()
    config.model.image_size = 16
    config.init_from = 'package:jtl/assets/digits_0_to_4.msgpack'
    config.data.name = 'digits'
    config.data.classes = ('5', '6', '7', '8', '9')
    config.data.shots = 10
    config.tune.recipe = 'full'
    config.tune.full.lr = 0.005
    config.optimizer.name = 'adamw'
    config.optimizer.lr = 0.006
    config.steps = 20
    config.batch_size = 50
    config.log_every = 5
    config.compare.recipes = ('scratch', 'full')
    config.compare.seeds = 5
    config.compare.grid = {'scratch': ('optimizer.lr', (0.02, 0.01, 0.005))}
    return config
