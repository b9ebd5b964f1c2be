"""From a config to everything a run needs, with nothing allocated: data, model, task, net, sources, plan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jtl import config as configs
from jtl.checkpoint import adapt
from jtl.data import load_data, mix
from jtl.data.augment import Settings, settings_of
from jtl.data.base import Data, UnreadableError
from jtl.data.images import check_channels
from jtl.data.inputs import prepare_inputs
from jtl.data.sampling import check_sampling, class_counts
from jtl.data.views import Views, check_views, views_of
from jtl.defaults import OPEN_SECTIONS, default_config
from jtl.errors import UserError, did_you_mean
from jtl.keys import derive
from jtl.models import build_model
from jtl.models.base import Features, with_stages
from jtl.models.net import Net, make_net
from jtl.models.preprocessing import Preprocessing
from jtl.parallel.mesh import make_mesh, put_leaf, replicated
from jtl.plan import Plan, make_plan
from jtl.recipes import Phase, expand
from jtl.tasks import build_task, probes
from jtl.tasks.base import HEAD, Task
from jtl.train.origins import check_kept_head, find_origins, stored_origins


@dataclass(frozen=True)
class Experiment:
    """A run before it starts. Nothing in it is allocated on a device.

    Attributes:
      config: plain, checked.
      data: the splits.
      preprocessing: of the weights that are loaded, or the family's own.
      tasks: by head name.
      net: backbone with the tasks' stages, and heads.
      plan: what happens to each leaf.
      adaptation: how leaves are read from a checkpoint; None from scratch, and where a run goes on from its own.
      mesh: of devices.
    """

    config: Mapping[str, Any]
    data: Data
    preprocessing: Preprocessing
    tasks: Mapping[str, Task]
    net: Net
    plan: Plan
    adaptation: adapt.Adaptation | None
    mesh: Mesh

    @property
    def task(self) -> Task:
        """The one task."""
        return self.tasks[HEAD]

    def baselines(self, split: str) -> dict[str, float]:
        """What a constant guess learnt from the training targets scores on a split."""
        return self.task.baseline(self.data.splits['train'].targets, self.data.splits[split].targets)

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Features:
        """From a batch to the net's inputs, inside jit; with a key, augmented. See `jtl.train.step.Prepare`."""
        return prepare_inputs(batch, self.net.inputs, self.preprocessing, key=key, settings=augmentation_of(self.config['augment'])[0])

    @property
    def mixing(self) -> mix.Mixing | None:
        """Mixup and cutmix; None where nothing is mixed."""
        return augmentation_of(self.config['augment'])[1]

    @property
    def views(self) -> Views | None:
        """The views of test-time augmentation; None without it."""
        return views_of(self.config['tta'], self.preprocessing)


def build(
    config: Any, *, data: Data | None = None, devices: list[Any] | None = None, stored: Mapping[str, Any] | None = None
) -> Experiment:
    """Check the config and resolve it against the data, the model and the checkpoint, from shapes alone.

    Args:
      config: an `ml_collections.ConfigDict` or a plain mapping of the fields of `jtl.default_config()`.
      data: in place of what `config.data` names.
      devices: of the mesh; all by default.
      stored: the plan.json of a run that goes on: where its leaves came from is taken from there.

    Raises:
      UserError: anything that a user can mend.
    """
    plain = checked(config)
    mesh = make_mesh(plain['mesh'], devices)
    data = load_data(configs.frozen(plain['data'])) if data is None else data
    model = build_model(configs.frozen(plain['model']))
    check_sampling(data, plain['data']['sampling'])
    task = build_task(configs.frozen(plain['task']), data.labels, data.splits['train'].targets.shape[1:], class_counts(data))
    backbone, heads = with_stages(model.backbone, task.stages), {HEAD: task.head}

    def net_at(size: tuple[int, int]) -> Net:
        return make_net(backbone, heads, model.inputs(size))

    net, origins = stored_origins(stored, net_at) if stored else find_origins(plain, model, net_at)
    check_kept_head(origins.adaptation, data.labels)
    phases = phases_of(plain, net, len(data.splits['train']))
    plan = make_plan(
        net,
        phases,
        origins.leaves,
        optimizer=plain['optimizer'],
        decay=configs.frozen(plain['decay']),
        penalties=configs.frozen(plain['penalties']),
        batch_norm=configs.frozen(plain['batch_norm']),
        rules=origins.rules,
        ignored=origins.ignored,
        notes=origins.notes,
        preprocessing=origins.preprocessing.to_json(),
    )
    if plain['batch_size'] % (mesh.shape['data'] * plain['accumulate']):
        raise UserError(
            f'config.batch_size: {plain["batch_size"]} examples do not divide over {mesh.shape["data"]} devices '
            f'and {plain["accumulate"]} micro-batches (config.accumulate).'
        )
    if 'image' in net.inputs:
        check_pictures(data, origins.preprocessing, augmentation_of(plain['augment'])[0])
    if plain['tta'] and 'image' not in net.inputs:
        raise UserError(f'config.tta: views are taken of pictures, the model reads {", ".join(net.inputs)}.')
    if augmentation_of(plain['augment'])[1]:
        if 'image' not in net.inputs:
            raise UserError(f'config.augment.mixup, cutmix: pictures are mixed, the model reads {", ".join(net.inputs)}.')
        if plain['batch_size'] == plain['accumulate']:
            raise UserError('config.augment.mixup, cutmix: a micro-batch of one example has nothing to mix; set a lower config.accumulate.')
    return Experiment(plain, data, origins.preprocessing, {HEAD: task}, net, plan, origins.adaptation, mesh)


