"""From the config.json of a model that transformers saved to a `model` section: its sizes, and what of it jtl's nets cannot do."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jtl.errors import UserError
from jtl.models.efficientnet import GROUPS, STEM, TOP, VARIANTS
from jtl.models.mbconv import round_channels

Fields = Mapping[str, Any]

_GELUS = {'gelu': 'erf', 'gelu_python': 'erf', 'gelu_new': 'tanh', 'gelu_pytorch_tanh': 'tanh', 'gelu_fast': 'tanh'}
_SIDES = ('image_size', 'patch_size')  # a side, or height and width
_ANY: Mapping[str, Sequence[Any]] = {'quantization_config': (None,), 'pruned_heads': (None, {})}


@dataclass(frozen=True)
class Kind:
    """What one `model_type` means.

    Attributes:
      section: from the fields to the section.
      fields: that decide it, each with the value that transformers takes where the file lacks it.
      only: fields that change what the net computes, with the values that jtl's net can do; a file may lack them.
      pooler: end of the key, in torch and Flax, that a checkpoint with a pooler has; () where the config alone says all.
    """

    section: Callable[[Fields], dict[str, Any]]
    fields: Fields
    only: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    pooler: tuple[str, ...] = ()


def section_of(kind: Kind, config: Fields) -> dict[str, Any]:
    """The section that a config.json of this kind means.

    Raises:
      UserError: a field of a wrong type, or one whose value jtl's net cannot do; the message names it.
    """
    for name, allowed in {**_ANY, **kind.only}.items():
        value = _plain(config.get(name, allowed[0]))
        if value not in allowed:
            able = ' or '.join(map(repr, allowed))
            raise UserError(f"config.json: {name} is {value!r}; jtl's {config['model_type']} can only do {able}.")
    return kind.section({name: _checked(name, config.get(name), default) for name, default in kind.fields.items()})


def _checked(name: str, value: Any, default: Any) -> Any:
    """A field's value, tuples for lists; the default where there is none. UserError where it is of another kind."""
    value = default if value is None else _plain(value)
    if name in _SIDES and isinstance(value, tuple):
        good = len(value) == 2 and all(map(_whole, value))
    elif isinstance(default, bool):
        good = isinstance(value, bool)
    elif isinstance(default, int):
        good = _whole(value)
    elif isinstance(default, float):
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    elif isinstance(default, tuple):
        good = isinstance(value, tuple) and all(map(_whole, value))
    else:
        good = isinstance(value, str)
    if not good:
        raise UserError(f'config.json: {name} should be such as {_json(default)}, found {value!r:.100}.')
    return value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _must(name: str, value: Any, wanted: Any, why: str) -> None:
    if value != wanted:
        raise UserError(f"config.json: {name} is {_json(value)!r}; jtl's net can only do {_json(wanted)!r} there ({why}).")


def _bert(source: str, fields: Fields) -> dict[str, Any]:
    first = fields['pad_token_id'] + 1 if source == 'roberta' else 0
    return {
        'name': 'bert',
        'source': source,
        'width': fields['hidden_size'],
        'depth': fields['num_hidden_layers'],
        'heads': fields['num_attention_heads'],
        'mlp': fields['intermediate_size'],
        'vocab_size': fields['vocab_size'],
        'positions': fields['max_position_embeddings'] - first,
        'first_position': first,
        'segments': fields['type_vocab_size'],
        'pooler': True,
        'epsilon': fields['layer_norm_eps'],
        'gelu': _GELUS[fields['hidden_act']],
        'dropout': fields['hidden_dropout_prob'],
        'attention_dropout': fields['attention_probs_dropout_prob'],
    }


def _distilbert(fields: Fields) -> dict[str, Any]:
    return {
        'name': 'bert',
        'source': 'distilbert',
        'width': fields['dim'],
        'depth': fields['n_layers'],
        'heads': fields['n_heads'],
        'mlp': fields['hidden_dim'],
        'vocab_size': fields['vocab_size'],
        'positions': fields['max_position_embeddings'],
        'first_position': 0,
        'segments': 0,
        'pooler': False,
        'epsilon': 1e-12,
        'gelu': _GELUS[fields['activation']],
        'dropout': fields['dropout'],
        'attention_dropout': fields['attention_dropout'],
    }


def _vit(fields: Fields) -> dict[str, Any]:
    return {
        'name': 'vit',
        **_transformer(fields),
        'mlp': fields['intermediate_size'],
        'registers': 0,
        'swiglu': False,
    }


