"""The architecture from config.json: published files of every family, what of them jtl cannot do, and what a config may say beside them."""

import contextlib
import json
import math

import jax
import numpy as np
import pytest

from jtl.checkpoint.base import Checkpoint
from jtl.errors import UserError
from jtl.models import build_model
from jtl.models.base import init_shapes
from jtl.models.hub_config import json_beside, resolve_model, section_from

# As the files of these repositories have them, without the fields that say nothing of the net.
BERT = {
    'architectures': ['BertForMaskedLM'],
    'attention_probs_dropout_prob': 0.1,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1,
    'hidden_size': 768,
    'intermediate_size': 3072,
    'layer_norm_eps': 1e-12,
    'max_position_embeddings': 512,
    'model_type': 'bert',
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'pad_token_id': 0,
    'position_embedding_type': 'absolute',
    'type_vocab_size': 2,
    'use_cache': True,
    'vocab_size': 30522,
}
ROBERTA = BERT | {
    'model_type': 'roberta',
    'layer_norm_eps': 1e-5,
    'max_position_embeddings': 514,
    'type_vocab_size': 1,
    'vocab_size': 50265,
}
ROBERTA |= {'pad_token_id': 1, 'bos_token_id': 0, 'eos_token_id': 2}
DISTILBERT = {
    'activation': 'gelu',
    'attention_dropout': 0.1,
    'dim': 768,
    'dropout': 0.1,
    'hidden_dim': 3072,
    'max_position_embeddings': 512,
    'model_type': 'distilbert',
    'n_heads': 12,
    'n_layers': 6,
    'qa_dropout': 0.1,
    'seq_classif_dropout': 0.2,
    'sinusoidal_pos_embds': False,
    'tie_weights_': True,
    'vocab_size': 30522,
}
VIT = {
    'attention_probs_dropout_prob': 0.0,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.0,
    'hidden_size': 768,
    'image_size': 224,
    'intermediate_size': 3072,
    'layer_norm_eps': 1e-12,
    'model_type': 'vit',
    'num_attention_heads': 12,
    'num_channels': 3,
    'num_hidden_layers': 12,
    'patch_size': 16,
    'qkv_bias': True,
}
DINOV2 = {
    'attention_probs_dropout_prob': 0.0,
    'drop_path_rate': 0.0,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.0,
    'hidden_size': 768,
    'image_size': 518,
    'layer_norm_eps': 1e-6,
    'layerscale_value': 1.0,
    'mlp_ratio': 4,
    'model_type': 'dinov2',
    'num_attention_heads': 12,
    'num_channels': 3,
    'num_hidden_layers': 12,
    'patch_size': 14,
    'qkv_bias': True,
    'use_swiglu_ffn': False,
}
DINOV2_REGISTERS = DINOV2 | {'model_type': 'dinov2_with_registers', 'num_register_tokens': 4, 'hidden_size': 384, 'num_attention_heads': 6}
RESNET = {
    'depths': [3, 4, 6, 3],
    'downsample_in_first_stage': False,
    'embedding_size': 64,
    'hidden_act': 'relu',
    'hidden_sizes': [256, 512, 1024, 2048],
    'layer_type': 'bottleneck',
    'model_type': 'resnet',
    'num_channels': 3,
}
BIT = {
    'depths': [3, 4, 6, 3],
    'drop_path_rate': 0.0,
    'embedding_dynamic_padding': False,
    'embedding_size': 64,
    'global_padding': None,
    'hidden_act': 'relu',
    'hidden_sizes': [256, 512, 1024, 2048],
    'layer_type': 'preactivation',
    'model_type': 'bit',
    'num_channels': 3,
    'num_groups': 32,
    'output_stride': 32,
    'width_factor': 1,
}
CONVNEXT = {
    'depths': [3, 3, 9, 3],
    'drop_path_rate': 0.0,
    'hidden_act': 'gelu',
    'hidden_sizes': [96, 192, 384, 768],
    'layer_norm_eps': 1e-12,
    'layer_scale_init_value': 1e-6,
    'model_type': 'convnext',
    'num_channels': 3,
    'num_stages': 4,
    'patch_size': 4,
}
EFFICIENTNET = {
    'batch_norm_eps': 0.001,
    'batch_norm_momentum': 0.99,
    'depth_coefficient': 1.1,
    'depth_divisor': 8,
    'depthwise_padding': [16],
    'drop_connect_rate': 0.2,
    'dropout_rate': 0.2,
    'expand_ratios': [1, 6, 6, 6, 6, 6, 6],
    'hidden_act': 'swish',
    'hidden_dim': 1280,
    'image_size': 240,
    'in_channels': [32, 16, 24, 40, 80, 112, 192],
    'kernel_sizes': [3, 3, 5, 3, 5, 5, 3],
    'model_type': 'efficientnet',
    'num_block_repeats': [1, 2, 2, 3, 3, 4, 1],
    'num_channels': 3,
    'out_channels': [16, 24, 40, 80, 112, 192, 320],
    'pooling_type': 'mean',
    'squeeze_expansion_ratio': 0.25,
    'strides': [1, 2, 2, 2, 1, 2, 1],
    'width_coefficient': 1.0,
}
# The parameters of the bare model, as the published checkpoints have them; DINOv2's without its mask token, which only pretraining reads.
PUBLISHED = {
    'bert-base-uncased': (BERT, 109_482_240),
    'all-MiniLM-L6-v2': (BERT | {'hidden_size': 384, 'num_hidden_layers': 6, 'intermediate_size': 1536}, 22_713_216),
    'roberta-base': (ROBERTA, 124_645_632),
    'xlm-roberta-base': (ROBERTA | {'model_type': 'xlm-roberta', 'vocab_size': 250002}, 278_043_648),
    'distilbert-base-uncased': (DISTILBERT, 66_362_880),
    'vit-base-patch16-224': (VIT, 86_567_656 - 769 * 1000),
    'dinov2-base': (DINOV2, 86_580_480 - 768),
    'dinov2-with-registers-small': (DINOV2_REGISTERS, 22_058_112 - 384),
    'resnet-18': (
        RESNET | {'layer_type': 'basic', 'hidden_sizes': [64, 128, 256, 512], 'depths': [2, 2, 2, 2]},
        11_689_512 - 513 * 1000,
    ),
    'bit-50': (BIT, 25_549_352 - 2049 * 1000),
    'convnext-tiny-224': (CONVNEXT, 28_589_128 - 769 * 1000),
    'efficientnet-b0': (EFFICIENTNET | {'depth_coefficient': 1.0}, 5_288_548 - 1281 * 1000),
}
TIMM = {
    'architecture': 'vit_base_patch16_224',
    'num_classes': 1000,
    'num_features': 768,
    'global_pool': 'token',
    'pretrained_cfg': {'tag': 'augreg2_in21k_ft_in1k', 'input_size': [3, 224, 224], 'fixed_input_size': True, 'crop_pct': 0.9},
}