def checked(config: Any) -> dict[str, Any]:
    """The config as plain data, its fields known and in range. UserError otherwise."""
    from ml_collections import ConfigDict

    defaults = default_config()
    with defaults.ignore_type():
        defaults.model.image_size = None  # a side or a pair: `build_model` checks it
    configs.check_fields(config if isinstance(config, ConfigDict) else ConfigDict(dict(config)), defaults, OPEN_SECTIONS)
    plain = configs.plain(config)
    everything = configs.plain(default_config())
    for key, value in everything.items():
        plain.setdefault(key, value)
        if isinstance(value, dict) and key not in ('model', 'task'):
            plain[key] = {**value, **plain[key]}
    for key in plain['tune']:
        if key not in everything['tune'] and ':' not in key:  # 'file.py:function' is a recipe of the user's own
            raise UserError(f'config.tune.{key}: there is no such field. {did_you_mean(key, everything["tune"])}'.rstrip())
    for key in ('batch_size', 'accumulate', 'log_every'):
        if plain[key] < 1:
            raise UserError(f'config.{key}: a whole number of at least 1, found {plain[key]}.')
    for key in ('steps', 'epochs', 'eval_every', 'eval_batch_size', 'checkpoint_every', 'patience', 'recalibrate'):
        if not 0 <= plain[key] < math.inf:
            raise UserError(f'config.{key}: a number of at least 0, found {plain[key]}.')
    for key, choices in (('select', ('last', 'best')), ('init_head', ('new', 'keep'))):
        if plain[key] not in choices:
            raise UserError(f'config.{key}: {" or ".join(map(repr, choices))}, found {plain[key]!r}.')
    augmentation_of(plain['augment'])
    check_views(plain['tta'])
    probes.check(plain['evaluators'], plain['probe'])
    if plain['steps'] and plain['epochs']:
        raise UserError(f'config.steps={plain["steps"]} and config.epochs={plain["epochs"]}: set one of them to 0.')
    return plain


def augmentation_of(section: Mapping[str, Any]) -> tuple[Settings, mix.Mixing | None]:
    """What the `augment` section says is done to single pictures, and how pictures are mixed. UserError for a field that is wrong."""
    return settings_of({name: value for name, value in section.items() if name not in mix.defaults()}), mix.mixing_of(section)


def check_pictures(data: Data, preprocessing: Preprocessing, settings: Settings) -> None:
    """UserError where the first training picture has channels that the net cannot read, or colours are to change that are none."""
    if not preprocessing.pictorial and (settings.recolours or settings.randaugment):
        raise UserError(f'config.augment: colours are of grey or RGB pictures, the model reads {preprocessing.depth} channels.')
    try:
        image = np.asarray(data.splits['train'].examples[0]['image'])
    except UnreadableError:  # the preflight names it and all others
        return
    check_channels(image.shape[2] if image.ndim == 3 else 1, preprocessing)


def phases_of(plain: Mapping[str, Any], net: Net, examples: int) -> tuple[Phase, ...]:
    """The phases of the run: the recipe's or the written ones, and one more for each `--extend`."""
    steps = int(plain['steps'])
    if plain['epochs']:
        steps = max(1, math.ceil(plain['epochs'] * examples / plain['batch_size']))
    tune = configs.frozen(plain['tune'])
    phases = expand(tune, configs.frozen(plain['phases']), net.backbone.stages, steps)
    for k, more in enumerate(plain['extend']):
        if not isinstance(more, int) or more < 1:
            raise UserError(f'config.extend: numbers of steps of at least 1, found {more!r}.')
        phases = (*phases, replace(phases[-1], name=f'extend_{k + 1}', steps=more))
    return phases


def load_leaves(experiment: Experiment) -> dict[str, jax.Array]:
    """Every parameter and statistic at the start of the run, each read straight into its sharding; new ones are initialised.

    What is loaded is never initialised. New leaves are keyed by (seed, path).
    """
    sharding = replicated(experiment.mesh)
    leaves: dict[str, jax.Array] = {}
    adaptation = experiment.adaptation
    if adaptation is None and any(leaf.status != 'new' for leaf in experiment.plan.leaves):
        raise ValueError("This experiment goes on with a run: its leaves are in the run's own checkpoint.")
    if adaptation is not None:
        for path, origin in adaptation.origins.items():
            if origin.status != 'new':
                assert origin.subtree is not None
                leaves[path] = put_leaf(np.asarray(adapt.read(origin, adaptation.sources[origin.subtree].checkpoint)), sharding)
    new = [path for path in experiment.net.shapes if path not in leaves]
    if new:
        key = derive(jax.random.key(experiment.config['seed']), 'init')
        leaves |= jax.jit(lambda key: experiment.net.init(key, new), out_shardings=sharding)(key)
    return {path: leaves[path] for path in experiment.net.shapes}
