"""From a config to everything a run needs, with nothing allocated: data, model, task, net, sources, plan."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jtl import config as configs
from jtl.checkpoint import adapt, leaf
from jtl.checkpoint.base import Checkpoint
from jtl.data import load_data
from jtl.data.base import Data
from jtl.data.inputs import prepare_inputs
from jtl.data.pipeline import epoch_steps
from jtl.defaults import OPEN_SECTIONS, default_config
from jtl.errors import UserError, did_you_mean
from jtl.keys import derive
from jtl.models import build_model
from jtl.models.base import Features, Model, with_stages
from jtl.models.net import Net, make_net
from jtl.models.preprocessing import Preprocessing
from jtl.parallel.mesh import make_mesh, put_leaf, replicated
from jtl.plan import LeafPlan, Plan, RuleHits, make_plan
from jtl.recipes import Phase, expand
from jtl.rules import as_rules
from jtl.tasks import build_task
from jtl.tasks.base import HEAD, Task


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
      adaptation: where each leaf is read from; None from scratch.
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
        return prepare_inputs(batch, self.net.inputs, self.preprocessing, key=key, flip=self.config['augment']['flip'])


def build(config: Any, *, data: Data | None = None, devices: list[Any] | None = None) -> Experiment:
    """Check the config and resolve it against the data, the model and the checkpoint, from shapes alone.

    Args:
      config: an `ml_collections.ConfigDict` or a plain mapping of the fields of `jtl.default_config()`.
      data: in place of what `config.data` names.
      devices: of the mesh; all by default.

    Raises:
      UserError: anything that a user can mend.
    """
    plain = checked(config)
    mesh = make_mesh(plain['mesh'], devices)
    data = load_data(configs.frozen(plain['data'])) if data is None else data
    model = build_model(configs.frozen(plain['model']))
    task = build_task(configs.frozen(plain['task']), data.labels, data.splits['train'].targets.shape[1:])
    checkpoints, notes = open_sources(plain)
    rules, ignore = loading_rules(plain['init_rules']), _patterns(plain['init_ignore'])
    preprocessing = model.preprocessing
    tables: dict[str, adapt.NameTable] = {}
    backbone = with_stages(model.backbone, task.stages)
    net = make_net(backbone, {HEAD: task.head}, model.inputs(preprocessing.size))
    for subtree, checkpoint in checkpoints.items():
        tables[subtree] = adapt.choose_table(checkpoint, [w.table for w in model.weights], net.shapes, rules)
    preprocessing = weights_preprocessing(model, checkpoints, tables, plain)
    net = make_net(backbone, {HEAD: task.head}, model.inputs(preprocessing.size))
    adaptation = None
    if checkpoints:
        adaptation = adapt.adapt(
            net.shapes,
            {subtree: adapt.Source(checkpoints[subtree], tables[subtree]) for subtree in checkpoints},
            rules=rules,
            ignore=ignore,
            head=plain['init_head'],
        )
    phases = phases_of(plain, net, len(data.splits['train']))
    plan = make_plan(
        net,
        phases,
        leaf_plans(net, adaptation),
        optimizer=plain['optimizer'],
        decay=configs.frozen(plain['decay']),
        penalties=configs.frozen(plain['penalties']),
        batch_norm=configs.frozen(plain['batch_norm']),
        rules=loading_hits(adaptation),
        ignored=tuple(f'{i.key} ({i.by})' for i in adaptation.ignored) if adaptation else (),
        notes=notes,
    )
    if plain['batch_size'] % (mesh.shape['data'] * plain['accumulate']):
        raise UserError(
            f'config.batch_size: {plain["batch_size"]} examples do not divide over {mesh.shape["data"]} devices '
            f'and {plain["accumulate"]} micro-batches (config.accumulate).'
        )
    return Experiment(plain, data, preprocessing, {HEAD: task}, net, plan, adaptation, mesh)


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
    for key in ('steps', 'epochs', 'eval_every', 'eval_batch_size', 'checkpoint_every', 'patience'):
        if not 0 <= plain[key] < math.inf:
            raise UserError(f'config.{key}: a number of at least 0, found {plain[key]}.')
    for key, choices in (('select', ('last', 'best')), ('init_head', ('new', 'keep'))):
        if plain[key] not in choices:
            raise UserError(f'config.{key}: {" or ".join(map(repr, choices))}, found {plain[key]!r}.')
    crop = plain['augment']['crop']
    if not 0 < crop <= 1:
        raise UserError(f'config.augment.crop: a fraction in (0, 1], found {crop!r}.')
    if plain['steps'] and plain['epochs']:
        raise UserError(f'config.steps={plain["steps"]} and config.epochs={plain["epochs"]}: set one of them to 0.')
    return plain


def open_sources(plain: Mapping[str, Any]) -> tuple[dict[str, Checkpoint], list[str]]:
    """The checkpoints of `init_from` by subtree ('' for the whole tree), and what the plan has to say about it."""
    init = plain['init_from']
    named = init if isinstance(init, Mapping) else {'': init} if init else {}
    if plain['tune']['recipe'] == 'scratch' and named:
        return {}, [f'tune.recipe=scratch ignores init_from={init}: every parameter starts new.']
    if not named:
        if plain['tune']['recipe'] != 'scratch':
            return {}, ['init_from is empty: every parameter starts new (from scratch).']
        return {}, ['From scratch: every parameter starts new.']
    for subtree, where in named.items():
        if not isinstance(where, str) or not where:
            raise UserError(f'config.init_from{f".{subtree}" if subtree else ""}: the place of a checkpoint, found {where!r}.')
    from jtl.checkpoint.sources import open_checkpoint

    return {subtree: open_checkpoint(where) for subtree, where in named.items()}, []


def weights_preprocessing(
    model: Model, checkpoints: Mapping[str, Checkpoint], tables: Mapping[str, adapt.NameTable], plain: Mapping[str, Any]
) -> Preprocessing:
    """How the loaded weights want their pictures: a jtl run's or bundle's own, a known table's, else the family's."""
    for subtree, checkpoint in checkpoints.items():
        if subtree not in ('', 'backbone'):
            continue
        if 'preprocessing' in checkpoint.metadata:
            found = Preprocessing.from_json(checkpoint.metadata['preprocessing'])
            return replace(found, size=model.preprocessing.size) if plain['model']['image_size'] else found
        for weights in model.weights:
            if weights.table == tables[subtree]:
                return weights.preprocessing
    return model.preprocessing


def loading_rules(written: Sequence[Any]) -> tuple[Any, ...]:
    """`config.init_rules`: (pattern, template), (pattern, template, function, ...) or (pattern, None)."""
    pairs = []
    for rule in configs.frozen(written):
        if not isinstance(rule, tuple) or len(rule) < 2:
            raise UserError(f'config.init_rules: a rule is (path pattern, key template, leaf functions...), found {rule!r}.')
        pattern, template, *functions = rule
        value = (template, *leaf.as_functions(functions, f'config.init_rules, {pattern!r}')) if functions else template
        pairs.append((pattern, value))
    return as_rules(pairs, origin='config.init_rules')


def _patterns(written: Any) -> tuple[str, ...]:
    """`config.init_ignore`: patterns of checkpoint keys; one string is one pattern."""
    patterns = (written,) if isinstance(written, str) else tuple(written)
    if any(not isinstance(pattern, str) for pattern in patterns):
        raise UserError(f'config.init_ignore: patterns of checkpoint keys, found {written!r}.')
    return patterns


def leaf_plans(net: Net, adaptation: adapt.Adaptation | None) -> dict[str, LeafPlan]:
    """Where each leaf comes from, as the plan shows it."""
    found = {}
    for path, spec in net.shapes.items():
        origin = adaptation.origins[path] if adaptation else None
        how = leaf.describe(origin.functions) if origin and origin.functions else ''
        if origin and origin.cast:
            how = f'{how}, cast' if how else 'cast'
        found[path] = LeafPlan(
            path,
            tuple(spec.shape),
            str(spec.dtype),
            path in net.stats,
            origin.status if origin else 'new',
            (origin.key or '') if origin else '',
            how,
        )
    return found


def loading_hits(adaptation: adapt.Adaptation | None) -> list[RuleHits]:
    """The loading rules that decided a leaf, with their hits."""
    counts: dict[Any, int] = {}
    for origin in adaptation.origins.values() if adaptation else ():
        if origin.rule is not None:
            counts[origin.rule] = counts.get(origin.rule, 0) + 1
    return [RuleHits('load', '', rule.pattern, rule.value, n, rule.origin) for rule, n in counts.items()]


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


def steps_per_epoch(experiment: Experiment) -> int:
    """Steps that see each training example at least once."""
    return epoch_steps(len(experiment.data.splits['train']), experiment.config['batch_size'])


def load_leaves(experiment: Experiment) -> dict[str, jax.Array]:
    """Every parameter and statistic at the start of the run, each read straight into its sharding; new ones are initialised.

    What is loaded is never initialised. New leaves are keyed by (seed, path).
    """
    sharding = replicated(experiment.mesh)
    leaves: dict[str, jax.Array] = {}
    adaptation = experiment.adaptation
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