def checkpoint(*keys, metadata=None, **files):
    """One with these keys, and files beside it: JSON for what is no bytes."""
    content = {f'{name}.json': value if isinstance(value, bytes) else json.dumps(value).encode() for name, value in files.items()}
    specs = {key: jax.ShapeDtypeStruct((1,), np.float32) for key in keys}
    return Checkpoint('hf://owner/name', 'safetensors', specs, lambda key: np.zeros(1), metadata or {}, content.get)


def resolved(section, **files):
    return resolve_model(section, {'': checkpoint(**files)})


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_files_give_nets_of_the_published_size(name):
    config, count = PUBLISHED[name]
    model = build_model(section_from(json.loads(json.dumps(config))))
    size = (8,) if model.preprocessing is None else (config.get('image_size', 32),) * 2
    params, _ = init_shapes(model.backbone, model.inputs(size))
    assert sum(math.prod(leaf.shape) for leaf in params.values()) == count


def test_what_files_say_beside_sizes():
    roberta = build_model(section_from(ROBERTA))
    assert roberta.positions == 512 and roberta.vocabulary == 50265 and 'segments' not in roberta.inputs((8,))
    assert section_from(ROBERTA | {'pad_token_id': 3})['first_position'] == 4
    assert section_from(BERT | {'hidden_act': 'gelu_new'})['gelu'] == 'tanh'
    old = {key: BERT[key] for key in ('hidden_size', 'model_type', 'num_attention_heads', 'num_hidden_layers', 'vocab_size')}
    assert section_from(old) == section_from(BERT), 'of 2019: the rest is as transformers takes it'
    grey = section_from(VIT | {'num_channels': 1, 'image_size': [32, 48], 'patch_size': [8, 8]})
    assert (grey['image_channels'], grey['pretrained_image_size'], grey['pretrained_patch']) == (1, (32, 48), 8)
    giant = section_from(DINOV2 | {'use_swiglu_ffn': True, 'hidden_size': 1536, 'num_attention_heads': 24, 'num_hidden_layers': 40})
    assert giant['mlp'] == 4096, 'as dinov2_g14 has it'
    assert section_from(RESNET | {'downsample_in_bottleneck': True})['stride_first']
    blocks = build_model(section_from(CONVNEXT | {'drop_path_rate': 0.2})).backbone.stages
    assert max(stage.make().drop_rate for stage in blocks if stage.name.startswith('layer')) == 0.2


