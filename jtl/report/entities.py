"""Mistakes of a tagger: sentences with the true and the predicted entities marked in them."""

from collections.abc import Sequence

from jtl.report.format import plural
from jtl.report.page import Markup, join, tag
from jtl.report.record import RunRecord, SplitOutputs
from jtl.tasks.entities import OUTSIDE, Entity, EntityError, decode, entity_errors, read_tags, tag_numbers

_SHOWN = 8  # mistakes of each kind
_AROUND = 25  # words shown before and after a mistake
_COLOURS = 7  # classes e0, e1, ... of the style sheet

KINDS = {
    'missed': 'a true entity that overlaps none predicted of its type',
    'spurious': 'a predicted entity that overlaps no true one of its type',
    'wrong type': 'the same words, another type',
    'wrong boundary': 'the same type, other words',
}


def entity_mistakes(record: RunRecord, split: SplitOutputs, scheme: str) -> Markup | None:
    """The mistakes of each kind, those in the sentences of the highest loss first; None where the words are not known.

    Every mark says its type in words; those in question have a frame.
    """
    if record.text is None:
        return None
    tags = read_tags(record.labels, scheme)
    errors = entity_errors(split.outputs, split.targets, record.labels, scheme)
    if not errors:
        return tag('p', 'There are none.')
    predictions, truth = tag_numbers(split.outputs, split.targets, tags)
    colours = {kind: k % _COLOURS for k, kind in enumerate(sorted({label[2:] for label in tags.written if label != OUTSIDE}))}
    parts: list[Markup] = []
    for kind, meaning in KINDS.items():
        mine = sorted((error for error in errors if error.kind == kind), key=lambda error: -float(split.losses[error.example]))
        if not mine:
            continue
        more = f'; {_SHOWN} of them' if len(mine) > _SHOWN else ''
        parts.append(tag('h3', f'{kind.capitalize()}: {plural(len(mine), "mistake")}'))
        parts.append(tag('p', f'{meaning[0].upper()}{meaning[1:]}{more}.', class_='lead'))
        for error in mine[:_SHOWN]:
            words = record.text(split.name, error.example).split(' ')
            true, predicted = (decode(numbers[error.example].tolist(), tags) for numbers in (truth, predictions))
            parts.append(_sentence(words, true, predicted, error, split.names[error.example], colours))
    return join(parts)


def _sentence(
    words: Sequence[str],
    true: Sequence[Entity],
    predicted: Sequence[Entity],
    error: EntityError,
    name: str,
    colours: dict[str, int],
) -> Markup:
    """One mistake: the words around it twice, as they are and as they were predicted."""
    spans = [entity for entity in (error.true, error.predicted) if entity]
    first = max(min(entity.start for entity in spans) - _AROUND, 0)
    last = min(max(entity.end for entity in spans) + _AROUND, len(words))
    for entity in (*true, *predicted):  # none is cut in two
        first = entity.start if entity.start < first < entity.end else first
        last = entity.end if entity.start < last < entity.end else last
    rows = (('true', true, error.true), ('predicted', predicted, error.predicted))
    lines = [
        tag(
            'div',
            tag('span', said, class_='which'),
            tag('span', _marked(words, entities, wrong, first, last, colours), dir='auto'),
            class_='line',
        )
        for said, entities, wrong in rows
    ]
    return tag('div', lines, tag('div', name, class_='from'), class_='sentence')


def _marked(
    words: Sequence[str], entities: Sequence[Entity], wrong: Entity | None, first: int, last: int, colours: dict[str, int]
) -> Markup:
    """The words from `first` to before `last`, with marks around entities."""
    pieces: list[Markup | str] = ['… '] if first else []
    at = first
    for entity in entities:
        if first <= entity.start < last:
            pieces += [f'{word} ' for word in words[at : entity.start]]
            style = f'e{colours[entity.type]}' + (' wrong' if entity == wrong else '')
            pieces += [tag('mark', ' '.join(words[entity.start : entity.end]), tag('small', entity.type), class_=style), ' ']
            at = entity.end
    pieces += [f'{word} ' for word in words[at:last]]
    return join(pieces, '…' if last < len(words) else None)
