"""Every config field with its default: where a config file starts.

from jtl import default_config

def get_config():
    config = default_config()
    config.model.name = 'efficientnet_lite0'
    return config
"""

from typing import Any

from ml_collections import ConfigDict, config_dict

from jtl import data, optim
from jtl.config import OPTIONS
from jtl.data import augment, mix, tokenizer
from jtl.parallel import mesh, placement
from jtl.recipes import RECIPES, knobs
from jtl.tasks import probes

OPEN_SECTIONS = (*OPTIONS, 'init_from', 'compare.grid', 'data', 'sources', 'tasks', 'tune')
"""Sections in which a user's own function may declare further fields; that function (or its caller) checks them."""

HARMLESS = (
    r'log_every', r'checkpoint_every', r'mesh\..*', r'sharding', r'remat', r'frozen\.sharding', r'eval_batch_size', r'(data|sources\.[^.]+)\.(workers|root|max_unreadable)', r'compare\..*', r'extend',
    r'evaluators', r'probe\..*'
)  # fmt: skip
"""Fields in which a resumed run may differ: they change neither a parameter nor a batch (`extend` may grow; data that moved are known by
their fingerprint)."""


def default_config(**sections: Any) -> ConfigDict:
    """A new config with every field at its default; keyword arguments replace whole top-level fields."""
    config = ConfigDict(
        {
            'seed': 0,  # of initial values, order, augmentation, dropout
            'model': {
                'name': 'convnet',  # see jtl.models.MODELS, or 'file.py:function'; options of that function stand beside it. '': by the checkpoint's config.json
                'image_size': 0,  # 0: as the weights were trained; else the side, or (height, width)
                'dtype': 'float32',  # of computation
                'param_dtype': 'float32',  # of parameters
            },
            # What the run starts from: a path, gs://, hf://owner/name, package:name, a jtl run or bundle; or {subtree: source}. None: scratch.
            'init_from': config_dict.placeholder(object),
            'init_head': 'new',  # 'keep' loads the checkpoint's head too
            'init_rules': (),  # loading rules (path pattern, key template[, leaf functions...] or None), before the family's
            'init_ignore': (),  # patterns of checkpoint keys that nobody misses
            # In place of what the weights want, for weights that jtl does not know: mean, std, scale, channels, interpolation, crop.
            'preprocessing': {},
            'task': {'name': 'classification'},  # see jtl.tasks.TASKS; options of that function stand beside the name
            'tasks': {},  # further tasks that phases may train: a name -> fields as of `task`, and `data`, the source whose labels it has
            'data': data.defaults(),
            'sources': {},  # further data that phases may train on: a name -> the fields in which they differ from `data`
            'text': tokenizer.defaults(),
            'augment': {**augment.defaults(), **mix.defaults()},
            'tune': {'recipe': 'full', **{name: knobs(recipe) for name, recipe in RECIPES.items()}},
            'phases': (),  # used where tune.recipe is ''
            'steps': 0,  # optimizer steps of the run, shared by the phases of a recipe; or:
            'epochs': 0.0,  # passes over the training split
            'extend': (),  # further steps after the last phase, one entry for each --extend
            'batch_size': 32,  # of a step, over all devices and micro-batches
            'accumulate': 1,  # micro-batches a step
            'optimizer': optim.defaults(),
            'decay': (),  # rules (path pattern, factor on weight decay), before the default ones
            'penalties': (),  # rules (path pattern, (kind, coefficient)) with l1, l2, l2sp
            'batch_norm': (),  # rules (stage path such as 'backbone/stem', 'batch' | 'batch_fixed' | 'running')
            'mesh': mesh.defaults(),
            'sharding': (),  # rules (path pattern, 'whole' | 'fsdp' | ('tensor', dimension) | axes of each dimension), before the family's
            'precision': (),  # rules (stage path such as 'backbone/layer_3' or 'heads/main', dict(params=, compute=, output=) of dtypes)
            'remat': (),  # rules (stage path, True): activations are dropped after the forward pass and computed again in the backward one
            'frozen': placement.frozen_defaults(),
            'log_every': 10,  # steps
            'eval_every': 0,  # steps; 0: at the end of each phase
            'eval_batch_size': 0,  # 0: batch_size
            'checkpoint_every': 100,  # steps; 0: at the end of each phase
            'patience': 0,  # evaluations without a better validation metric that end a phase; 0: never
            'recalibrate': 0,  # training batches over which BatchNorm statistics are computed anew before each evaluation (for EMA); 0: they stay
            'select': 'last',  # which parameters the run ends with: 'last', or 'best' on validation
            'tta': (),  # 'flip', 'crops': views over which the final evaluation of validation and test averages too (`tta_accuracy` beside `accuracy`)
            'evaluators': (),  # 'knn', 'linear': what the final backbone's features are worth without a trained head; see also `jtl probe`
            'probe': probes.defaults(),
            'compare': {
                'recipes': ('scratch', 'probe', 'lp_ft'),
                'seeds': 5,
                'grid': {},  # recipe -> (field, values): that recipe runs with each value and keeps the best on validation
            },
        }
    )
    for name, value in sections.items():
        if name not in config:
            raise KeyError(f'There is no config field {name!r}.')
        with config.ignore_type():
            config[name] = value
    return config
