"""Nets derived from a folder alone, as transformers and timm save it: config.json, weights, and how pictures are prepared."""

import json
import math

import jax
import numpy as np
import pytest

from jtl.checkpoint.adapt import Source, adapt, choose_table, read
from jtl.checkpoint.sources import open_checkpoint
from jtl.data.images import normalize, prepare
from jtl.models import build_model
from jtl.models.base import init_shapes, unflatten
from jtl.models.hub_config import resolve_model, section_from
from jtl.models.hub_preprocessing import preprocessing_beside
from jtl.models.preprocessing import Preprocessing

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm
transformers = pytest.importorskip('transformers')

SIZE = (32, 32)
BERT = {'vocab_size': 50, 'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 4, 'intermediate_size': 48}
BERT |= {'max_position_embeddings': 20, 'hidden_act': 'gelu_new'}
ROBERTA = BERT | {'type_vocab_size': 1, 'layer_norm_eps': 1e-5}
DISTILBERT = {'vocab_size': 50, 'dim': 32, 'n_layers': 2, 'n_heads': 4, 'hidden_dim': 48, 'max_position_embeddings': 20}
VIT = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'patch_size': 8, 'image_size': 32}
EFFICIENTNET = {'width_coefficient': 0.5, 'depth_coefficient': 0.5, 'hidden_dim': 640, 'image_size': 32}
VISION = {
    'vit': ('ViT', VIT | {'intermediate_size': 48, 'qkv_bias': False}),
    'dinov2': ('Dinov2', VIT | {'mlp_ratio': 2}),
    'dinov2 swiglu': ('Dinov2', VIT | {'mlp_ratio': 2, 'use_swiglu_ffn': True}),
    'registers': ('Dinov2WithRegisters', VIT | {'mlp_ratio': 2, 'num_register_tokens': 3}),
    'resnet': ('ResNet', {'embedding_size': 8, 'hidden_sizes': [32, 64, 128], 'depths': [2, 1, 1]}),
    'resnet basic': ('ResNet', {'embedding_size': 8, 'hidden_sizes': [8, 16], 'depths': [1, 2], 'layer_type': 'basic'}),
    'resnet v1': ('ResNet', {'embedding_size': 8, 'hidden_sizes': [32, 64], 'depths': [1, 1], 'downsample_in_bottleneck': True}),
    'bit': ('Bit', {'embedding_size': 32, 'hidden_sizes': [128, 256, 512], 'depths': [2, 1, 1]}),
    'convnext': ('ConvNext', {'hidden_sizes': [8, 16, 32], 'depths': [1, 2, 1], 'num_stages': 3}),
    'convnext without scale': ('ConvNext', {'hidden_sizes': [8, 16], 'depths': [1, 1], 'num_stages': 2, 'layer_scale_init_value': 0.0}),
    'efficientnet': ('EfficientNet', EFFICIENTNET),
    'grey': ('ResNet', {'num_channels': 1, 'embedding_size': 8, 'hidden_sizes': [32, 64], 'depths': [1, 1]}),
}


def _load(folder, **options):
    """The net that a folder's config.json says, and its features of a batch; every leaf is in the checkpoint."""
    checkpoint = open_checkpoint(str(folder))
    model = build_model(resolve_model({'name': '', **options}, {'': checkpoint}))
    size = (8,) if model.preprocessing is None else SIZE
    shapes, stats = init_shapes(model.backbone, model.inputs(size))
    table = choose_table(checkpoint, [weights.table for weights in model.weights], shapes | stats)
    found = adapt(shapes | stats, {'': Source(checkpoint, table)}).origins
    assert all(origin.status != 'new' for origin in found.values())
    leaves = {path: read(origin, checkpoint) for path, origin in found.items()}
    variables = {'params': unflatten({path: leaves[path] for path in shapes}, 'backbone')}
    if stats:
        variables['batch_stats'] = unflatten({path: leaves[path] for path in stats}, 'backbone')
    return model, lambda batch: jax.jit(model.backbone.apply)(variables, batch)


def _close(found, wanted, what):
    """Equal to 1e-5 of the largest: features are normed maps of up to 5, in which float32 rounds accordingly."""
    largest = float(np.abs(wanted).max())
    assert largest > 0.05
    difference = float(np.abs(np.asarray(found) - wanted).max())
    print(f'{what}: largest difference {difference:.2e} of up to {largest:.2f}')
    assert difference <= 1e-5 * largest


