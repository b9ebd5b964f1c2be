"""One run from its config to its report: preflight, training, evaluation of every split, result.json, bundle, report."""

import platform
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

from jtl.bundle import write_bundle
from jtl.checkpoint.load_report import load_text
from jtl.data.base import Data
from jtl.data.preflight import preflight
from jtl.errors import UserError
from jtl.parallel.hosts import ONE, Hosts, whole
from jtl.report.html import run_report
from jtl.tasks.base import HEAD
from jtl.tasks.probes import check_data
from jtl.train.evaluation import Evaluation, evaluate, tta_metrics
from jtl.train.features import of_experiment
from jtl.train.files import RunFiles, alone, read_json, run_files, write_json, write_text
from jtl.train.loop import train
from jtl.train.parts import prediction_step
from jtl.train.probes import probe
from jtl.train.record import golden, record
from jtl.train.resume import Position, RunStore, plan_going_on
from jtl.train.setup import Experiment, build, checked

Evaluations = dict[str, Evaluation]  # by split
Baselines = dict[str, dict[str, float]]


def run(config: Any, workdir: str, *, data: Data | None = None, say: Callable[[str], None] = print, hosts: Hosts = ONE) -> dict[str, Any]:
    """Train by a config in a run directory, or go on where it stands; a finished run is returned as it is.

    Args:
      config: as `jtl.train.setup.build` takes it.
      workdir: the run directory.
      data: in place of what `config.data` names.
      say: takes lines for a person.
      hosts: of the run, each of which calls this; the first writes and speaks.

    Returns:
      The content of result.json.

    Raises:
      UserError: anything that a user can mend.
    """
    files, say = run_files(workdir), say if hosts.first else lambda line: None
    stored = plan_going_on(files, checked(config))
    experiment = build(config, data=data, stored=stored)
    hosts.agree(_facts(experiment, files))
    looked_at = {
        name: preflight(of, max_unreadable=experiment.section(name)['max_unreadable'], hosts=hosts)
        for name, of in experiment.sources.items()
    }
    found = looked_at['']
    if any(source.unreadable for source in looked_at.values()):  # without them: splits and steps count what is left
        experiment = build(config, sources={name: source.data for name, source in looked_at.items()}, stored=stored)
    check_data(experiment.config['evaluators'], experiment.config['probe'], experiment.data)
    say('\n'.join([found.text(), *(f'note: {note}' for note in experiment.task.notes)]))
    for name in [name for name in looked_at if name]:
        say(f'config.sources.{name}:\n{looked_at[name].text()}')
    if experiment.adaptation is not None:
        say(load_text(experiment.adaptation))
    with alone(files) if hosts.first else nullcontext(), closing(RunStore(files, experiment, hosts, say)) as store:
        if files.result.exists() and store.finished():
            say(f'{files.root}: this run is finished. Go on with --extend=STEPS, or give another --workdir.')
            return read_json(files.result)
        predict = cache(lambda head: prediction_step(experiment, head=head))
        leaves, at = train(experiment, files, store, predict, hosts)
        before, after = store.frozen_before, store.frozen_digest(leaves)
        if before != after:
            raise RuntimeError(f'The frozen part changed during training: checksum {before} before, {after} after. This is a bug in jtl.')
        evaluations = {
            name: evaluate(predict(HEAD), leaves, experiment, split) for name, split in experiment.data.splits.items() if len(split)
        }
        baselines = {name: experiment.baselines(name) for name in evaluations}
        evaluations, baselines = _viewed(experiment, leaves, evaluations, baselines)
        evaluations, baselines, chosen = _probed(experiment, leaves, evaluations, baselines, files, say)
        result = _result(experiment, evaluations, baselines, at, before, after, store.seconds()) | chosen
        host_leaves = {path: whole(leaf) for path, leaf in leaves.items()}
        if not hosts.first:
            hosts.barrier('the end of the run')
            return result
        write_bundle(
            files.bundle,
            net=experiment.net.only(HEAD),
            leaves=host_leaves,
            labels=tuple(experiment.data.labels),
            preprocessing=experiment.preprocessing,
            config={**experiment.config, 'model': experiment.model},
            metrics=result['metrics'],
            golden=golden(experiment),
            target_shape=experiment.data.splits['train'].targets.shape[1:],
        )
        write_text(files.report, run_report(record(experiment, files, found, evaluations, baselines, result)))
        write_json(files.result, result)  # last: a run that has it is finished
        hosts.barrier('the end of the run')
        return result