@pytest.mark.parametrize(('k', 'width', 'depth', 'top'), [(0, 1.0, 1.0, 1280), (4, 1.4, 1.8, 1792), (7, 2.0, 3.1, 2560)])
def test_efficientnets_by_their_factors(k, width, depth, top):
    config = EFFICIENTNET | {'width_coefficient': width, 'depth_coefficient': depth, 'hidden_dim': top}
    assert section_from(config) == {'name': f'tf_efficientnet_b{k}', 'stochastic_depth': 0.2, 'bn_momentum': 0.99}
    custom = section_from(config | {'depth_coefficient': 0.5, 'image_size': 100})
    assert build_model(custom).weights[0].preprocessing.size == (100, 100) and custom['depth'] == 0.5


@pytest.mark.parametrize('keys', ['bert.pooler.dense.weight', 'params/bert/pooler/dense/kernel', 'pooler.dense.weight'])
def test_the_keys_say_whether_there_is_a_pooler(keys):
    assert section_from(BERT, [keys, 'other'])['pooler'] is True
    assert section_from(BERT, ['bert.embeddings.word_embeddings.weight'])['pooler'] is False
    assert section_from(DISTILBERT, [keys])['pooler'] is False
    assert resolve_model({'name': ''}, {'': checkpoint('other', config=BERT)})['pooler'] is False
    assert resolve_model({'name': '', 'pooler': True}, {'': checkpoint('other', config=BERT)})['pooler'] is True


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        (BERT | {'hidden_act': 'relu'}, "hidden_act is 'relu'; jtl's bert can only do 'gelu' or"),
        (BERT | {'position_embedding_type': 'relative_key'}, "position_embedding_type is 'relative_key'.*'absolute'"),
        (BERT | {'is_decoder': True}, 'is_decoder is True'),
        (ROBERTA | {'add_cross_attention': True}, "add_cross_attention is True; jtl's roberta"),
        (DISTILBERT | {'activation': 'silu'}, "activation is 'silu'; jtl's distilbert"),
        (BERT | {'pruned_heads': {'0': [1]}}, 'pruned_heads is'),
        (BERT | {'quantization_config': {'bits': 8}}, 'quantization_config is'),
        (VIT | {'hidden_act': 'quick_gelu'}, "hidden_act is 'quick_gelu'"),
        (VIT | {'attention_probs_dropout_prob': 0.1}, 'attention_probs_dropout_prob is 0.1'),
        (VIT | {'patch_size': [8, 16]}, r'patch_size is \[8, 16\].*\[8, 8\]'),
        (DINOV2 | {'layerscale_value': 0.0}, 'layerscale_value is 0'),
        (RESNET | {'downsample_in_first_stage': True}, 'downsample_in_first_stage is True'),
        (RESNET | {'layer_type': 'other'}, "layer_type is 'other'.*'bottleneck' or 'basic'"),
        (RESNET | {'hidden_sizes': [256, 512, 1024, 1024]}, r'hidden_sizes is \[256, 512, 1024, 1024\].*\[256, 512, 1024, 2048\]'),
        (RESNET | {'depths': []}, 'depths is empty'),
        (BIT | {'layer_type': 'bottleneck'}, "layer_type is 'bottleneck'.*'preactivation'"),
        (BIT | {'global_padding': 'SAME'}, "global_padding is 'SAME'"),
        (CONVNEXT | {'num_stages': 3}, 'num_stages is 3'),
        (CONVNEXT | {'patch_size': 2}, 'patch_size is 2'),
        (EFFICIENTNET | {'kernel_sizes': [3] * 7}, r'kernel_sizes is \(3, 3'),
        (EFFICIENTNET | {'hidden_dim': 64}, 'hidden_dim is 64.*1280'),
        (BERT | {'hidden_size': '768'}, "hidden_size should be such as 768, found '768'"),
        (BERT | {'layer_norm_eps': math.inf}, 'layer_norm_eps should be such as 1e-12'),
        (RESNET | {'depths': [3, True]}, r'depths should be such as \[3, 4, 6, 3\]'),
        (VIT | {'image_size': [1, 2, 3]}, 'image_size should be'),
        (BERT | {'num_hidden_layers': 10**9}, '1,000,000,000 layers'),
        (EFFICIENTNET | {'depth_coefficient': 1e8}, '100,000,000.0 layers'),
        ({'model_type': 'swin'}, "model_type is 'swin'; jtl knows bert, roberta"),
        ({}, 'model_type is None'),
        (TIMM | {'architecture': 'swin_tiny'}, "timm's architecture 'swin_tiny'"),
        (TIMM | {'global_pool': 'avg'}, "global_pool is 'avg'"),
        (TIMM | {'model_args': {'norm_layer': 'rmsnorm'}}, "model_args has norm_layer='rmsnorm'"),
        (TIMM | {'model_args': [1]}, 'model_args should be an object'),
    ],
)
def test_what_jtl_cannot_do_is_named(config, message):
    with pytest.raises(UserError, match=message) as caught:
        section_from(config)
    assert str(caught.value).startswith('config.json: ')
    with pytest.raises(UserError, match=f'hf://owner/name: config.json: .*{message}'):
        resolved({'name': ''}, config=config)