@pytest.mark.parametrize(
    ('kind', 'options', 'head'),
    [
        ('Bert', BERT, 'Model'),
        ('Bert', BERT | {'hidden_act': 'gelu'}, 'ForMaskedLM'),
        ('Bert', BERT, 'ForSequenceClassification'),
        ('Roberta', ROBERTA, 'Model'),
        ('Roberta', ROBERTA, 'ForTokenClassification'),
        ('XLMRoberta', ROBERTA, 'Model'),
        ('Camembert', ROBERTA, 'ForMaskedLM'),
        ('DistilBert', DISTILBERT, 'Model'),
        ('DistilBert', DISTILBERT, 'ForSequenceClassification'),
    ],
)
def test_text(tmp_path, kind, options, head):
    config = getattr(transformers, f'{kind}Config')(**options)
    original = reference.randomise(getattr(transformers, f'{kind}{head}')(config))
    original.save_pretrained(tmp_path)
    model, run = _load(tmp_path)
    mask = np.arange(12) < np.array([12, 7, 1])[:, None]
    ids = np.where(mask, np.random.default_rng(0).integers(5, 50, mask.shape), config.pad_token_id).astype(np.int32)
    batch = {'ids': ids, 'mask': mask}
    theirs = {'input_ids': torch.from_numpy(ids).long(), 'attention_mask': torch.from_numpy(mask).long()}
    if 'segments' in model.inputs((12,)):
        batch['segments'] = (mask & (np.arange(12) > 4)).astype(np.int32)
        theirs['token_type_ids'] = torch.from_numpy(batch['segments']).long()
    with torch.no_grad():
        wanted = (original if head == 'Model' else original.base_model)(**theirs)
    found = run(batch)
    _close(np.asarray(found['tokens'])[mask], wanted.last_hidden_state.numpy()[mask], 'tokens')
    pooled = getattr(wanted, 'pooler_output', None)
    assert ('pooled' in found) == (pooled is not None)
    if pooled is not None:
        _close(found['pooled'], pooled.numpy(), 'pooled')


@pytest.mark.parametrize('head', [False, True], ids=['bare', 'with head'])
@pytest.mark.parametrize('name', VISION)
def test_vision(tmp_path, name, head):
    kind, options = VISION[name]
    config = getattr(transformers, f'{kind}Config')(**options)
    original = reference.randomise(getattr(transformers, f'{kind}{"ForImageClassification" if head else "Model"}')(config))
    for key, x in original.state_dict().items():  # branches, positions and tokens as large as what they are added to
        if any(part in key for part in ('scale', 'lambda1', 'position', 'token')):
            x.copy_(0.5 + torch.rand(x.shape, generator=torch.Generator().manual_seed(len(key))))
        elif name == 'efficientnet' and x.ndim == 4:
            x.mul_(1.5)
    original.save_pretrained(tmp_path)
    _, run = _load(tmp_path)
    x = reference.images(SIZE, channels=options.get('num_channels', 3))
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        wanted = (original.base_model if head else original)(pixels).last_hidden_state.numpy()
    found = run({'image': x})
    if wanted.ndim == 3:
        _close(found['pooled'], wanted[:, 0], 'class token')
        grid = found['map'].reshape(len(x), -1, wanted.shape[-1])
        _close(grid, wanted[:, -grid.shape[1] :], 'patches')
    else:
        _close(found['map'], wanted.transpose(0, 2, 3, 1), 'map')
        if 'pooled' in found:
            with torch.no_grad():
                _close(found['pooled'], (original.base_model if head else original)(pixels).pooler_output.numpy(), 'pooled')