def _dinov2(fields: Fields) -> dict[str, Any]:
    hidden = int(fields['hidden_size'] * fields['mlp_ratio'])
    if not fields['layerscale_value'] > 0:
        raise UserError("config.json: layerscale_value is 0; jtl's net needs a start above 0 of the scales that every DINOv2 has.")
    return {
        'name': 'vit',
        'source': 'dinov2',
        **_transformer(fields),
        'mlp': (int(hidden * 2 / 3) + 7) // 8 * 8 if fields['use_swiglu_ffn'] else hidden,
        'registers': fields.get('num_register_tokens', 0),
        'swiglu': fields['use_swiglu_ffn'],
        'layer_scale': fields['layerscale_value'],
        'stochastic_depth': fields['drop_path_rate'],
    }


def _transformer(fields: Fields) -> dict[str, Any]:
    patch = fields['patch_size']
    if isinstance(patch, tuple):
        _must('patch_size', patch, (patch[0], patch[0]), 'square patches')
        patch = patch[0]
    return {
        'width': fields['hidden_size'],
        'depth': fields['num_hidden_layers'],
        'heads': fields['num_attention_heads'],
        'pretrained_patch': patch,
        'pretrained_image_size': fields['image_size'],
        'qkv_bias': fields['qkv_bias'],
        'gelu': _GELUS[fields['hidden_act']],
        'epsilon': fields['layer_norm_eps'],
        'dropout': fields['hidden_dropout_prob'],
        **_channels(fields),
    }


def _channels(fields: Fields) -> dict[str, Any]:
    return {} if fields['num_channels'] == 3 else {'image_channels': fields['num_channels']}


def _resnet(fields: Fields) -> dict[str, Any]:
    bottleneck, width, depths = fields['layer_type'] == 'bottleneck', fields['embedding_size'], fields['depths']
    _doubling('hidden_sizes', fields['hidden_sizes'], width * (4 if bottleneck else 1), len(depths))
    return {
        'name': 'resnet',
        'depths': depths,
        'bottleneck': bottleneck,
        'width': width,
        'stride_first': bottleneck and fields['downsample_in_bottleneck'],
        **_channels(fields),
    }


def _bit(fields: Fields) -> dict[str, Any]:
    width, depths = fields['embedding_size'], fields['depths']
    _doubling('hidden_sizes', fields['hidden_sizes'], 4 * width, len(depths))
    return {'name': 'bit', 'depths': depths, 'width': width, **_channels(fields)}


def _convnext(fields: Fields) -> dict[str, Any]:
    widths, depths = fields['hidden_sizes'], fields['depths']
    _must('num_stages', fields['num_stages'], len(depths), 'as many as depths')
    _doubling('hidden_sizes', widths, widths[0] if widths else 0, len(depths))
    return {
        'name': 'convnext',
        'depths': depths,
        'width': widths[0],
        'layer_scale': fields['layer_scale_init_value'],
        'stochastic_depth': fields['drop_path_rate'],
        'epsilon': fields['layer_norm_eps'],
        **_channels(fields),
    }


def _doubling(name: str, found: tuple[int, ...], first: int, count: int) -> None:
    if not count:
        raise UserError('config.json: depths is empty.')
    _must(name, found, tuple(first * 2**i for i in range(count)), 'twice as many channels in each group')


def _efficientnet(fields: Fields) -> dict[str, Any]:
    width, depth = fields['width_coefficient'], fields['depth_coefficient']
    _must('hidden_dim', fields['hidden_dim'], round_channels(TOP * width), 'channels of the last convolution')
    scaled = next((k for k, variant in enumerate(VARIANTS) if (variant.width, variant.depth) == (width, depth)), None)
    sizes = {'width': float(width), 'depth': float(depth), 'image_size': fields['image_size']} if scaled is None else {}
    return {
        'name': f'tf_efficientnet_b{scaled or 0}',
        **sizes,
        'stochastic_depth': fields['drop_connect_rate'],
        'bn_momentum': fields['batch_norm_momentum'],
        **_channels(fields),
    }


_BERT_FIELDS: Fields = {
    'hidden_size': 768,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'intermediate_size': 3072,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1,
    'attention_probs_dropout_prob': 0.1,
    'max_position_embeddings': 512,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
}
_BERT_ONLY = {
    'hidden_act': tuple(_GELUS),
    'position_embedding_type': ('absolute', None),
    'is_decoder': (False,),
    'add_cross_attention': (False,),
}
_POOLER = ('pooler.dense.weight', 'pooler/dense/kernel')
_ROBERTA = Kind(lambda f: _bert('roberta', f), {**_BERT_FIELDS, 'vocab_size': 50265, 'pad_token_id': 1}, _BERT_ONLY, _POOLER)

