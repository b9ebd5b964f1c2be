"""From the config.json of a model that timm put on the Hub to a `model` section of jtl: what an architecture's name means."""

import re
from collections.abc import Callable, Mapping
from typing import Any

from jtl.errors import UserError
from jtl.models.efficientnet import VARIANTS
from jtl.models.vit import TI, B, L, S

Fields = Mapping[str, Any]

# Those that jtl calls by the same name.
_SAME = (
    r'resnet(18|34|50|101|152)|vgg(11|13|16|19)(_bn)?|inception_v3|(tf_)?mobilenetv3_(large|small)_100|'
    r'efficientnet_b[0-3]|tf_efficientnet_b[0-7]|convnext_(tiny|small|base)'
)
_SIZES: Mapping[str, dict[str, Any]] = {'tiny': TI, 'small': S, 'base': B, 'large': L, 'huge': {'width': 1280, 'depth': 32, 'heads': 16}}
_CONVNEXT = {'large': 192, 'xlarge': 256}
_FOLLOWED = ('img_size', 'in_chans', 'num_classes', 'drop_rate', 'global_pool')  # or they are about the head


def _vit(found: re.Match[str], fields: Fields) -> dict[str, Any]:
    size = dict(_SIZES[found['size']])
    source = {'source': 'deit'} if found['kind'] == 'deit' else {}
    return {'name': 'vit', **source, **size, 'pretrained_patch': int(found['patch']), **_trained(fields, int(found['side']))}


def _dinov2(found: re.Match[str], fields: Fields) -> dict[str, Any]:
    name = f'dinov2_{found["size"][0]}14{"_reg" if found["reg"] else ""}'
    return {'name': name, **_trained(fields, 518)}


def _trained(fields: Fields, side: int) -> dict[str, Any]:
    """The size of the pictures that positions are for, height and width: of a model made for others, else as its name says."""
    pool = arguments(fields).get('global_pool', fields.get('global_pool', 'token'))
    if pool != 'token':  # it decides whether there is a norm before or after pooling
        raise UserError(f"config.json: global_pool is {pool!r}; jtl's ViT of timm's can only do 'token'.")
    given, size = arguments(fields).get('img_size'), pretrained(fields).get('input_size')
    if given is None:
        given = size[1:] if isinstance(size, list) else side
    sides = tuple(given) if isinstance(given, list | tuple) else (given, given)
    if len(sides) != 2 or any(not isinstance(x, int) or x < 1 for x in sides):
        raise UserError(f'config.json: the size of the pictures should be height and width in pixels, found {given!r:.100}.')
    return {'pretrained_image_size': sides[0] if len(set(sides)) == 1 else sides}


_KINDS: tuple[tuple[str, Callable[[re.Match[str], Fields], dict[str, Any]]], ...] = (
    (_SAME, lambda found, _: {'name': found[0]}),
    (r'resnetv2_(\d+x\d)_bit', lambda found, _: {'name': f'bit_resnet{found[1]}'}),
    (r'convnext_(large|xlarge)', lambda found, _: {'name': 'convnext', 'depths': (3, 3, 27, 3), 'width': _CONVNEXT[found[1]]}),
    (
        r'efficientnet_b([4-7])',
        lambda found, _: {'name': 'efficientnet_b0', 'width': VARIANTS[int(found[1])].width, 'depth': VARIANTS[int(found[1])].depth},
    ),
    (r'(?P<kind>vit)_(?P<size>tiny|small|base|large|huge)_patch(?P<patch>\d+)_(?P<side>\d+)', _vit),
    (r'(?P<kind>deit)_(?P<size>tiny|small|base)_patch(?P<patch>16)_(?P<side>\d+)', _vit),
    (r'vit_(?P<size>small|base|large|giant)_patch14_(?P<reg>reg4_)?dinov2', _dinov2),
)


def section_of(fields: Fields) -> dict[str, Any] | None:
    """The section that an architecture's name means, with `pretrained_cfg` and `model_args` where they change it; None for a name unknown here.

    Raises:
      UserError: `model_args` that jtl's net cannot do, or fields of a wrong type.
    """
    name = fields['architecture']
    made = next((make(found, fields) for pattern, make in _KINDS if (found := re.fullmatch(pattern, name))), None)
    if made is None:
        return None
    given = arguments(fields)
    for key, value in given.items():
        if key not in _FOLLOWED:
            raise UserError(f'config.json: model_args has {key}={value!r}, which changes {name} in a way that jtl cannot follow.')
    channels = given.get('in_chans', 3)
    return {**made, **({} if channels == 3 else {'image_channels': channels})}


def arguments(fields: Fields) -> Fields:
    """`model_args`: what the model was made with, beside its name."""
    return _mapping(fields, 'model_args')


def pretrained(fields: Fields) -> Fields:
    """`pretrained_cfg`: how pictures become the input."""
    return _mapping(fields, 'pretrained_cfg')


def _mapping(fields: Fields, name: str) -> Fields:
    value = fields.get(name) or {}
    if not isinstance(value, Mapping):
        raise UserError(f'config.json: {name} should be an object, found {value!r:.100}.')
    return value
