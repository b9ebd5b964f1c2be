"""Does transfer help? The digits 5 to 9 with 10 examples a class, from a net that knows the digits 0 to 4, and from scratch.

The checkpoint in the package was trained by configs/digits_source.py. Each of the five seeds draws its own 10 examples a class; both
take 60 steps; scratch runs with three learning rates and keeps the one that is best on validation.

    jtl compare --config=configs/quickstart.py --workdir=runs/quickstart

Test accuracy, mean and standard deviation over the five seeds, 2 CPU cores, about a minute:

    scratch  94.7 +- 1.0 %  (lr 0.03 of 0.03, 0.01, 0.003)
    full     95.7 +- 1.2 %  full - scratch: +1.0 points, 95 % interval -0.7 to +2.7

So here the two cannot be told apart, and the report says so: five classes of eight-by-eight pictures teach a net little that another
fifty pictures do not, and logistic regression on the 64 pixels already has 92.5 %. Try --config.steps, --recipes=scratch,probe,lp_ft,
--config.data.shots; where transfer does help is configs/clothing.py.
"""

from jtl import default_config


def get_config():
    config = default_config()
    config.model.name = 'convnet'
    config.model.channels = (16, 32, 32)
    config.model.dense = ()
    config.model.batch_norm = True
    config.model.bn_momentum = 0.9
    config.model.image_size = 16
    config.init_from = 'package:jtl/assets/digits_0_to_4.msgpack'
    config.data.name = 'digits'
    config.data.classes = ('5', '6', '7', '8', '9')
    config.data.shots = 10
    config.tune.recipe = 'full'
    config.tune.full.lr = 0.01
    config.optimizer.name = 'adamw'
    config.optimizer.lr = 0.01
    config.steps = 60
    config.batch_size = 50
    config.log_every = 20
    config.compare.recipes = ('scratch', 'full')
    config.compare.seeds = 5
    config.compare.grid = {'scratch': ('optimizer.lr', (0.03, 0.01, 0.003))}
    return config
