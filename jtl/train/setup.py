"""From a config to everything a run needs, with nothing allocated: data, model, task, net, sources, plan."""

import math
from collections.abc import Mapping, Sequence
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
from jtl.data.tokens import as_read
from jtl.data.views import Views, check_views, views_of
from jtl.defaults import OPEN_SECTIONS, default_config
from jtl.errors import UserError, did_you_mean, some_of, within
from jtl.keys import derive
from jtl.models import build_model
from jtl.models.base import Features
from jtl.models.net import Net
from jtl.models.preprocessing import Preprocessing
from jtl.models.text import TextPreprocessing
from jtl.parallel.mesh import batch_parts, make_mesh, put_leaf
from jtl.parallel.placement import Placement
from jtl.plan import Plan, make_plan
from jtl.recipes import Phase, expand
from jtl.tasks import build_task, probes
from jtl.tasks.base import HEAD, Task
from jtl.tasks.net import net_of
from jtl.train.origins import check_kept_head, find_origins, stored_origins
from jtl.train.placed import on_mesh
from jtl.train.reading import find_reading, stored_reading


@dataclass(frozen=True)
class Experiment:
    """A run before it starts. Nothing in it is allocated on a device.

    Attributes:
      config: plain, checked.
      sources: the data of `config.data` by the name '', and those of `config.sources`; texts are tokenised.
      model: the config's section, with what the checkpoint and the tokenizer say of it.
      preprocessing: of the weights that are loaded, or the family's own.
      tasks: by head name.
      net: backbone with the tasks' stages, and heads.
      plan: what happens to each leaf.
      adaptation: how leaves are read from a checkpoint; None from scratch, and where a run goes on from its own.
      placement: where each leaf lies on the mesh of devices.
    """

    config: Mapping[str, Any]
    sources: Mapping[str, Data]
    model: Mapping[str, Any]
    preprocessing: Preprocessing | TextPreprocessing
    tasks: Mapping[str, Task]
    net: Net
    plan: Plan
    adaptation: adapt.Adaptation | None
    placement: Placement

    @property
    def mesh(self) -> Mesh:
        """Of devices."""
        return self.placement.mesh

    @property
    def data(self) -> Data:
        """The data of `config.data`."""
        return self.sources['']

    @property
    def task(self) -> Task:
        """The task of `config.task`."""
        return self.tasks[HEAD]

    def section(self, source: str = '') -> dict[str, Any]:
        """The fields of a source: those of `config.data`, its own over them."""
        return {**self.config['data'], **self.config['sources'].get(source, {})}

    def baselines(self, split: str, head: str = HEAD, source: str = '') -> dict[str, float]:
        """What a constant guess learnt from the training targets scores on a split."""
        splits = self.sources[source].splits
        return self.tasks[head].baseline(splits['train'].targets, splits[split].targets)

    def prepare(self, batch: Mapping[str, jax.Array], key: jax.Array | None) -> Features:
        """From a batch to the net's inputs, inside jit; with a key, augmented. See `jtl.train.step.Prepare`."""
        further = {k: s for attached in self.net.attachments.values() for k, s in attached.inputs.items() if k in batch}
        inputs = {**self.net.inputs, **further}
        return prepare_inputs(batch, inputs, self.preprocessing, key=key, settings=augmentation_of(self.config['augment'])[0])

    @property
    def mixing(self) -> mix.Mixing | None:
        """Mixup and cutmix; None where nothing is mixed."""
        return augmentation_of(self.config['augment'])[1]

    @property
    def views(self) -> Views | None:
        """The views of test-time augmentation; None without it."""
        return views_of(self.config['tta'], self.preprocessing) if isinstance(self.preprocessing, Preprocessing) else None


