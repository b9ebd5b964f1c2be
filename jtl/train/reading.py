"""What a run reads with, known before its net: the model's section with what the checkpoint says of it, and for texts the tokenizer.

The tokenizer belongs to the weights, like the scale of pictures. It decides how many rows a word table has, so it comes before the net;
and it needs the checkpoint open, or the training texts.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jtl import config as configs
from jtl.checkpoint.base import Checkpoint, CheckpointError
from jtl.checkpoint.sources import open_checkpoint
from jtl.checkpoint.tables import prefix_of, source_of
from jtl.checkpoint.word_vectors import looks_like_word_vectors, open_word_vectors
from jtl.data import tokenizer as tokenizers
from jtl.data.base import Data, UnreadableError
from jtl.errors import UserError
from jtl.models import MODELS, build_model
from jtl.models.base import WORDS, Model, init_shapes
from jtl.models.hub_config import resolve_model
from jtl.models.text import TextPreprocessing
from jtl.names import lookup

_TABLE = WORDS.rpartition('/')[0]
"""The subtree of `init_from` that word vectors are loaded into."""


@dataclass(frozen=True)
class Reading:
    """What is known of a run's reading.

    Attributes:
      model: the config's section, complete.
      text: how texts are read; None for pictures.
      checkpoints: opened, by subtree; only their keys have been read.
      notes: sentences for the plan.
    """

    model: Mapping[str, Any]
    text: TextPreprocessing | None = None
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_reading(plain: Mapping[str, Any], sources: Mapping[str, Data]) -> Reading:
    """Open what `config.init_from` names, and see what it says of the model and its texts.

    Args:
      plain: the checked config.
      sources: the run's data by name, not yet tokenised.

    Raises:
      UserError: the model cannot be known, texts without a tokenizer, or one whose ids the model's table does not have.
    """
    named, notes = named_sources(plain)
    texts = has_texts(sources[''])
    scratch = plain['tune']['recipe'] == 'scratch'
    vectors = {subtree: where for subtree, where in named.items() if subtree == _TABLE and looks_like_word_vectors(where)}
    described = (texts and not plain['text']['tokenizer']) or not plain['model']['name']
    opened = {} if scratch and not described else open_sources({s: w for s, w in named.items() if s not in vectors})
    model = resolve_model(plain['model'], opened, strict=not (plain['init_rules'] or plain['init_ignore']))
    loaded = {} if scratch else opened
    of_words = 'vocab_size' in inspect.signature(lookup(model['name'], MODELS, 'model')).parameters
    if not texts:
        if of_words:
            raise UserError(f"model.name: {model['name']} reads text, which the data are not. See data.name: 'text_csv', 'conll', ...")
        return Reading(model, None, loaded, tuple(notes))
    if not of_words and not build_model(configs.frozen(model)).vocabulary:
        raise UserError(f'model.name: {model["name"]} reads no text, which the data are. Choose a text model such as lstm or bert_base.')
    found = _tokenizer(plain['text'], opened, sources)
    ids = tokenizers.text_preprocessing({}, tokenizer=found, positions=0).vocab_size
    filled = of_words and not model.get('vocab_size')
    built = build_model(configs.frozen({**model, 'vocab_size': ids} if filled else model))
    text = tokenizers.text_preprocessing(configs.frozen(plain['text']), tokenizer=found, positions=built.positions)
    weights = None if vectors or plain['init_rules'] else _loaded_table(built, loaded)
    if weights is not None:
        rows, checkpoint = weights
        tokenizers.check_vocabulary(text, rows, checkpoint.origin)
        if plain['text']['tokenizer'] == 'words':
            _check_words(text, rows, checkpoint)
    if filled:
        model = {**model, 'vocab_size': weights[0] if weights is not None else ids}
    tokenizers.check_vocabulary(text, built.vocabulary, f'model {model["name"]}')
    for subtree, where in ({} if scratch else vectors).items():
        loaded = {**loaded, subtree: _word_vectors(where, text, built, model['name'])}
        notes.append(loaded[subtree].metadata['note'])
    return Reading(model, text, loaded, tuple(notes))


def stored_reading(plan: Mapping[str, Any], section: Mapping[str, Any]) -> Reading:
    """What the plan.json of a run that goes on tells; what the config's `model` section leaves open (a name of '', a vocabulary of 0) is its."""
    said = plan.get('preprocessing', {})
    text = TextPreprocessing.from_json(said) if 'tokenizer' in said else None
    return Reading(
        {**section, **plan.get('model', {}), **{key: value for key, value in section.items() if value not in ('', 0, None)}}, text
    )