ODD = (None, True, -1, 0, 10**12, 0.5, math.inf, '', 'x', [], [1], [[1], [1], [1]], {}, {'a': 1})


@pytest.mark.parametrize('config', [*(config for config, _ in PUBLISHED.values()), TIMM, {'model': {'name': 'vit_b16'}}])
def test_odd_values_are_told_or_taken(config):
    for field in (*config, 'model_type', 'architecture', 'model', 'model_args', 'pretrained_cfg'):
        for odd in ODD:
            for value in (
                (odd, {'name': odd}, {'img_size': odd}, {'input_size': odd})
                if field in ('model', 'model_args', 'pretrained_cfg')
                else (odd,)
            ):
                with contextlib.suppress(UserError):
                    resolved({'name': ''}, config=config | {field: value})
                with contextlib.suppress(UserError):
                    resolved({'name': 'vit_b16'}, config=config | {field: value})


@pytest.mark.parametrize(
    ('architecture', 'more', 'section'),
    [
        ('resnet50', {}, {'name': 'resnet50'}),
        ('vgg16_bn', {}, {'name': 'vgg16_bn'}),
        ('tf_mobilenetv3_large_100', {}, {'name': 'tf_mobilenetv3_large_100'}),
        ('tf_efficientnet_b7', {}, {'name': 'tf_efficientnet_b7'}),
        ('efficientnet_b4', {}, {'name': 'efficientnet_b0', 'width': 1.4, 'depth': 1.8}),
        ('resnetv2_101x3_bit', {}, {'name': 'bit_resnet101x3'}),
        ('convnext_xlarge', {}, {'name': 'convnext', 'depths': (3, 3, 27, 3), 'width': 256}),
        ('resnet18', {'model_args': {'in_chans': 1}}, {'name': 'resnet18', 'image_channels': 1}),
        (
            'deit_small_patch16_224',
            {'pretrained_cfg': {}},
            {'name': 'vit', 'source': 'deit', 'width': 384, 'depth': 12, 'heads': 6, 'pretrained_patch': 16, 'pretrained_image_size': 224},
        ),
        (
            'vit_large_patch32_384',
            {'pretrained_cfg': {'input_size': [3, 384, 256]}},
            {'name': 'vit', 'width': 1024, 'depth': 24, 'heads': 16, 'pretrained_patch': 32, 'pretrained_image_size': (384, 256)},
        ),
        (
            'vit_giant_patch14_reg4_dinov2',
            {'model_args': {'img_size': 224}},
            {'name': 'dinov2_g14_reg', 'pretrained_image_size': 224},
        ),
    ],
)
def test_architectures_of_timm(architecture, more, section):
    config = TIMM | {'architecture': architecture} | more
    assert section_from(config) == section
    assert section_from(config | {'model_type': 'timm_wrapper'}) == section, 'as transformers saves it'
    assert build_model(section).backbone.stages


