"""The architecture from the checkpoint: a run's `model` section by the config.json beside the weights, or by the bundle they are in."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models import MODELS, hub_timm, hub_transformers
from jtl.names import lookup

Section = Mapping[str, Any]

_MOST_LAYERS = 2000
# What decides the shapes of the leaves, or that the same leaves compute something else.
_ARCHITECTURE = (
    'width', 'depth', 'depths', 'heads', 'mlp', 'vocab_size', 'positions', 'first_position', 'segments', 'pretrained_patch', 'registers', 'swiglu',
    'qkv_bias', 'gelu', 'bottleneck', 'stride_first', 'lineage', 'variant', 'keras'
)  # fmt: skip
# What a name of a size does not say, but the weights do.
_OF_WEIGHTS = ('vocab_size', 'pretrained_image_size')
_OPEN = (0, None, (0, 0), [0, 0])  # as the weights have it


class UnknownArchitectureError(UserError):
    """A config.json of a model that jtl has not got."""


def section_from(config: Mapping[str, Any], keys: Iterable[str] = ()) -> dict[str, Any]:
    """The `model` section that a config.json means: transformers', timm's, or that of a run of jtl's.

    Args:
      config: the parsed file.
      keys: of the checkpoint, where they are known: they tell whether a BERT has its pooler, which config.json does not.

    Returns:
      `name` and the options that the config decides.

    Raises:
      UnknownArchitectureError: a model type or architecture that jtl has not got.
      UserError: a field of a wrong type, or with a value that jtl's net cannot do; the message names both.
    """
    own = _own(config)
    if own is not None:
        return own
    kind, architecture = config.get('model_type'), config.get('architecture')
    if isinstance(architecture, str) and kind in (None, 'timm_wrapper'):
        section = hub_timm.section_of(config)
        if section is None:
            raise UnknownArchitectureError(f"config.json: timm's architecture {architecture!r} is none that jtl knows.")
        return section
    if not isinstance(kind, str) or kind not in hub_transformers.KINDS:
        raise UnknownArchitectureError(
            f'config.json: model_type is {kind!r}; jtl knows {", ".join(hub_transformers.KINDS)}, and architectures of timm.'
        )
    known = hub_transformers.KINDS[kind]
    section = hub_transformers.section_of(known, config)
    keys = tuple(keys)
    if known.pooler and keys:
        section['pooler'] = any(key.endswith(known.pooler) for key in keys)
    layers = section['depth'] if 'depth' in section else sum(section.get('depths', ()))
    if layers > _MOST_LAYERS:
        raise UserError(f'config.json: {layers:,} layers, more than {_MOST_LAYERS:,}: not the config of a model.')
    return section


def resolve_model(section: Section, checkpoints: Mapping[str, Checkpoint], *, strict: bool = True) -> dict[str, Any]:
    """The `model` section, complete: what it leaves open is taken from the checkpoint of the whole net or of its backbone.

    Without a name, the checkpoint says the architecture: its bundle, or the config.json beside it. What the section gives goes
    before what the checkpoint says. A family's name ('bert') leaves its sizes to the checkpoint too; a size's name ('bert_base')
    leaves nothing but what belongs to the weights (`vocab_size`, `pretrained_image_size`).

    Args:
      section: of the config; a name of '' is none, an image size of 0 likewise.
      checkpoints: opened, by subtree.
      strict: whether what is given must agree with the checkpoint. Not where loading rules say how other shapes are to be read.

    Returns:
      The section for `build_model`.

    Raises:
      UserError: no name and nothing that says one; a name or an option that the checkpoint contradicts; a config.json that is damaged
        or asks for what jtl's net cannot do.
    """
    checkpoint = checkpoints.get('', checkpoints.get('backbone'))
    name = section.get('name')
    if not name:
        if checkpoint is None:
            raise UserError(
                'config.model.name is empty, and there is no config.init_from that could say the architecture. Give one of them.'
            )
        try:
            said, place = _said(checkpoint)
        except UnknownArchitectureError as error:
            raise UserError(f"{error} Where one of jtl's nets has these weights, give config.model.name.") from None
        if said is None:
            raise UserError(
                f'config.model.name is empty, and nothing says the architecture of {checkpoint.origin}: it is no bundle, and there is no '
                'config.json beside its weights. Give the name.'
            )
        return _merged(said['name'], section, said, f'the {place} of {checkpoint.origin}' if strict else '')
    if checkpoint is None or name not in MODELS:
        return dict(section)
    try:
        said, place = _said(checkpoint)
    except UserError as error:
        if strict and not isinstance(error, UnknownArchitectureError):
            raise
        return dict(section)
    if said is None or said['name'] not in MODELS:
        return dict(section)
    where = f'the {place} of {checkpoint.origin}' if strict else ''
    family, bound = _family(name)
    of, sizes = _family(said['name'])
    if family is not of:
        if strict:
            raise UserError(_other(name, said['name'], where, []))
        return dict(section)
    said = {**sizes, **said}
    if not bound:
        return _merged(name, section, said, where)
    _agree(name, {**_defaults(family), **bound, **_given(section)}, said, where)
    taken = {key: said[key] for key in _OF_WEIGHTS if key in said and key not in bound}
    return {**section, **taken, **_given(section), 'name': name}


def json_beside(checkpoint: Checkpoint, name: str) -> dict[str, Any] | None:
    """A JSON object in a file beside the weights; None where there is none. UserError for a file that is no JSON object."""
    content = checkpoint.beside(name)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{checkpoint.origin}: {name} beside the weights is no JSON ({error!s:.100}).') from None
    if not isinstance(found, dict):
        raise UserError(f'{checkpoint.origin}: {name} beside the weights should be a JSON object, found {found!r:.60}.')
    return found


def _said(checkpoint: Checkpoint) -> tuple[dict[str, Any] | None, str]:
    """The section that a checkpoint says, None where it says nothing, and the file that says it."""
    own = _own(checkpoint.metadata)
    if own is not None:
        return own, 'bundle.json'
    config = json_beside(checkpoint, 'config.json')
    if config is None:
        return None, ''
    if 'tune' in config:  # of a run of jtl's, whose plan has what its config left open
        own = _own(json_beside(checkpoint, 'plan.json') or {})
        if own is not None:
            return own, 'plan.json'
    try:
        return section_from(config, checkpoint.specs), 'config.json'
    except UserError as error:
        raise type(error)(f'{checkpoint.origin}: {error}') from None


def _own(data: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `model` section that jtl wrote into a bundle, plan or config; None where there is none with a name."""
    own = data.get('model')
    return dict(own) if isinstance(own, Mapping) and isinstance(own.get('name'), str) and own['name'] else None


