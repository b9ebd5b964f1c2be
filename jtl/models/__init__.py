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
    'efficientnet_b0': 'jtl.models.efficientnet:efficientnet_b0',
    'efficientnet_b1': 'jtl.models.efficientnet:efficientnet_b1',
    'efficientnet_b2': 'jtl.models.efficientnet:efficientnet_b2',
    'efficientnet_b3': 'jtl.models.efficientnet:efficientnet_b3',
    'tf_efficientnet_b0': 'jtl.models.efficientnet:tf_efficientnet_b0',
    'tf_efficientnet_b1': 'jtl.models.efficientnet:tf_efficientnet_b1',
    'tf_efficientnet_b2': 'jtl.models.efficientnet:tf_efficientnet_b2',
    'tf_efficientnet_b3': 'jtl.models.efficientnet:tf_efficientnet_b3',
    'tf_efficientnet_b4': 'jtl.models.efficientnet:tf_efficientnet_b4',
    'tf_efficientnet_b5': 'jtl.models.efficientnet:tf_efficientnet_b5',
    'tf_efficientnet_b6': 'jtl.models.efficientnet:tf_efficientnet_b6',
    'tf_efficientnet_b7': 'jtl.models.efficientnet:tf_efficientnet_b7',
    'efficientnet_lite0': 'jtl.models.efficientnet_lite:efficientnet_lite0',
    'efficientnet_lite1': 'jtl.models.efficientnet_lite:efficientnet_lite1',
    'efficientnet_lite2': 'jtl.models.efficientnet_lite:efficientnet_lite2',
    'efficientnet_lite3': 'jtl.models.efficientnet_lite:efficientnet_lite3',
    'efficientnet_lite4': 'jtl.models.efficientnet_lite:efficientnet_lite4',
    'inception_v3': 'jtl.models.inception_v3:inception_v3',
    'keras_inception_v3': 'jtl.models.inception_v3:keras_inception_v3',
    'mobilenet_v3_large': 'jtl.models.mobilenet_v3:mobilenet_v3_large',
    'mobilenet_v3_small': 'jtl.models.mobilenet_v3:mobilenet_v3_small',
    'mobilenetv3_large_100': 'jtl.models.mobilenet_v3:mobilenetv3_large_100',
    'mobilenetv3_small_100': 'jtl.models.mobilenet_v3:mobilenetv3_small_100',
    'tf_mobilenetv3_large_100': 'jtl.models.mobilenet_v3:tf_mobilenetv3_large_100',
    'tf_mobilenetv3_small_100': 'jtl.models.mobilenet_v3:tf_mobilenetv3_small_100',
    'bit': 'jtl.models.bit:bit',
    'bit_resnet50x1': 'jtl.models.bit:bit_resnet50x1',
    'bit_resnet50x3': 'jtl.models.bit:bit_resnet50x3',
    'bit_resnet101x1': 'jtl.models.bit:bit_resnet101x1',
    'bit_resnet101x3': 'jtl.models.bit:bit_resnet101x3',
    'bit_resnet152x2': 'jtl.models.bit:bit_resnet152x2',
    'bit_resnet152x4': 'jtl.models.bit:bit_resnet152x4',
    'resnet': 'jtl.models.resnet:resnet',
    'resnet18': 'jtl.models.resnet:resnet18',
    'resnet34': 'jtl.models.resnet:resnet34',
    'resnet50': 'jtl.models.resnet:resnet50',
    'resnet101': 'jtl.models.resnet:resnet101',
    'resnet152': 'jtl.models.resnet:resnet152',
    'keras_resnet50': 'jtl.models.resnet:keras_resnet50',
    'keras_resnet101': 'jtl.models.resnet:keras_resnet101',
    'keras_resnet152': 'jtl.models.resnet:keras_resnet152',
    'vit': 'jtl.models.vit:vit',
    'vit_ti16': 'jtl.models.vit:vit_ti16',
    'vit_s16': 'jtl.models.vit:vit_s16',
    'vit_s32': 'jtl.models.vit:vit_s32',
    'vit_b16': 'jtl.models.vit:vit_b16',
    'vit_b32': 'jtl.models.vit:vit_b32',
    'vit_l16': 'jtl.models.vit:vit_l16',
    'deit_ti16': 'jtl.models.vit:deit_ti16',
    'deit_s16': 'jtl.models.vit:deit_s16',
    'deit_b16': 'jtl.models.vit:deit_b16',
    'jax_vit_ti16': 'jtl.models.vit:jax_vit_ti16',
    'jax_vit_s16': 'jtl.models.vit:jax_vit_s16',
    'jax_vit_s32': 'jtl.models.vit:jax_vit_s32',
    'jax_vit_b16': 'jtl.models.vit:jax_vit_b16',
    'jax_vit_b32': 'jtl.models.vit:jax_vit_b32',
    'jax_vit_l16': 'jtl.models.vit:jax_vit_l16',
    'dinov2_s14': 'jtl.models.vit:dinov2_s14',
    'dinov2_s14_reg': 'jtl.models.vit:dinov2_s14_reg',
    'dinov2_b14': 'jtl.models.vit:dinov2_b14',
    'dinov2_b14_reg': 'jtl.models.vit:dinov2_b14_reg',
    'dinov2_l14': 'jtl.models.vit:dinov2_l14',
    'dinov2_l14_reg': 'jtl.models.vit:dinov2_l14_reg',
    'dinov2_g14': 'jtl.models.vit:dinov2_g14',
    'dinov2_g14_reg': 'jtl.models.vit:dinov2_g14_reg',
    'vgg11': 'jtl.models.vgg:vgg11',
    'vgg11_bn': 'jtl.models.vgg:vgg11_bn',
    'vgg13': 'jtl.models.vgg:vgg13',
    'vgg13_bn': 'jtl.models.vgg:vgg13_bn',
    'vgg16': 'jtl.models.vgg:vgg16',
    'vgg16_bn': 'jtl.models.vgg:vgg16_bn',
    'vgg19': 'jtl.models.vgg:vgg19',
    'vgg19_bn': 'jtl.models.vgg:vgg19_bn',
    'convnext': 'jtl.models.convnext:convnext',
    'convnext_tiny': 'jtl.models.convnext:convnext_tiny',
    'convnext_small': 'jtl.models.convnext:convnext_small',
    'convnext_base': 'jtl.models.convnext:convnext_base',
    'bert': 'jtl.models.bert:bert',
    'bert_tiny': 'jtl.models.bert:bert_tiny',
    'bert_mini': 'jtl.models.bert:bert_mini',
    'bert_small': 'jtl.models.bert:bert_small',
    'bert_medium': 'jtl.models.bert:bert_medium',
    'bert_base': 'jtl.models.bert:bert_base',
    'bert_large': 'jtl.models.bert:bert_large',
    'minilm_l6': 'jtl.models.bert:minilm_l6',
    'minilm_l12': 'jtl.models.bert:minilm_l12',
    'roberta_base': 'jtl.models.bert:roberta_base',
    'roberta_large': 'jtl.models.bert:roberta_large',
    'distilbert_base': 'jtl.models.bert:distilbert_base',
    'lstm': 'jtl.models.recurrent:lstm',
    'gru': 'jtl.models.recurrent:gru',
}
"""jtl's own family functions: name -> 'module:function', imported when asked for. Each returns a `Model`.

Those of a size say it in their name (`bert_base`); those of a family (`bert`) need its options, or a checkpoint's config.json that says them.
"""

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
    missing = [key for key, p in declared.items() if p.kind is p.KEYWORD_ONLY and p.default is p.empty and key not in options]
    if missing:
        raise UserError(f'model: {name} needs {", ".join(missing)}. Give them, or name a checkpoint that has its config.json.')
    model = family(**options)
    if not isinstance(model, Model):
        raise UserError(f'model.name: {name} must return a jtl.models.base.Model, but returned {type(model).__name__}.')
    if size is None:
        return model
    if model.preprocessing is None:
        raise UserError(f'model.image_size: {name} reads no pictures. Leave it 0.')
    return replace(
        model,
        preprocessing=replace(model.preprocessing, size=size),
        weights=tuple(replace(w, preprocessing=replace(w.preprocessing, size=size)) for w in model.weights if w.preprocessing),
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
