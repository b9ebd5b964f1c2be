"""Backbones: one file a family, and the way from a config's `model` section to a model."""

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax.numpy as jnp

from jtl.errors import UserError, did_you_mean
from jtl.models.base import Model
from jtl.names import lookup

MODELS = {
    'convnet': 'jtl.models.convnet:convnet',
    'efficientnet_lite0': 'jtl.models.efficientnet_lite:efficientnet_lite0',
    'efficientnet_lite1': 'jtl.models.efficientnet_lite:efficientnet_lite1',
    'efficientnet_lite2': 'jtl.models.efficientnet_lite:efficientnet_lite2',
    'efficientnet_lite3': 'jtl.models.efficientnet_lite:efficientnet_lite3',
    'efficientnet_lite4': 'jtl.models.efficientnet_lite:efficientnet_lite4',
    'resnet18': 'jtl.models.resnet:resnet18',
    'resnet34': 'jtl.models.resnet:resnet34',
    'resnet50': 'jtl.models.resnet:resnet50',
    'resnet101': 'jtl.models.resnet:resnet101',
    'resnet152': 'jtl.models.resnet:resnet152',
}
"""jtl's own family functions: name -> 'module:function', imported when asked for. Each returns a `Model`."""

DTYPES = ('float32', 'bfloat16', 'float16', 'float64')


def build_model(section: Mapping[str, Any]) -> Model:
    """The model that a config's `model` section means.

    Args:
      section: `name` (a key of MODELS, `package.module:function` or `path/to/file.py:function`), `image_size` (0 or absent:
        that of the weights, or the family's own; else a side, or (height, width), in pixels), `dtype` and `param_dtype`
        (such as 'bfloat16'), and options that the family function declares as keyword arguments.

    Returns:
      The model; a given image size is written into its preprocessing and into that of its known weights.

    Raises:
      UserError: an unknown name, an option the family does not declare, or a value of the wrong kind.
    """
    options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    if not isinstance(options.get('name'), str):
        raise UserError(f'model.name must be a name such as "convnet", found {options.get("name")!r}. Known: {", ".join(MODELS)}.')
    name = options.pop('name')
    size = _image_size(options.pop('image_size', 0))
    family = lookup(name, MODELS, 'model')
    declared = inspect.signature(family).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in declared.values())
    for key in ('dtype', 'param_dtype'):
        if key not in options:
            continue
        if options[key] not in DTYPES:
            raise UserError(f'model.{key} must be one of {", ".join(DTYPES)}, found {options[key]!r}.')
        if key not in declared and not takes_any and options[key] == 'float32':  # the config's default, and the family has no other
            del options[key]
        else:
            options[key] = jnp.dtype(options[key])
    for key, value in options.items():
        if key in declared:
            _check_kind(f'model.{key}', value, declared[key].default)
        elif not takes_any:
            raise UserError(f'model.{key}: {name} has no such option. {did_you_mean(key, declared)}'.rstrip())
    model = family(**options)
    if not isinstance(model, Model):
        raise UserError(f'model.name: {name} must return a jtl.models.base.Model, but returned {type(model).__name__}.')
    if size is None:
        return model
    return replace(
        model,
        preprocessing=replace(model.preprocessing, size=size),
        weights=tuple(replace(w, preprocessing=replace(w.preprocessing, size=size)) for w in model.weights),
    )


def _image_size(value: Any) -> tuple[int, int] | None:
    pair = value if isinstance(value, tuple) else (value, value)
    if len(pair) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 0 for side in pair) or (0 in pair and any(pair)):
        raise UserError(f"model.image_size must be 0 (the weights' own), a side, or (height, width), in pixels, found {value!r}.")
    return (pair[0], pair[1]) if any(pair) else None


def _check_kind(field: str, value: Any, default: Any) -> None:
    """UserError where `value` is not of the kind of the option's default. None and dtypes say nothing about the kind."""
    kinds: dict[type, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (tuple,)}
    allowed = kinds.get(type(default))
    if allowed is None:
        return
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UserError(f'{field} must be of the kind of its default {default!r}, found {value!r}.')
    if isinstance(value, tuple) and default and any(type(item) is not type(default[0]) for item in value):
        raise UserError(f'{field} must hold values such as {default!r}, found {value!r}.')