def _merged(name: str, section: Section, said: Section, where: str) -> dict[str, Any]:
    given = _given(section)
    _agree(name, given, said, where)
    return {**section, **said, **given, 'name': name}


def _given(section: Section) -> dict[str, Any]:
    """The options that a section gives; what stands for 'as the weights have it' is not given."""
    return {key: value for key, value in section.items() if key != 'name' and not (key in ('image_size', *_OF_WEIGHTS) and value in _OPEN)}


def _family(name: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function behind a name, and the options that the name says."""
    function = lookup(name, MODELS, 'model')
    if not isinstance(function, partial):
        return function, {}
    return function.func, dict(inspect.signature(function.func).bind_partial(*function.args, **function.keywords).arguments)


def _defaults(family: Callable[..., Any]) -> dict[str, Any]:
    return {key: p.default for key, p in inspect.signature(family).parameters.items() if p.default is not p.empty}


def _agree(name: str, mine: Section, said: Section, where: str) -> None:
    """UserError where options of the architecture differ from what the checkpoint says; `where` is empty where they may."""
    ours, theirs = _comparable(mine), _comparable(said)
    differ = [key for key in _ARCHITECTURE if key in ours and key in theirs and ours[key] != theirs[key]]
    if where and differ:
        raise UserError(_other(name, said.get('name', name), where, [(key, ours[key], theirs[key]) for key in differ]))


def _comparable(options: Section) -> dict[str, Any]:
    found = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    if found.get('mlp') == 0:
        found['mlp'] = 4 * found['width'] if 'width' in found else None
    return {key: value for key, value in found.items() if not (key in ('mlp', *_OF_WEIGHTS) and value in _OPEN)}


def _other(name: str, said: str, where: str, differences: list[tuple[str, Any, Any]]) -> str:
    shown = [
        (key, ours, theirs)
        for key, ours, theirs in differences
        if isinstance(ours, int | float | str | tuple) and not hasattr(ours, '_fields')
    ]
    ours, theirs = (' and '.join(f'{key} {pair[k]}' for key, *pair in shown) for k in (0, 1))
    return (
        f'config.model: {name!r}{" with " + ours if ours else ""} is not the net of the weights: {where} says {said!r}'
        f"{' with ' + theirs if theirs else ''}. Leave model.name empty to take the checkpoint's own net, or say with init_rules what is loaded."
    )