def build(
    config: Any,
    *,
    data: Data | None = None,
    sources: Mapping[str, Data] | None = None,
    devices: list[Any] | None = None,
    stored: Mapping[str, Any] | None = None,
) -> Experiment:
    """Check the config and resolve it against the data, the model and the checkpoint, from shapes alone.

    Args:
      config: an `ml_collections.ConfigDict` or a plain mapping of the fields of `jtl.default_config()`.
      data: in place of what `config.data` names.
      sources: in place of what `config.data` (by the name '') and `config.sources` name.
      devices: of the mesh; all by default.
      stored: the plan.json of a run that goes on: where its leaves came from is taken from there.

    Raises:
      UserError: anything that a user can mend.
    """
    plain = checked(config)
    mesh = make_mesh(plain['mesh'], devices)
    sources = load_sources(plain, {**({} if data is None else {'': data}), **(sources or {})})
    reading = stored_reading(stored, plain['model']) if stored else find_reading(plain, sources)
    sources = {name: _read(name, source, reading.text) for name, source in sources.items()}
    data, model = sources[''], build_model(configs.frozen(reading.model))
    check_sampling(data, plain['data']['sampling'])
    tasks = tasks_of(plain, sources, reading.text)
    probes.check_kind(plain['evaluators'], tasks[HEAD].kind)

    def net_at(size: tuple[int, ...]) -> Net:
        return net_of(model, tasks, size, configs.frozen(plain['precision']))

    net, origins = stored_origins(stored, net_at, reading.text) if stored else find_origins(plain, model, net_at, reading)
    check_kept_head(origins.adaptation, data.labels)
    phases = phases_of(plain, net, len(data.splits['train']))
    check_phases(phases, plain, tasks, sources, reading.text)
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
        notes=(*origins.notes, *phases_left(plain)),
        preprocessing=origins.preprocessing.to_json(),
        model=reading.model,
    )
    net, plan, placement = on_mesh(configs.frozen(plain), model, net, plan, mesh)
    if plain['batch_size'] % (batch_parts(mesh) * plain['accumulate']):
        raise UserError(
            f'config.batch_size: {plain["batch_size"]} examples do not divide over {batch_parts(mesh)} devices '
            f'and {plain["accumulate"]} micro-batches (config.accumulate).'
        )
    check_augmentation(plain, net.inputs, data, origins.preprocessing)
    return Experiment(plain, sources, reading.model, origins.preprocessing, tasks, net, plan, origins.adaptation, placement)


def load_sources(plain: Mapping[str, Any], given: Mapping[str, Data]) -> dict[str, Data]:
    """The data of the run by name, '' those of `config.data`; what is given is not loaded. UserError for fields that are wrong."""
    found = {'': given[''] if '' in given else load_data(configs.frozen(plain['data']))}
    for name, fields in plain['sources'].items():
        if not name or not isinstance(fields, Mapping):
            raise UserError(f'config.sources.{name}: a name, and the fields in which these data differ from config.data, found {fields!r}.')
        with within(f'config.sources.{name}'):
            found[name] = given[name] if name in given else load_data(configs.frozen({**plain['data'], **fields}))
    return found


def _read(name: str, data: Data, text: TextPreprocessing | None) -> Data:
    with within(f'config.sources.{name}' if name else ''):
        return as_read(data, text)


def tasks_of(plain: Mapping[str, Any], sources: Mapping[str, Data], text: TextPreprocessing | None) -> dict[str, Task]:
    """The task of `config.task` and those of `config.tasks`, by the names of their heads. UserError for fields that are wrong."""
    found = {}
    for name, written in {HEAD: plain['task'], **plain['tasks']}.items():
        where = 'config.task' if written is plain['task'] else f'config.tasks.{name}'
        if not isinstance(written, Mapping) or '/' in name or (name == HEAD and written is not plain['task']):
            raise UserError(f"{where}: a name other than 'main' without '/', and fields as of config.task, found {written!r}.")
        source = written.get('data', '') if name != HEAD else ''  # that of config.task is config.data
        if not isinstance(source, str) or source not in sources:
            raise UserError(
                f'{where}.data: there are no such data in config.sources: {source!r}. {did_you_mean(str(source), filter(None, sources))}'.rstrip()
            )
        found[name] = _task_on(name, written, sources[source], text)
    return found


def _task_on(name: str, written: Mapping[str, Any], data: Data, text: TextPreprocessing | None) -> Task:
    """The task of a head, with the labels and the targets of these data."""
    section = configs.frozen({key: value for key, value in written.items() if key != 'data' or name == HEAD})
    with within(f'config.tasks.{name}' if name != HEAD else ''):
        train = data.splits['train']
        return build_task(section, data.labels, train.targets.shape[1:], class_counts(data), text, len(train))


