"""What is told of a finished run: the record that its report is drawn from, and the golden inputs of its bundle."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jtl.data.pipeline import eval_batches
from jtl.data.preflight import Preflight
from jtl.data.tokens import Tokens
from jtl.models.text import TextPreprocessing
from jtl.report.logs import read_rows
from jtl.report.record import RunRecord, SplitOutputs
from jtl.report.texts import readable
from jtl.train.evaluation import Evaluation
from jtl.train.files import RunFiles
from jtl.train.setup import Experiment


def record(
    experiment: Experiment,
    files: RunFiles,
    found: Preflight,
    evaluations: Mapping[str, Evaluation],
    baselines: Mapping[str, Mapping[str, float]],
    result: Mapping[str, Any],
) -> RunRecord:
    """What the report of a run is made of.

    Args:
      experiment, files: of the run.
      found: of its preflight.
      evaluations, baselines: of its splits.
      result: the content of result.json.
    """
    splits = experiment.data.splits

    def thumbnail(split: str, index: int) -> np.ndarray:
        return np.asarray(splits[split].examples[index]['image'])

    def text(split: str, index: int) -> str:
        return readable(splits[split].examples[index])

    reading = experiment.preprocessing
    return RunRecord(
        title=f'{experiment.model["name"]} on {experiment.config["data"]["name"]}: {experiment.config["tune"]["recipe"] or "phases"}',
        config=experiment.config,
        plan=experiment.plan.to_json(),
        rows=read_rows(files.metrics),
        result=result,
        kind=experiment.task.kind,
        labels=tuple(experiment.data.labels),
        splits=tuple(
            SplitOutputs(
                name,
                e.outputs,
                e.targets,
                e.losses,
                tuple(splits[name].name_of(i) for i in range(len(splits[name]))),
                e.metrics,
                baselines[name],
            )
            for name, e in evaluations.items()
        ),
        thumbnail=thumbnail if 'image' in experiment.net.inputs else None,
        text=text if isinstance(reading, TextPreprocessing) else None,
        lengths={name: split.examples.lengths for name, split in splits.items() if isinstance(split.examples, Tokens)} or None,
        buckets=reading.buckets if isinstance(reading, TextPreprocessing) else (),
        notes=(*found.remarks(), *(f'note: {note}' for note in experiment.task.notes)),
    )


def golden(experiment: Experiment, count: int = 2) -> dict[str, np.ndarray]:
    """A prepared batch of the first examples of the last split that has any."""
    split = [s for s in experiment.data.splits.values() if len(s)][-1]
    batch = next(eval_batches(split, batch_size=min(count, len(split)), preprocessing=experiment.preprocessing))
    return {name: value for name, value in batch.items() if name in experiment.net.batch_keys}
