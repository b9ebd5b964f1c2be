"""What a report shows of single examples and classes, one function a kind of task."""

from collections.abc import Callable

import numpy as np

from jtl.report.entities import entity_mistakes
from jtl.report.examples import worst_errors, worst_mistakes
from jtl.report.page import Markup, figure, section, tag
from jtl.report.plots import confusion_plot, reliability_plot, scatter_plot
from jtl.report.record import RunRecord, SplitOutputs
from jtl.report.tables import class_table, confused_table, per_label
from jtl.tasks.entities import entity_report, read_tags, tag_numbers
from jtl.tasks.metrics import confusion, expected_calibration_error, per_class, reliability, softmax

Section = tuple[str, Markup]


def classification(record: RunRecord, split: SplitOutputs) -> list[Section]:
    """Confusion, figures of each class, worst mistakes, calibration."""
    p = softmax(split.outputs)
    targets, predicted = np.asarray(split.targets, np.int64), p.argmax(axis=1)
    wrong = int((predicted != targets).sum())
    n, where = len(targets), f'on {split.name}'
    ece = expected_calibration_error(p, targets)
    return [
        section('Confusion', confusion_of(targets, predicted, record, where), lead=f'{wrong:,} of {n:,} examples {where} are wrong.'),
        section('Classes', class_table(per_class(targets, predicted, record.labels)), lead=f'{where.capitalize()}, the weakest first.'),
        section(f'Worst mistakes {where}', worst_mistakes(record, split, p, predicted)),
        section(
            'Calibration',
            figure(reliability_plot(reliability(p, targets), ece), f'How often predictions of a given confidence are right, {where}.'),
        ),
    ]


def confusion_of(targets: np.ndarray, predicted: np.ndarray, record: RunRecord, where: str) -> Markup:
    """The matrix, and the classes taken for one another most often, beside it where it is small. Both arrays are (N,) class numbers."""
    matrix = confusion_plot(confusion(targets, predicted, len(record.labels)), record.labels)
    drawn = figure(matrix, f'What is true as rows, what is predicted as columns, {where}.')
    confused = confused_table(targets, predicted, record.labels)
    pairs = tag('div', tag('h3', 'Most confused pairs'), confused) if confused else None
    narrow = len(record.labels) <= 12 and max(map(len, record.labels)) <= 16
    return tag('div', drawn, pairs, class_='plots' if narrow else None)


def multi_label(record: RunRecord, split: SplitOutputs) -> list[Section]:
    """Figures of each label, worst mistakes, calibration."""
    truth, predicted = np.asarray(split.targets) > 0.5, split.outputs >= 0
    p = 1 / (1 + np.exp(-np.clip(split.outputs.astype(np.float64), -500, 500)))
    # Each label of each example is a decision between no and yes.
    decisions, answers = np.stack([1 - p.ravel(), p.ravel()], axis=1), truth.ravel().astype(np.int64)
    diagram = reliability_plot(reliability(decisions, answers), expected_calibration_error(decisions, answers))
    exact = int((truth == predicted).all(axis=1).sum())
    where = f'on {split.name}'
    lead = f'All labels are right for {exact:,} of {len(truth):,} examples {where}; the weakest labels first.'
    return [
        section('Labels', class_table(per_label(truth, predicted, record.labels)), lead=lead),
        section(f'Worst mistakes {where}', worst_mistakes(record, split, p, predicted)),
        section('Calibration', figure(diagram, f'How often decisions of a given confidence are right, over all labels, {where}.')),
    ]


def regression(record: RunRecord, split: SplitOutputs) -> list[Section]:
    """Predicted against true values, largest errors."""
    k = split.outputs.shape[1]
    targets = np.asarray(split.targets, np.float64).reshape(-1, k)
    names = record.labels if len(record.labels) == k else tuple(f'value_{i}' for i in range(k)) if k > 1 else ('value',)
    drawn = [figure(scatter_plot(split.outputs[:, i], targets[:, i], names[i]), f'{names[i]} on {split.name}') for i in range(min(k, 8))]
    rest = tag('p', f'and {k - 8:,} more outputs') if k > 8 else None
    return [
        section('Predicted and true values', tag('div', drawn, class_='plots'), rest),
        section(f'Largest errors on {split.name}', worst_errors(record, split, targets, names)),
    ]


def token_classification(record: RunRecord, split: SplitOutputs) -> list[Section]:
    """Figures of each type of entity, confusion of the words' tags, sentences with mistakes in them."""
    scheme, where = record.config.get('task', {}).get('scheme', 'auto'), f'on {split.name}'
    rows = entity_report(split.outputs, split.targets, record.labels, scheme)
    predicted, true = tag_numbers(split.outputs, split.targets, read_tags(record.labels, scheme))
    words = np.asarray(split.targets) >= 0
    hits = sum(round(row['recall'] * row['support']) for row in rows)
    lead = f'{hits:,} of {sum(row["support"] for row in rows):,} entities {where} are found with their type and both ends; the weakest types first.'
    return [
        section('Entities', class_table(rows, 'type', 'entities'), lead=lead),
        section('Tags of words', confusion_of(true[words], predicted[words], record, where)),
        section(f'Entities that are wrong {where}', entity_mistakes(record, split, scheme)),
    ]


SECTIONS: dict[str, Callable[[RunRecord, SplitOutputs], list[Section]]] = {
    'classification': classification,
    'multi_label': multi_label,
    'regression': regression,
    'token_classification': token_classification,
}
"""By kind of task. Of language models, as of kinds that are a user's own, the metrics and the curves say everything."""
