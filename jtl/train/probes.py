"""The evaluators of `config.evaluators` on the features of a run, of a checkpoint or of a bundle: `jtl probe`, and the end of a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from etils import epath

from jtl import config as configs
from jtl.bundle import Bundle
from jtl.checkpoint.load_report import load_text
from jtl.data import load_data
from jtl.data.base import Data
from jtl.data.preflight import preflight
from jtl.data.tokens import as_read
from jtl.errors import UserError
from jtl.tasks import build_task
from jtl.tasks.probes import EVALUATORS, check, check_data, check_kind
from jtl.train.features import FeatureModel, features, of_bundle, of_experiment
from jtl.train.setup import build, load_leaves


@dataclass(frozen=True)
class Probed:
    """What the evaluators found.

    Attributes:
      metrics: of each split, by evaluator and metric: `{'test': {'knn_accuracy': ...}}`.
      baseline: the same of a constant guess.
      sizes: examples of each split.
      chosen: what an evaluator chose itself, `{'linear': {'l2': ...}}`.
    """

    metrics: Mapping[str, Mapping[str, float]]
    baseline: Mapping[str, Mapping[str, float]]
    sizes: Mapping[str, int]
    chosen: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain data, the figures named as in result.json: 'test/knn_accuracy'."""

        def flat(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
            return {
                f'{split}/{name}': value if np.isfinite(value) else None
                for split, found in figures.items()
                for name, value in found.items()
            }

        return {'metrics': flat(self.metrics), 'baseline': flat(self.baseline), 'examples': dict(self.sizes), 'chosen': dict(self.chosen)}


def probe(
    model: FeatureModel,
    data: Data,
    evaluators: Sequence[str],
    section: Mapping[str, Any],
    *,
    cache: epath.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> Probed:
    """Fit each evaluator on the features of train and score it on the splits. Nothing is trained.

    Args:
      model: gives the features; its task says what targets and outputs mean.
      data: of that task.
      evaluators: of `jtl.tasks.probes.EVALUATORS`.
      section: `config.probe`, checked.
      cache: see `jtl.train.features.features`.
      say: takes lines for a person.

    Raises:
      UserError: splits that an evaluator cannot work with, or features that are not finite.
    """
    check_data(evaluators, section, data)
    found = features(model, data.splits, cache, say)
    for name, rows in found.items():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        if bad:
            raise UserError(f'The features of {bad} of the {len(rows)} examples of {name} are not finite: nothing can be measured on them.')
    targets = {name: data.splits[name].targets for name in found}
    metrics: dict[str, dict[str, float]] = {name: {} for name in found}
    baseline: dict[str, dict[str, float]] = {name: {} for name in found}
    chosen = {}
    for evaluator in evaluators:
        result = EVALUATORS[evaluator](found, targets, model.task, section)
        say(result.said)
        if result.chosen:
            chosen[evaluator] = result.chosen
        for name, figures in result.metrics(model.task, targets).items():
            metrics[name] |= {f'{evaluator}_{metric}': float(value) for metric, value in figures.items()}
            constant = model.task.baseline(targets['train'], targets[name])
            baseline[name] |= {f'{evaluator}_{metric}': float(constant[metric]) for metric in figures}
    return Probed(metrics, baseline, {name: len(rows) for name, rows in found.items()}, chosen)


def probe_config(
    config: Any, evaluators: Sequence[str] = (), *, stage: str = '', cache: epath.PathLike | None = None, say: Callable[[str], None] = print
) -> Probed:
    """What the features are worth from which a run by this config would start.

    Args:
      config: as `jtl.train.setup.build` takes it; it need not say for how long to train.
      evaluators: names; none: those of the config, or all there are.
      stage: the last stage that runs; '' for the whole backbone.
      cache, say: as in `probe`.

    Raises:
      UserError: as `build` and `probe`.
    """
    plain = configs.plain(config)
    plain['evaluators'] = list(evaluators) or plain.get('evaluators') or list(EVALUATORS)
    if not plain.get('steps') and not plain.get('epochs') and not plain.get('phases'):
        plain['steps'] = 1
    experiment = build(plain)
    found = preflight(experiment.data, max_unreadable=experiment.config['data']['max_unreadable'])
    if found.unreadable:
        experiment = build(plain, data=found.data)
    say(found.text())
    for note in experiment.plan.notes:
        say(note)
    if experiment.adaptation is not None:
        say(load_text(experiment.adaptation))
    model = of_experiment(experiment, load_leaves(experiment), stage)
    return probe(model, experiment.data, experiment.config['evaluators'], experiment.config['probe'], cache=cache, say=say)


def probe_bundle(
    bundle: Bundle,
    sections: Mapping[str, Any],
    evaluators: Sequence[str] = (),
    *,
    stage: str = '',
    cache: epath.PathLike | None = None,
    say: Callable[[str], None] = print,
) -> Probed:
    """What the features of a bundle's backbone are worth.

    Args:
      bundle: loaded.
      sections: `data` and `probe`, plain, as in a config.
      evaluators, stage, cache, say: as in `probe_config`.

    Raises:
      UserError: data that cannot be read, or whose targets are not of the bundle's task; and as `probe`.
    """
    names = tuple(evaluators) or tuple(bundle.metadata['config'].get('evaluators', ())) or tuple(EVALUATORS)
    check(names, sections['probe'])
    check_kind(names, bundle.task.kind)
    found = preflight(load_data(configs.frozen(sections['data'])), max_unreadable=sections['data'].get('max_unreadable', 0))
    say(found.text())
    task = build_task(
        configs.frozen(bundle.metadata['task']), tuple(found.data.labels), found.data.splits['train'].targets.shape[1:]
    )  # any classes will do: the head is not asked
    return probe(
        replace(of_bundle(bundle, stage), task=task),
        as_read(found.data, bundle.preprocessing),
        names,
        sections['probe'],
        cache=cache,
        say=say,
    )
