"""How a checkpoint on the Hub wants its pictures: from preprocessor_config.json, or from timm's config.json, to jtl's Preprocessing."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models.hub_config import json_beside
from jtl.models.hub_timm import pretrained
from jtl.models.preprocessing import Preprocessing, for_channels

_RESAMPLE = {0: 'nearest', 1: 'lanczos', 2: 'bilinear', 3: 'bicubic'}  # PIL's numbers
_WHOLE_FROM = 384  # pixels; from here on ConvNeXt's processor takes the whole picture, without a crop


def preprocessing_from(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Preprocessing that a preprocessor_config.json of transformers says, or `pretrained_cfg` in a config.json of timm.

    Where the original squeezes a picture to the size whatever its shape, jtl takes the middle of it. Fields that the file does not say
    are not in what is returned; {} for the processor of something other than pictures.

    Raises:
      UserError: a field of a wrong type, or one that jtl's preprocessing cannot do; the message names it.
    """
    return _timm(pretrained(config)) if 'pretrained_cfg' in config else _transformers(config)


def preprocessing_beside(checkpoint: Checkpoint, usual: Preprocessing) -> Preprocessing | None:
    """What lies beside the weights says of their pictures: preprocessor_config.json, timm's config.json, or the plan of a run of jtl's.

    Args:
      checkpoint: whose files are asked.
      usual: of the model, for what those files do not say, and for its channels.

    Returns:
      None where they say nothing.

    Raises:
      UserError: a file that is no JSON object, or says what jtl cannot do.
    """
    config = json_beside(checkpoint, 'config.json') or {}
    if 'tune' in config:  # of a run of jtl's
        said = (json_beside(checkpoint, 'plan.json') or {}).get('preprocessing')
        return Preprocessing.from_json(said) if isinstance(said, Mapping) and 'mean' in said else None
    try:
        fields = preprocessing_from(config if 'pretrained_cfg' in config else json_beside(checkpoint, 'preprocessor_config.json') or {})
        if not fields:
            return None
        if len(fields.get('mean', ())) != 3:
            return replace(usual, **fields)
        return for_channels(replace(usual, **fields, channels='RGB'), usual.depth)
    except UserError as error:
        raise UserError(f'{checkpoint.origin}: {error}') from None


def _timm(fields: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if 'mean' in fields and 'std' in fields:
        found = {
            'mean': tuple(255 * x for x in _numbers(fields, 'mean')),
            'std': tuple(255 * x for x in _numbers(fields, 'std')),
            'scale': 1.0,
        }
    if 'input_size' in fields:
        found['size'] = _whole_pair('input_size', _numbers(fields, 'input_size')[1:])
    if 'interpolation' in fields:
        found['interpolation'] = fields['interpolation']
    if fields.get('crop_pct') is not None:
        found['crop'] = _number(fields, 'crop_pct')
    if fields.get('crop_mode', 'center') not in ('center', 'squash'):
        raise UserError(f"pretrained_cfg: crop_mode is {fields['crop_mode']!r}; jtl can only do 'center'.")
    return found


def _transformers(fields: Mapping[str, Any]) -> dict[str, Any]:
    if 'image_mean' not in fields and 'do_normalize' not in fields and 'size' not in fields:
        return {}
    found = _colours(fields)
    if fields.get('do_resize', True):
        found |= _geometry(fields)
        if fields.get('resample') is not None:
            number = fields['resample']
            if not isinstance(number, int) or number not in _RESAMPLE:
                raise UserError(f'preprocessor_config.json: resample is {number!r}; jtl can only do {_RESAMPLE}.')
            found['interpolation'] = _RESAMPLE[number]
    return found


def _colours(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Mean and standard deviation on values 0..255: (x factor - offset - mean) / std."""
    factor = _number(fields, 'rescale_factor', 1 / 255) if fields.get('do_rescale', True) else 1.0
    if not factor > 0:
        raise UserError(f'preprocessor_config.json: rescale_factor should be above 0, found {factor!r}.')
    offset = 1.0 if fields.get('rescale_offset') else 0.0
    efficientnet = _processor(fields).startswith('EfficientNet')
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    if fields.get('do_normalize', True):
        if 'image_mean' not in fields or 'image_std' not in fields:
            return {}
        mean, std = _numbers(fields, 'image_mean'), _numbers(fields, 'image_std')
        if efficientnet and fields.get('include_top', True):  # it divides twice
            std = tuple(x * x for x in std)
    return {'mean': tuple((offset + x) / factor for x in mean), 'std': tuple(x / factor for x in std), 'scale': 1.0}


def _geometry(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Size of the input, and which part of the resized picture it is."""
    if 'size' not in fields:
        return {}
    resized = _sides(fields, 'size')
    if _processor(fields).startswith('ConvNext'):
        side = min(resized)
        return {'size': (side, side), 'crop': _number(fields, 'crop_pct', 224 / 256) if side < _WHOLE_FROM else 1.0}
    if not fields.get('do_center_crop') or 'crop_size' not in fields:
        return {'size': resized, 'crop': 1.0}
    size = _sides(fields, 'crop_size')
    return {'size': size, 'crop': min(size) / min(resized)}


def _processor(fields: Mapping[str, Any]) -> str:
    """The class that transformers reads the file with."""
    return str(fields.get('image_processor_type') or fields.get('feature_extractor_type') or '')


def _sides(fields: Mapping[str, Any], name: str) -> tuple[int, int]:
    """Height and width from a side, a pair, {'shortest_edge': side} or {'height', 'width'}."""
    value = fields[name]
    if isinstance(value, Mapping):
        edge = value.get('shortest_edge')
        value = (value.get('height'), value.get('width')) if edge is None else edge
    return _whole_pair(name, tuple(value) if isinstance(value, list | tuple) else (value, value))


def _whole_pair(name: str, value: tuple[Any, ...]) -> tuple[int, int]:
    if len(value) != 2 or any(not isinstance(side, int) or isinstance(side, bool) or not 0 < side < 2**16 for side in value):
        raise UserError(f'{name} should be height and width in pixels, found {value!r:.100}.')
    return value[0], value[1]


def _numbers(fields: Mapping[str, Any], name: str) -> tuple[Any, ...]:
    value = fields[name]
    value = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(value, list | tuple) or not value or not all(_is_number(x) for x in value):
        raise UserError(f'{name} should be a number for each channel, found {value!r:.100}.')
    return tuple(value)


def _number(fields: Mapping[str, Any], name: str, default: float = 0.0) -> float:
    value = fields.get(name)
    value = default if value is None else value
    if not _is_number(value):
        raise UserError(f'{name} should be a number, found {value!r:.100}.')
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
