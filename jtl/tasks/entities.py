"""Entities in sequences of word tags: schemes, decoding, figures and mistakes over a split, in numpy and by seqeval's rules."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jtl.errors import UserError, some_of
from jtl.tasks.heads import choice
from jtl.tasks.metrics import log_softmax, ratio

SCHEMES = ('auto', 'iob1', 'iob2', 'bilou', 'io')
OUTSIDE = 'O'
ABSENT = -1e4
"""The logit of every tag but 'O' where there is no word, or none that the net sees; that of 'O' is 0."""

_TAG = re.compile(r'([BILUES])-(.+)')
_LETTERS = {'iob1': 'BI', 'iob2': 'BI', 'bilou': 'BILUES', 'io': 'I'}
_BILOU = {'E': 'L', 'S': 'U'}  # as IOBES has them


class Entity(NamedTuple):
    """One entity: the words from `start` to before `end` are of `type`."""

    type: str
    start: int
    end: int


class EntityError(NamedTuple):
    """One difference between prediction and truth; `example` is a position in the split."""

    example: int
    kind: Literal['missed', 'spurious', 'wrong type', 'wrong boundary']
    predicted: Entity | None
    true: Entity | None


@dataclass(frozen=True)
class Tags:
    """The tags of words, made by `read_tags`.

    Attributes:
      labels: in output order, as the data have them.
      scheme: one of SCHEMES other than 'auto'.
      written: the same tags as seqeval reads them in this scheme: IO tags that are bare types begin with 'I-', those of IOBES are BILOU.
      outside: which one is 'O'.
    """

    labels: tuple[str, ...]
    scheme: str
    written: tuple[str, ...]
    outside: int


def read_tags(labels: Sequence[str], scheme: str = 'auto') -> Tags:
    """The scheme that the tags' names are written in, or whether they are in the scheme that is named.

    'auto' takes tags that begin with L-, U-, E- or S- as BILOU; B- and I- as IOB2, or as IOB1 where a type has an I- and no B- (so that
    its entities begin with I-); I- alone as IO. IOB1 whose every type has a B- cannot be told from IOB2: that makes no difference, for both
    are decoded alike.

    Args:
      labels: tag names, 'O' among them; B-type and so on.
      scheme: one of SCHEMES. 'io' takes I-type, or the bare names of types.

    Raises:
      UserError: no 'O', or names that the scheme does not have.
    """
    labels = tuple(labels)
    choice('scheme', scheme, SCHEMES)
    if OUTSIDE not in labels or len(labels) < 2:
        raise UserError(
            f"task.name: the tags of words are 'O' (no entity) and at least one other such as 'B-person', the data have {some_of(labels)}."
        )
    names = [label for label in labels if label != OUTSIDE]
    found = {label: match.groups() for label in names if (match := _TAG.fullmatch(label))}
    bare = [label for label in names if label not in found]
    letters: dict[str, set[str]] = {}
    for letter, kind in found.values():
        letters.setdefault(kind, set()).add(_BILOU.get(letter, letter))
    headless = [kind for kind, used in letters.items() if 'I' in used and 'B' not in used]
    every = set().union(*letters.values())
    if scheme == 'auto':
        if bare:
            raise UserError(
                f'task.scheme: the tag {bare[0]!r} is of no scheme: expected O and tags such as B-{bare[0]} and I-{bare[0]}. '
                "If every tag is the name of a type, set task.scheme='io'."
            )
        scheme = 'bilou' if every & {'L', 'U'} else 'io' if 'B' not in every else 'iob1' if headless else 'iob2'
    if scheme == 'io' and not found:
        return Tags(labels, scheme, tuple(label if label == OUTSIDE else f'I-{label}' for label in labels), labels.index(OUTSIDE))
    wrong = bare or [label for label, (letter, _) in found.items() if letter not in _LETTERS[scheme]]
    if wrong:
        expected = ', '.join(f'{letter}-...' for letter in _LETTERS[scheme])
        raise UserError(f'task.scheme={scheme!r}: the tag {wrong[0]!r} is none of {expected} and O.')
    if scheme == 'iob2' and headless:
        raise UserError(
            f"task.scheme='iob2': there is I-{headless[0]} but no B-{headless[0]}, which begins an entity. Set task.scheme='iob1'."
        )
    if scheme == 'bilou' and 'B' not in every and every & {'I', 'L'}:
        raise UserError("task.scheme='bilou': no tag begins with B-, so entities of several words have no first one (IOE is not read).")

    def write(label: str) -> str:
        letter, kind = found[label]
        return f'{_BILOU.get(letter, letter)}-{kind}' if scheme == 'bilou' else label

    return Tags(labels, scheme, tuple(label if label == OUTSIDE else write(label) for label in labels), labels.index(OUTSIDE))


def decode(sequence: Sequence[int], tags: Tags) -> list[Entity]:
    """The entities of one sentence, from tag numbers, in order.

    IOB1, IOB2 and IO as conlleval and seqeval's default mode have it, for predictions are not always well formed: an I- after another type
    or after O begins an entity too. BILOU as in seqeval's strict mode: what is not well formed is no entity.
    """
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import BILOU
    from seqeval.scheme import Tokens as SeqevalTokens

    written = [tags.written[number] for number in sequence]
    if tags.scheme == 'bilou':
        return [Entity(entity.tag, entity.start, entity.end) for entity in SeqevalTokens(written, BILOU).entities]
    return [Entity(kind, start, last + 1) for kind, start, last in get_entities(written)]


def tag_numbers(
    outputs: Float[np.ndarray, 'n v k'], targets: Int[np.ndarray, 'n w'], tags: Tags
) -> tuple[Int[np.ndarray, 'n w'], Int[np.ndarray, 'n w']]:
    """Predicted and true tag numbers. Where there is no label both are 'O'; words that the outputs have no room for (V < W) are predicted 'O'."""
    predicted = np.full(targets.shape, tags.outside)
    width = min(outputs.shape[1], targets.shape[1])
    predicted[:, :width] = outputs[:, :width].argmax(axis=-1)
    labelled = targets >= 0
    return np.where(labelled, predicted, tags.outside), np.where(labelled, targets, tags.outside)


def tag_metrics(outputs: Float[np.ndarray, 'n v k'], targets: Int[np.ndarray, 'n w'], tags: Tags) -> dict[str, float]:
    """Figures over a split.

    Args:
      outputs: logits; V may differ from W, see `tag_numbers`.
      targets: tag numbers, -1 where there is no word.
      tags: K of them.

    Returns:
      'loss' (nats a word that the net saw, averaged over the words of a sentence and then over sentences), 'f1', 'precision' and 'recall' of
      whole entities (type and both boundaries right), counted over all types as conlleval does, and 'accuracy' of words; `{}` without
      examples.
    """
    if len(outputs) == 0:
        return {}
    predicted, true = tag_numbers(outputs, targets, tags)
    counts = [(len(a & b), len(a), len(b)) for a, b in _both(outputs, targets, tags)]
    right, guessed, support = np.sum(counts, axis=0)
    labelled = targets >= 0
    return {
        'loss': float(_losses(outputs, targets, tags).mean()),
        'f1': float(ratio(2 * right, guessed + support)),
        'precision': float(ratio(right, guessed)),
        'recall': float(ratio(right, support)),
        'accuracy': float(ratio((predicted == true)[labelled].sum(), labelled.sum())),
    }


def entity_report(
    outputs: Float[np.ndarray, 'n v k'], targets: Int[np.ndarray, 'n w'], labels: Sequence[str], scheme: str = 'auto'
) -> list[dict[str, Any]]:
    """One row a type that occurs, in alphabetical order: 'label', 'precision', 'recall', 'f1', 'support' (true entities), 'predicted'.

    Args:
      outputs, targets: as in `tag_metrics`.
      labels, scheme: as in `read_tags`.
    """
    right, guessed, support = Counter[str](), Counter[str](), Counter[str]()
    for predicted, true in _both(outputs, targets, read_tags(labels, scheme)):
        right.update(entity.type for entity in predicted & true)
        guessed.update(entity.type for entity in predicted)
        support.update(entity.type for entity in true)
    types = sorted(guessed | support)
    r, g, s = (np.array([counts[kind] for kind in types]) for counts in (right, guessed, support))
    rows = zip(types, ratio(r, g), ratio(r, s), ratio(2 * r, g + s), s, g, strict=True)
    return [
        {'label': kind, 'precision': float(p), 'recall': float(c), 'f1': float(f), 'support': int(n), 'predicted': int(m)}
        for kind, p, c, f, n, m in rows
    ]


def entity_errors(
    outputs: Float[np.ndarray, 'n v k'], targets: Int[np.ndarray, 'n w'], labels: Sequence[str], scheme: str = 'auto'
) -> list[EntityError]:
    """Every entity that is not predicted as it is, and every predicted one that is none, in order of examples and words.

    A predicted and a true entity at the same place are one mistake, 'wrong type'; two of the same type that overlap are one, 'wrong
    boundary' (the pair that shares most words first). What is left is 'missed' or 'spurious'.

    Args:
      outputs, targets: as in `tag_metrics`.
      labels, scheme: as in `read_tags`.
    """
    errors: list[EntityError] = []
    for example, (predicted, true) in enumerate(_both(outputs, targets, read_tags(labels, scheme))):
        found: list[EntityError] = []
        guesses, missing = sorted(predicted - true, key=_place), sorted(true - predicted, key=_place)
        pairs = [(guess, entity) for guess in guesses for entity in missing if _shared(guess, entity)]
        same_place = [(g, e) for g, e in pairs if g[1:] == e[1:]]
        same_type = sorted(((g, e) for g, e in pairs if g.type == e.type), key=lambda pair: -_shared(*pair))
        for kind, candidates in (('wrong type', same_place), ('wrong boundary', same_type)):
            for guess, entity in candidates:
                if guess in guesses and entity in missing:
                    guesses.remove(guess)
                    missing.remove(entity)
                    found.append(EntityError(example, kind, guess, entity))  # type: ignore[arg-type]
        found += [EntityError(example, 'spurious', guess, None) for guess in guesses]
        found += [EntityError(example, 'missed', None, entity) for entity in missing]
        errors += sorted(found, key=lambda error: _place(error.true or error.predicted))  # type: ignore[arg-type]
    return errors


def _both(outputs: np.ndarray, targets: np.ndarray, tags: Tags) -> list[tuple[set[Entity], set[Entity]]]:
    """Predicted and true entities of each sentence."""
    return [(set(decode(a, tags)), set(decode(b, tags))) for a, b in zip(*tag_numbers(outputs, targets, tags), strict=True)]


def _losses(outputs: np.ndarray, targets: np.ndarray, tags: Tags) -> Float[np.ndarray, ' n']:
    """The loss of each sentence, over the words that have a label and that the net saw."""
    width = min(outputs.shape[1], targets.shape[1])
    outputs, targets = outputs[:, :width], targets[:, :width]
    others = np.arange(outputs.shape[-1]) != tags.outside
    seen = (targets >= 0) & ~(outputs[..., others] == ABSENT).all(axis=-1)
    log_p = log_softmax(outputs.reshape(-1, outputs.shape[-1])).reshape(outputs.shape)
    of_target = np.take_along_axis(log_p, np.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    return ratio(-np.where(seen, of_target, 0).sum(axis=1), seen.sum(axis=1))


def _shared(a: Entity, b: Entity) -> int:
    """Words that two entities share."""
    return max(0, min(a.end, b.end) - max(a.start, b.start))


def _place(entity: Entity) -> tuple[int, int, str]:
    return entity.start, entity.end, entity.type