@pytest.mark.parametrize(
    ('kind', 'options', 'shape', 'fields'),
    [
        ('ViT', {'size': {'height': 24, 'width': 32}}, (24, 32), {'size': (24, 32), 'crop': 1.0, 'interpolation': 'bilinear'}),
        ('ViT', {'size': {'height': 24, 'width': 24}, 'do_normalize': False}, (24, 24), {'mean': (0.0,) * 3, 'std': (255.0,) * 3}),
        ('ViT', {'size': {'height': 24, 'width': 24}, 'do_rescale': False, 'image_mean': [9, 8, 7]}, (24, 24), {'mean': (9.0, 8.0, 7.0)}),
        (
            'Bit',
            {'size': {'shortest_edge': 32}, 'crop_size': {'height': 28, 'width': 28}, 'resample': 2},
            (32, 32),
            {'size': (28, 28), 'crop': 28 / 32, 'interpolation': 'bilinear'},
        ),
        (
            'Bit',
            {'size': {'shortest_edge': 32}, 'crop_size': {'height': 28, 'width': 28}, 'resample': 1},
            (32, 40),
            {'interpolation': 'lanczos'},
        ),
        ('DeiT', {'size': {'height': 32, 'width': 32}, 'crop_size': {'height': 28, 'width': 28}}, (32, 32), {'crop': 28 / 32}),
        ('ConvNext', {'size': {'shortest_edge': 56}}, (64, 64), {'size': (56, 56), 'crop': 224 / 256, 'interpolation': 'bicubic'}),
        ('ConvNext', {'size': {'shortest_edge': 384}}, (384, 384), {'size': (384, 384), 'crop': 1.0}),
        (
            'EfficientNet',
            {
                'size': {'height': 24, 'width': 24},
                'image_mean': [0.485, 0.456, 0.406],
                'image_std': [0.47853944, 0.4732864, 0.47434163],
                'resample': 0,
            },
            (24, 24),
            {'std': (58.395, 57.12, 57.375), 'interpolation': 'nearest'},
        ),
        ('EfficientNet', {'size': {'height': 24, 'width': 24}, 'rescale_factor': 1 / 127.5, 'rescale_offset': True}, (24, 24), {}),
        ('EfficientNet', {'size': {'height': 24, 'width': 24}, 'include_top': False}, (24, 24), {}),
    ],
)
def test_pictures_are_prepared_as_the_processor_prepares_them(tmp_path, kind, options, shape, fields):
    """Pictures of the size after the resize, so that crops and colours alone are compared; how each library resizes is tested elsewhere."""
    processor = getattr(transformers, f'{kind}ImageProcessor')(**options)
    processor.save_pretrained(tmp_path)
    np.savez(tmp_path / 'weights.npz', w=np.zeros(1, np.float32))
    found = preprocessing_beside(open_checkpoint(str(tmp_path)), Preprocessing((8, 8), interpolation='nearest'))
    for name, value in fields.items():
        assert getattr(found, name) == (value if isinstance(value, str) else pytest.approx(value, rel=1e-5)), name
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    wanted = processor(picture, return_tensors='np')['pixel_values'][0].transpose(1, 2, 0)
    assert wanted.shape[:2] == found.size
    np.testing.assert_allclose(normalize(prepare(picture, found), found), wanted, atol=2e-5)


@pytest.mark.parametrize('architecture', ['resnet18', 'vit_tiny_patch16_224', 'mobilenetv3_small_100', 'tf_efficientnet_b0'])
def test_folders_of_timm(tmp_path, architecture):
    timm = pytest.importorskip('timm')
    arguments = {'img_size': 32} if architecture.startswith('vit') else {}
    original = reference.randomise(timm.create_model(architecture, num_classes=5, **arguments))
    timm.models.save_for_hf(original, tmp_path, safe_serialization='both')
    model, run = _load(tmp_path)
    x = reference.images(SIZE)
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        wanted = original.forward_head(original.forward_features(pixels), pre_logits=True).numpy()
    found = run({'image': x})
    _close(found['pooled'] if 'pooled' in found else found['map'].mean((1, 2)), wanted, 'features')
    told = preprocessing_beside(open_checkpoint(str(tmp_path)), model.preprocessing)
    data = timm.data.resolve_data_config({}, pretrained_cfg=json.loads((tmp_path / 'config.json').read_text())['pretrained_cfg'])
    assert told.size == tuple(data['input_size'][1:]) and told.interpolation == data['interpolation'] and told.crop == data['crop_pct']
    np.testing.assert_allclose((told.mean, told.std), np.array([data['mean'], data['std']]) * 255)


@pytest.mark.parametrize(
    'architecture',
    [
        'resnet152',
        'vgg11_bn',
        'inception_v3',
        'efficientnet_b4',
        'resnetv2_50x3_bit',
        'convnext_xlarge',
        'vit_small_patch8_224',
        'vit_base_patch32_384',
        'vit_large_patch14_224',
        'vit_huge_patch14_224',
        'deit_base_patch16_384',
        'vit_small_patch14_reg4_dinov2',
    ],
)
def test_architectures_of_timm_have_as_many_parameters(tmp_path, architecture):
    """From shapes alone, of timm's own full-size model and its own config.json."""
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        original = timm.create_model(architecture)
    timm.models._hub.save_config_for_hf(original, tmp_path / 'config.json')
    model = build_model(section_from(json.loads((tmp_path / 'config.json').read_text())))
    size = original.pretrained_cfg['input_size'][1:]
    params, _ = init_shapes(model.backbone, model.inputs(size))
    head = sum(x.numel() for x in original.get_classifier().parameters())
    head += sum(x.numel() for name, x in original.named_parameters() if 'AuxLogits' in name or 'pre_logits' in name)
    count = sum(math.prod(leaf.shape) for leaf in params.values())
    folded = math.prod(params['backbone/embeddings/cls_position'].shape) if 'reg4' in architecture else 0
    assert count - folded + head == sum(x.numel() for x in original.parameters())