def test_without_a_name_the_checkpoint_says_it_and_the_section_goes_before():
    defaults = {'name': '', 'image_size': 0, 'dtype': 'float32', 'param_dtype': 'float32'}
    assert resolved(defaults, config=RESNET) == {**defaults, **section_from(RESNET)}
    found = resolve_model(defaults | {'dropout': 0.3, 'image_size': (32, 64)}, {'backbone': checkpoint(config=VIT), 'heads': checkpoint()})
    assert found == {**defaults, **section_from(VIT), 'dropout': 0.3, 'image_size': (32, 64)}
    assert build_model(found).preprocessing.size == (32, 64)
    with pytest.raises(UserError, match=r'model\.name is empty, and there is no config\.init_from'):
        resolve_model(defaults, {'backbone/embeddings': checkpoint(config=BERT)})
    with pytest.raises(UserError, match='nothing says the architecture of hf://owner/name'):
        resolved(defaults)
    with pytest.raises(UserError, match=r"model_type is 'swin'.*give config\.model\.name"):
        resolved(defaults, config={'model_type': 'swin'})


def test_a_bundle_says_its_own_architecture():
    own = {'name': 'convnet', 'image_size': 8, 'dtype': 'bfloat16', 'channels': [4, 8]}
    bundle = checkpoint(metadata={'model': own}, config=BERT)
    section = {'name': '', 'image_size': 0, 'dtype': 'float32'}
    assert resolve_model(section, {'': bundle}) == {**own, 'dtype': 'float32'}
    assert resolve_model({'name': 'convnet', 'channels': (4, 8)}, {'': bundle}) == {
        'name': 'convnet',
        'channels': (4, 8),
        'image_size': 8,
        'dtype': 'bfloat16',
    }
    with pytest.raises(UserError, match=r"'resnet18' is not the net of the weights: the bundle.json of hf://owner/name says 'convnet'"):
        resolve_model({'name': 'resnet18'}, {'': bundle})
    own_code = checkpoint(metadata={'model': {'name': 'my.nets:net', 'width': 3}})
    assert resolve_model({'name': ''}, {'': own_code}) == {'name': 'my.nets:net', 'width': 3}
    assert resolve_model({'name': 'resnet18'}, {'': own_code}) == {'name': 'resnet18'}, 'nobody here knows what that is'
    run = {'model': {'name': 'vit_s16', 'width': 32}, 'tune': {'recipe': 'full'}}
    assert resolved({'name': ''}, config=run) == {'name': 'vit_s16', 'width': 32}
    run['model'] = {'name': '', 'width': 0}
    assert resolved({'name': ''}, config=run, plan={'model': {'name': 'vit_s16', 'width': 32}}) == {'name': 'vit_s16', 'width': 32}


def test_a_family_leaves_its_sizes_to_the_checkpoint_and_a_size_must_agree():
    assert resolved({'name': 'bert', 'dropout': 0.0}, config=BERT) == {**section_from(BERT), 'dropout': 0.0}
    assert resolved({'name': 'convnext'}, config=TIMM | {'architecture': 'convnext_base'}) == {
        'name': 'convnext',
        'depths': (3, 3, 27, 3),
        'width': 128,
        'short_side': 232,
    }
    assert resolved({'name': 'bert_base', 'pooler': False}, config=BERT) == {'name': 'bert_base', 'pooler': False, 'vocab_size': 30522}
    assert resolved({'name': 'vit_b16', 'pretrained_image_size': None}, config=VIT | {'image_size': 384}) == {
        'name': 'vit_b16',
        'pretrained_image_size': 384,
    }
    assert resolved(
        {'name': 'deit_b16', 'width': 192, 'heads': 3},
        config=VIT | {'hidden_size': 192, 'num_attention_heads': 3, 'intermediate_size': 768},
    )
    assert resolved({'name': 'tf_efficientnet_b1'}, config=EFFICIENTNET) == {'name': 'tf_efficientnet_b1'}
    assert resolved({'name': 'resnet50'}, config=RESNET) == {'name': 'resnet50'}