_VIT_FIELDS: Fields = {
    'hidden_size': 768,
    'num_hidden_layers': 12,
    'num_attention_heads': 12,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.0,
    'layer_norm_eps': 1e-12,
    'image_size': 224,
    'patch_size': 16,
    'num_channels': 3,
    'qkv_bias': True,
}
_VIT_ONLY = {'hidden_act': tuple(_GELUS), 'attention_probs_dropout_prob': (0,)}
_DINOV2_FIELDS: Fields = {
    **_VIT_FIELDS,
    'patch_size': 14,
    'layer_norm_eps': 1e-6,
    'mlp_ratio': 4.0,
    'use_swiglu_ffn': False,
    'layerscale_value': 1.0,
    'drop_path_rate': 0.0,
}
_RESNET_FIELDS: Fields = {'num_channels': 3, 'embedding_size': 64, 'hidden_sizes': (256, 512, 1024, 2048), 'depths': (3, 4, 6, 3)}

KINDS: dict[str, Kind] = {
    'bert': Kind(lambda f: _bert('bert', f), {**_BERT_FIELDS, 'vocab_size': 30522}, _BERT_ONLY, _POOLER),
    'roberta': _ROBERTA,
    'xlm-roberta': _ROBERTA,  # the same net and keys
    'camembert': _ROBERTA,
    'distilbert': Kind(
        _distilbert,
        {
            'dim': 768,
            'n_layers': 6,
            'n_heads': 12,
            'hidden_dim': 3072,
            'vocab_size': 30522,
            'max_position_embeddings': 512,
            'activation': 'gelu',
            'dropout': 0.1,
            'attention_dropout': 0.1,
        },
        {'activation': tuple(_GELUS)},
    ),
    'vit': Kind(_vit, {**_VIT_FIELDS, 'intermediate_size': 3072}, _VIT_ONLY),
    'dinov2': Kind(_dinov2, _DINOV2_FIELDS, _VIT_ONLY),
    'dinov2_with_registers': Kind(_dinov2, {**_DINOV2_FIELDS, 'patch_size': 16, 'num_register_tokens': 4}, _VIT_ONLY),
    'resnet': Kind(
        _resnet,
        {**_RESNET_FIELDS, 'layer_type': 'bottleneck', 'downsample_in_bottleneck': False},
        {'layer_type': ('bottleneck', 'basic'), 'hidden_act': ('relu',), 'downsample_in_first_stage': (False,)},
    ),
    'bit': Kind(
        _bit,
        _RESNET_FIELDS,
        {
            'layer_type': ('preactivation',),
            'hidden_act': ('relu',),
            'global_padding': (None,),
            'num_groups': (32,),
            'embedding_dynamic_padding': (False,),
            'output_stride': (32,),
            'width_factor': (1,),
            'drop_path_rate': (0,),
        },
    ),
    'convnext': Kind(
        _convnext,
        {
            'num_channels': 3,
            'num_stages': 4,
            'hidden_sizes': (96, 192, 384, 768),
            'depths': (3, 3, 9, 3),
            'layer_scale_init_value': 1e-6,
            'drop_path_rate': 0.0,
            'layer_norm_eps': 1e-12,
        },
        {'hidden_act': ('gelu', 'gelu_python'), 'patch_size': (4, (4, 4))},
    ),
    'efficientnet': Kind(
        _efficientnet,
        {
            'num_channels': 3,
            'image_size': 600,
            'width_coefficient': 2.0,
            'depth_coefficient': 3.1,
            'hidden_dim': 2560,
            'drop_connect_rate': 0.2,
            'batch_norm_momentum': 0.99,
        },
        {
            'depth_divisor': (8,),
            'kernel_sizes': (tuple(group.kernel for group in GROUPS),),
            'in_channels': ((STEM, *(group.channels for group in GROUPS[:-1])),),
            'out_channels': (tuple(group.channels for group in GROUPS),),
            'strides': (tuple(group.stride for group in GROUPS),),
            'num_block_repeats': (tuple(group.repeats for group in GROUPS),),
            'expand_ratios': (tuple(group.expand for group in GROUPS),),
            'squeeze_expansion_ratio': (0.25,),
            'hidden_act': ('swish', 'silu'),
            'batch_norm_eps': (0.001,),
        },
    ),
}
"""By `model_type`."""