def _facts(experiment: Experiment, files: RunFiles) -> dict[str, Any]:
    """What all hosts of a run must know alike."""
    packages = {name: version(name) for name in ('jtl', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint')}
    config = experiment.config
    return {
        'the version of Python': platform.python_version(),
        **{f'the version of {name}': found for name, found in packages.items()},
        'the kind of devices': jax.local_devices()[0].device_kind,
        'the number of devices': jax.local_device_count(),
        '--workdir': str(files.root),
        **{f'config.{name}': config[name] for name in sorted(config)},
        **{
            f'the content of {f"config.sources.{name}" if name else "config.data"}': s.fingerprint for name, s in experiment.sources.items()
        },
    }


def _viewed(
    experiment: Experiment, leaves: Mapping[str, jax.Array], evaluations: Evaluations, baselines: Baselines
) -> tuple[Evaluations, Baselines]:
    """The evaluations, those of validation and test with the metrics of `config.tta` beside the plain ones, and likewise their baselines."""
    views = experiment.views
    if views is None:
        return evaluations, baselines
    predict = prediction_step(experiment, views)
    for name in [name for name in ('validation', 'test') if name in evaluations]:
        plain = evaluations[name]
        averaged = evaluate(predict, leaves, experiment, experiment.data.splits[name], views)
        evaluations = evaluations | {name: replace(plain, metrics={**plain.metrics, **tta_metrics(averaged.metrics)})}
        baselines = baselines | {name: baselines[name] | tta_metrics(baselines[name])}  # a constant guess is the same from every view
    return evaluations, baselines


def _probed(
    experiment: Experiment,
    leaves: Mapping[str, jax.Array],
    evaluations: Evaluations,
    baselines: Baselines,
    files: RunFiles,
    say: Callable[[str], None],
) -> tuple[Evaluations, Baselines, dict[str, Any]]:
    """Evaluations and baselines with the figures of `config.evaluators` among them, and what result.json says besides."""
    config = experiment.config
    if not config['evaluators']:
        return evaluations, baselines, {}
    model = of_experiment(experiment, leaves)
    probed = probe(model, experiment.data, config['evaluators'], config['probe'], cache=files.root / 'features', say=say)
    return (
        {name: replace(e, metrics={**e.metrics, **probed.metrics[name]}) for name, e in evaluations.items()},
        {name: {**constant, **probed.baseline[name]} for name, constant in baselines.items()},
        {'evaluators': probed.chosen},
    )


def _result(
    experiment: Experiment,
    evaluations: Evaluations,
    baselines: Baselines,
    at: Position,
    before: str,
    after: str,
    seconds: float,
) -> dict[str, Any]:
    """The content of result.json."""
    totals = experiment.plan.totals()
    metrics = {f'{split}/{name}': float(value) for split, e in evaluations.items() for name, value in e.metrics.items()}
    constant = {f'{split}/{name}': float(value) for split, found in baselines.items() for name, value in found.items()}
    return {
        'metrics': {name: value if np.isfinite(value) else None for name, value in metrics.items()},
        'baseline': {name: value if np.isfinite(value) else None for name, value in constant.items()},
        'primary': experiment.task.primary,
        'maximize': experiment.task.maximize,
        'parameters': {'total': totals['parameters'], 'trainable': totals['trainable'], 'frozen': totals['frozen']},
        'optimizer_bytes': max(phase.optimizer_bytes for phase in experiment.plan.phases),
        'steps': at.total,
        'best': {'value': at.best, 'step': at.best_total} if at.best is not None else None,
        'selected': experiment.config['select'],
        'seconds': round(seconds, 3),
        'frozen_checksum': {'before': before, 'after': after},
        'seed': experiment.config['seed'],
        'device': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    }


def extended(config: Any, workdir: str, steps: int) -> Any:
    """The config of a run with `steps` more after its last phase.

    Said again while an extension of so many steps is unfinished, it means that one: a job that is killed and started again with the
    same command ends where it should. UserError where there is no run yet, or `steps` is no positive number.
    """
    files = run_files(workdir)
    if steps < 1:
        raise UserError(f'--extend: a number of steps of at least 1, found {steps}.')
    if not files.config.exists():
        raise UserError(f'--extend: there is no run in {workdir} yet.')
    before = tuple(read_json(files.config).get('extend', ()))
    unfinished = before[-1:] == (steps,) and not files.result.exists()
    config = config.copy_and_resolve_references() if hasattr(config, 'copy_and_resolve_references') else dict(config)
    config['extend'] = before if unfinished else (*before, steps)
    return config