def named_sources(plain: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """The places of `init_from` by subtree ('' for the whole tree), and what the plan has to say about it."""
    init = plain['init_from']
    named = dict(init) if isinstance(init, Mapping) else {'': init} if init else {}
    for subtree, where in named.items():
        if not isinstance(where, str) or not where:
            raise UserError(f'config.init_from{f".{subtree}" if subtree else ""}: the place of a checkpoint, found {where!r}.')
    if plain['tune']['recipe'] == 'scratch':
        return named, [
            f'tune.recipe=scratch ignores init_from={init}: every parameter starts new.'
            if named
            else 'From scratch: every parameter starts new.'
        ]
    return named, [] if named else ['init_from is empty: every parameter starts new (from scratch).']


def open_sources(named: Mapping[str, str]) -> dict[str, Checkpoint]:
    """The checkpoints at these places, opened; nothing but their keys is read."""
    found = {}
    for subtree, where in named.items():
        try:
            found[subtree] = open_checkpoint(where)
        except CheckpointError:
            if looks_like_word_vectors(where):
                raise UserError(
                    f'config.init_from: {where} holds word vectors, which are the word table alone. Name it there: {{{_TABLE!r}: {where!r}}}.'
                ) from None
            raise
    return found


def has_texts(data: Data) -> bool:
    """Whether the examples are texts, or sentences of words; as the first one that can be read says. UserError where none can be."""
    examples = data.splits['train'].examples
    first: UnreadableError | None = None
    for index in range(len(examples)):
        try:
            found = examples[index]
        except UnreadableError as error:
            first = first or error
            continue
        return 'text' in found or 'words' in found
    raise UserError(f'data: none of the {len(examples)} training examples can be read{f": {first}" if first else "."}')


def _tokenizer(section: Mapping[str, Any], opened: Mapping[str, Checkpoint], sources: Mapping[str, Data]) -> str:
    """The tokenizer that `config.text.tokenizer` means, as JSON."""
    name = section['tokenizer']
    if name == 'words' or (not name and not opened):
        return tokenizers.word_tokenizer(
            (text for data in sources.values() for text in _texts(data, section['words_of'])),
            lowercase=section['lowercase'],
            min_count=section['min_count'],
            max_words=section['max_words'],
        )
    if name:
        return tokenizers.named_tokenizer(name)
    for subtree in ('', 'backbone'):
        if subtree in opened:
            found = tokenizers.checkpoint_tokenizer(opened[subtree].beside, opened[subtree].origin)
            if found is not None:
                return found
    raise UserError(
        f'config.text.tokenizer: no tokenizer.json or vocab.txt lies beside {", ".join(c.origin for c in opened.values())}. '
        "Name the place of one, or 'words' for a vocabulary of the training texts."
    )


def _loaded_table(model: Model, checkpoints: Mapping[str, Checkpoint]) -> tuple[int, Checkpoint] | None:
    """The rows of the word table that is loaded, and where it lies; None where none is."""
    places = [subtree for subtree in checkpoints if not subtree or f'{WORDS}/'.startswith(f'{subtree}/')]
    if not places:
        return None
    checkpoint = checkpoints[max(places, key=len)]
    keys = [key for key in checkpoint.specs if f'/{key}'.endswith(f'/{WORDS}')]
    for table in (weights.table for weights in model.weights):
        prefix = prefix_of(table, checkpoint)
        if prefix is not None:
            keys += [source[0] for rule in table.rules if rule.match(WORDS) and (source := source_of(rule, WORDS, prefix)) is not None]
    shape = checkpoint.specs[keys[0]].shape if keys and keys[0] in checkpoint.specs else ()
    return (shape[0], checkpoint) if shape else None


def _check_words(text: TextPreprocessing, rows: int, checkpoint: Checkpoint) -> None:
    """UserError where the vocabulary of the training texts is not the one that the rows of a loaded word table stand for."""
    own = tokenizers.checkpoint_tokenizer(checkpoint.beside, checkpoint.origin)
    if text.vocab_size != rows if own is None else replace(text, tokenizer=own) != text:
        raise UserError(
            f"config.text.tokenizer='words': the {rows:,} rows of the word table of {checkpoint.origin} do not stand for the "
            f"{text.vocab_size:,} words of the training texts. Leave text.tokenizer empty for the checkpoint's own tokenizer, or start the "
            f'table new: config.init_rules=(({WORDS!r}, None),), and its key in config.init_ignore.'
        )


def _texts(data: Data, words_of: str) -> Iterator[Any]:
    """The texts and sentences of the training split, or of all."""
    for examples in (split.examples for name, split in data.splits.items() if words_of == 'all' or name == 'train'):
        for index in range(len(examples)):
            try:
                found = examples[index]
            except UnreadableError:  # the preflight names it
                continue
            yield from (found[key] for key in ('words', 'text', 'pair') if key in found)


def _word_vectors(where: str, text: TextPreprocessing, model: Model, name: str) -> Checkpoint:
    """The vectors of the vocabulary's words, under the name of the model's word table. UserError for vectors of another width."""
    vectors = open_word_vectors(where, text.words)
    table, width = init_shapes(model.backbone, model.inputs((1,)))[0].get(WORDS), vectors.specs['embedding'].shape[1]
    if table is not None and table.shape[1] != width:
        raise UserError(
            f'config.init_from: the word vectors of {where} have {width} numbers each, the word table of {name} has {table.shape[1]}. '
            f'Set model.embedding={width}, or name others.'
        )
    return replace(vectors, specs={WORDS: vectors.specs['embedding']}, read=lambda key: vectors.read('embedding'))