def check_phases(
    phases: Sequence[Phase],
    plain: Mapping[str, Any],
    tasks: Mapping[str, Task],
    sources: Mapping[str, Data],
    text: TextPreprocessing | None,
) -> None:
    """UserError for a phase of a task or of data that there are not, or of data whose targets are not the task's, and for a last phase that
    does not train the run's own task.
    """
    for phase in phases:
        where = f'phase {phase.name!r}'
        if phase.task not in tasks:
            raise UserError(
                f'{where}: there is no task {phase.task!r}. Describe it in config.tasks.{phase.task}, with fields as of config.task, such as '
                f"{{'name': 'causal_lm'}}. {did_you_mean(phase.task, tasks)}".rstrip()
            )
        if phase.data not in sources:
            raise UserError(
                f'{where}: there are no data {phase.data!r}. Describe them in config.sources.{phase.data}, by the fields in which they differ '
                f'from config.data: {{}} for the same. {did_you_mean(phase.data, filter(None, sources))}'.rstrip()
            )
        task, data, place = tasks[phase.task], sources[phase.data], f'config.sources.{phase.data}' if phase.data else 'config.data'
        with within(f'{where}, on {place}'):
            there = _task_on(phase.task, plain['task'] if phase.task == HEAD else plain['tasks'][phase.task], data, text)
            if (there.head, tuple(there.labels)) != (task.head, tuple(task.labels)):
                raise UserError(
                    f'the targets are not those of the task {phase.task!r}: labels {some_of(data.labels) or "none"}, but '
                    f"{some_of(task.labels) or 'none'} in the task's own data. Name those in the phase, or give both the same labels."
                )
    if phases[-1].task != HEAD:
        raise UserError(f'phase {phases[-1].name!r}: the last phase trains the task of config.task, not {phases[-1].task!r}.')


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


def check_augmentation(
    plain: Mapping[str, Any],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    data: Data,
    preprocessing: Preprocessing | TextPreprocessing,
) -> None:
    """UserError for pictures that the net cannot read, and for augmentation, mixing or views of what are no pictures."""
    settings, mixing = augmentation_of(plain['augment'])
    if isinstance(preprocessing, Preprocessing) and 'image' in inputs:
        check_pictures(data, preprocessing, settings)
        if mixing and plain['batch_size'] == plain['accumulate']:
            raise UserError('config.augment.mixup, cutmix: a micro-batch of one example has nothing to mix; set a lower config.accumulate.')
        return
    if plain['tta']:
        raise UserError(f'config.tta: views are taken of pictures, the model reads {", ".join(inputs)}.')
    if mixing:
        raise UserError(f'config.augment.mixup, cutmix: pictures are mixed, the model reads {", ".join(inputs)}.')
    usual = vars(settings_of({}))
    changed = [name for name, value in vars(settings).items() if value != usual[name]]
    if changed:
        raise UserError(f'config.augment.{changed[0]}: pictures are augmented, the model reads {", ".join(inputs)}.')


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


def phases_left(plain: Mapping[str, Any]) -> tuple[str, ...]:
    """What the plan says where a recipe takes the place of the phases that a config writes."""
    if not plain['phases'] or not plain['tune']['recipe']:
        return ()
    return (f"tune.recipe={plain['tune']['recipe']} takes the place of config.phases; with tune.recipe='' they are trained.",)


def load_leaves(experiment: Experiment) -> dict[str, jax.Array]:
    """Every parameter and statistic at the start of the run, each read straight into its sharding; new ones are initialised.

    What is loaded is never initialised. New leaves are keyed by (seed, path).
    """
    place, shapes = experiment.placement, experiment.net.shapes
    leaves: dict[str, jax.Array] = {}
    adaptation = experiment.adaptation
    if adaptation is None and any(leaf.status != 'new' for leaf in experiment.plan.leaves):
        raise ValueError("This experiment goes on with a run: its leaves are in the run's own checkpoint.")
    if adaptation is not None:
        for path, origin in adaptation.origins.items():
            if origin.status != 'new':
                assert origin.subtree is not None
                value = np.asarray(adapt.read(origin, adaptation.sources[origin.subtree].checkpoint))
                leaves[path] = put_leaf(value.astype(shapes[path].dtype, copy=False), place.leaf(path))
    new = [path for path in experiment.net.shapes if path not in leaves]
    if new:
        key = derive(jax.random.key(experiment.config['seed']), 'init')

        def init(key: jax.Array) -> dict[str, jax.Array]:
            return {path: leaf.astype(shapes[path].dtype) for path, leaf in experiment.net.init(key, new).items()}

        leaves |= jax.jit(init, out_shardings=place.leaves(new))(key)
    return {path: leaves[path] for path in shapes}
