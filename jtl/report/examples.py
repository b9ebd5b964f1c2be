"""Single examples in a report: the worst mistakes, with thumbnails where the examples are pictures."""

import base64
import io
import math
from collections.abc import Sequence

import numpy as np

from jtl.report.format import significant
from jtl.report.page import Markup, join, table, tag
from jtl.report.record import RunRecord, SplitOutputs
from jtl.report.texts import clipped

_SHOWN = 24
_SIDE = 192  # pixels of a thumbnail's longer side: twice what is shown, for dense screens
_TINY = 64  # pictures up to this side are shown with their pixels, enlarged


def worst_mistakes(record: RunRecord, split: SplitOutputs, p: np.ndarray, predicted: np.ndarray) -> Markup:
    """The wrong examples of the highest loss.

    Args:
      record: of the run.
      split: one of its splits.
      p: (N, K) probabilities.
      predicted: (N,) class numbers, or (N, K) booleans of several labels an example.
    """
    labels, many = record.labels, predicted.ndim == 2
    truth = np.asarray(split.targets) > 0.5 if many else np.asarray(split.targets, np.int64)
    wrong = (predicted != truth).any(axis=1) if many else predicted != truth
    chosen = [int(i) for i in worst_first(split.losses) if wrong[i]][:_SHOWN]
    if not chosen:
        return tag('p', f'There are none: all {len(wrong):,} predictions are right.')
    shown = []
    for i in chosen:
        if many:
            missed, added = np.flatnonzero(truth[i] & ~predicted[i]).tolist(), np.flatnonzero(predicted[i] & ~truth[i]).tolist()
            said = ' '.join(
                [f'+{labels[k]} ({_percent(p[i, k])})' for k in added] + [f'−{labels[k]} ({_percent(p[i, k])})' for k in missed]
            )
            true = ', '.join(labels[k] for k in np.flatnonzero(truth[i]).tolist()) or 'none'
        else:
            said = f'{labels[predicted[i]]} {_percent(p[i, predicted[i]])}'
            true = f'{labels[truth[i]]} {_percent(p[i, truth[i]])}'
        shown.append((i, said, true))
    note = (
        'In bold: + predicted but not true, − true but not predicted; each with its probability.'
        if many
        else 'In bold what was predicted, each with its probability; the highest loss first.'
    )
    return join(tag('p', note, class_='lead'), _gallery(record, split, shown))


def worst_errors(record: RunRecord, split: SplitOutputs, targets: np.ndarray, names: Sequence[str]) -> Markup:
    """The examples of the highest loss in a regression; `targets` is (N, K)."""

    def told(values: np.ndarray) -> str:
        pairs = [
            significant(float(v)) if len(names) == 1 else f'{name} {significant(float(v), 3)}'
            for name, v in zip(names, values, strict=True)
        ]
        return ', '.join(pairs[:4]) + (' …' if len(pairs) > 4 else '')

    shown = [(int(i), told(split.outputs[i]), told(targets[i])) for i in worst_first(split.losses)[:_SHOWN]]
    return _gallery(record, split, shown)


def worst_first(losses: np.ndarray) -> np.ndarray:
    """Positions by falling loss, one that is no number first."""
    return np.argsort(-np.nan_to_num(np.asarray(losses, np.float64), nan=math.inf), kind='stable')


def _gallery(record: RunRecord, split: SplitOutputs, shown: Sequence[tuple[int, str, str]]) -> Markup:
    """Examples (position, predicted, true) as pictures, or in a table with their text, where they have one."""
    if record.thumbnail is None:
        rows = [[significant(float(split.losses[i]), 3), _named(record, split, i), true, tag('strong', said)] for i, said, true in shown]
        return table(['loss', 'text' if record.text else 'example', 'true', 'predicted'], rows, numeric=(0,))
    frames = []
    for i, said, true in shown:
        uri, tiny = thumbnail_uri(record.thumbnail(split.name, i))
        image = tag('img', src=uri, alt=f'{split.names[i]}', class_='tiny' if tiny else None, loading='lazy')
        lines = (tag('strong', said), tag('div', f'true: {true}'), tag('div', split.names[i], class_='from'))
        frames.append(tag('figure', tag('div', image, class_='frame'), tag('figcaption', *lines)))
    return tag('div', frames, class_='mistakes')


def _named(record: RunRecord, split: SplitOutputs, index: int) -> Markup:
    if record.text is None:
        return tag('code', split.names[index])
    text = clipped(record.text(split.name, index))
    return join(tag('div', text, class_='said', dir='auto'), tag('div', split.names[index], class_='from'))


def _percent(p: float) -> str:
    return f'{100 * p:.0f} %'


def thumbnail_uri(picture: np.ndarray) -> tuple[str, bool]:
    """An (H, W, C) uint8 picture of 1, 3 or 4 channels as a small data URI, and whether it is so small that its pixels show."""
    from PIL import Image

    pixels = np.asarray(picture, np.uint8)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    # Other numbers of channels are no colours: their first is shown in grey.
    image = Image.fromarray(pixels if pixels.shape[2] in (3, 4) else pixels[:, :, 0])
    tiny = max(image.size) <= _TINY
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    if tiny or image.mode == 'RGBA':
        image.save(buffer, 'PNG', optimize=True)
        return 'data:image/png;base64,' + base64.b64encode(buffer.getvalue()).decode(), tiny
    image.save(buffer, 'JPEG', quality=82)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode(), tiny