@pytest.mark.parametrize(
    ('section', 'config', 'message'),
    [
        (
            {'name': 'bert_large'},
            BERT,
            "'bert_large' with width 1024 and depth 24 and heads 16.* says 'bert' with width 768 and depth 12 and heads 12",
        ),
        ({'name': 'vit_s16'}, BERT, "'vit_s16' is not the net of the weights: the config.json of hf://owner/name says 'bert'"),
        ({'name': 'roberta_base'}, BERT, 'first_position 2 and segments 1.*first_position 0 and segments 2'),
        ({'name': '', 'depth': 6}, BERT, "'bert' with depth 6 is not.*'bert' with depth 12"),
        ({'name': 'bert_base', 'vocab_size': 100}, BERT, 'vocab_size 100.*vocab_size 30522'),
        ({'name': 'dinov2_b14'}, DINOV2_REGISTERS, "'dinov2_b14' with width 768 and heads 12 and mlp 3072 and registers 0.*registers 4"),
        ({'name': 'jax_vit_b16'}, VIT, "'jax_vit_b16' with gelu tanh.*gelu erf"),
        ({'name': 'vit_b32'}, VIT, 'pretrained_patch 32.*pretrained_patch 16'),
        ({'name': 'resnet34'}, RESNET, 'bottleneck False.*bottleneck True'),
        ({'name': 'resnet50', 'depths': [3, 4, 23, 3]}, RESNET, r'depths \(3, 4, 23, 3\).*depths \(3, 4, 6, 3\)'),
        ({'name': 'keras_resnet50'}, RESNET, "'keras_resnet50' is not the net.*says 'resnet'"),
        ({'name': 'efficientnet_b1'}, EFFICIENTNET, "'efficientnet_b1' is not the net.*says 'tf_efficientnet_b1'"),
        ({'name': 'tf_efficientnet_b0'}, EFFICIENTNET, 'variant 0.*variant 1'),
        ({'name': 'convnext_base'}, TIMM | {'architecture': 'convnext_tiny'}, r'width 128 and depths \(3, 3, 27, 3\).*width 96'),
    ],
)
def test_a_name_that_the_checkpoint_contradicts(section, config, message):
    with pytest.raises(UserError, match=message) as caught:
        resolved(section, config=config)
    assert '\n' not in str(caught.value)
    loose = resolve_model(section, {'': checkpoint(config=config)}, strict=False)
    assert loose.items() >= {key: value for key, value in section.items() if value}.items(), 'where loading rules say how'


def test_a_name_stands_alone_where_nothing_is_said():
    section = {'name': 'vit_b16', 'image_size': 0}
    assert resolve_model(section, {}) == resolved(section) == resolved(section, config={'model_type': 'swin'}) == section
    assert resolved({'name': 'my.nets:net'}, config=VIT) == {'name': 'my.nets:net'}
    with pytest.raises(UserError, match="hidden_act is 'relu'"):
        resolved(section, config=VIT | {'hidden_act': 'relu'})
    assert resolve_model(section, {'': checkpoint(config=VIT | {'hidden_act': 'relu'})}, strict=False) == section
    with pytest.raises(UserError, match='Did you mean'):
        build_model(resolved({'name': 'vit_b6'}, config=VIT))


@pytest.mark.parametrize(
    ('content', 'message'),
    [(b'{', 'is no JSON'), (b'[' * 100_000, 'is no JSON'), (b'[1]', 'should be a JSON object'), (b'\xff\xfe', 'is no JSON')],
)
def test_files_that_are_no_objects(content, message):
    with pytest.raises(UserError, match=f'hf://owner/name: config.json beside the weights {message}'):
        resolved({'name': ''}, config=content)
    with pytest.raises(UserError, match=message):
        resolved({'name': 'vit_b16'}, config=content)
    assert json_beside(checkpoint(), 'config.json') is None
