"""Vision transformers against timm, torchvision, transformers and DINOv2: random weights in files that these libraries wrote."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import jtl
from jtl.checkpoint.adapt import Source, adapt, choose_table
from jtl.checkpoint.base import Checkpoint
from jtl.models import build_model
from jtl.models.base import init_shapes, unflatten

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

TINY = {'width': 32, 'depth': 2, 'heads': 2, 'mlp': 48, 'pretrained_patch': 4}
TIMM = {'embed_dim': 32, 'depth': 2, 'num_heads': 2, 'mlp_ratio': 1.5, 'patch_size': 4, 'num_classes': 5}
HF = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'patch_size': 4, 'num_labels': 5}


def _randomise(model):
    """Positions and tokens as large as what they are added to."""
    model = reference.randomise(model)
    for name, x in model.state_dict().items():
        if any(part in name for part in ('pos', 'cls_token', 'class_token', 'reg')):
            x.copy_(0.5 * torch.randn(x.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def _timm(size, **options):
    transformer = pytest.importorskip('timm.models.vision_transformer')
    return transformer.VisionTransformer(img_size=size, **{**TIMM, **options})


def _compare(path, name, original, *, size, run=None, new=(), pool='auto', classes=5, channels=3, **options):
    x = reference.images(size, channels=channels)
    experiment = reference.experiment(path, {'name': name, **TINY, **options}, classes=classes, size=size, task={'pool': pool})
    wanted = (run or partial(reference.torch_outputs, original))(x)
    return reference.check(experiment, x, wanted, new=new)


@pytest.mark.parametrize(
    ('theirs', 'ours'),
    [
        ({}, {}),
        ({'init_values': 0.1}, {'layer_scale': 1e-5}),
        ({'qkv_bias': False}, {'qkv_bias': False}),
        ({'class_token': False, 'global_pool': 'avg', 'fc_norm': False}, {'class_token': False}),
    ],
    ids=['plain', 'layer scale', 'no qkv bias', 'no class token'],
)
def test_timm_state_dict(tmp_path, theirs, ours):
    size = (20, 28)
    original = _randomise(_timm(size, **theirs))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', 'vit_s16', original, size=size, pretrained_image_size=size, **ours)


@pytest.mark.parametrize('source', [(56, 56), (36, 20)], ids=['square', 'oblong'])
@pytest.mark.parametrize('size', [(96, 96), (28, 64)], ids=['larger', 'other shape'])
@pytest.mark.parametrize('class_token', [True, False])
def test_positions_are_resized_as_timm_resizes_them(tmp_path, source, size, class_token):
    """14 x 14 to 24 x 24 tokens, as from 224 to 384 pixels; grids that are not square; timm's own loader makes the reference."""
    transformer = pytest.importorskip('timm.models.vision_transformer')
    resample = pytest.importorskip('timm.layers').resample_abs_pos_embed
    options = {} if class_token else {'class_token': False, 'global_pool': 'avg', 'fc_norm': False}
    before, after = _randomise(_timm(source, **options)), _timm(size, **options).eval()
    torch.save(before.state_dict(), tmp_path / 'model.pth')
    state = before.state_dict()
    grids = [tuple(side // 4 for side in sides) for sides in (source, size)]
    state['pos_embed'] = resample(state['pos_embed'], new_size=grids[1], old_size=grids[0], num_prefix_tokens=int(class_token))
    if source[0] == source[1]:  # without being told, timm takes every grid for a square one
        filtered = transformer.checkpoint_filter_fn(before.state_dict(), after)
        torch.testing.assert_close(filtered['pos_embed'], state['pos_embed'])
    after.load_state_dict(state)
    _compare(tmp_path / 'model.pth', 'vit_s16', after, size=size, pretrained_image_size=source, class_token=class_token)
    options = {'name': 'vit_s16', **TINY, 'pretrained_image_size': source, 'class_token': class_token}
    leaves = jtl.load_leaves(reference.experiment(tmp_path / 'model.pth', options, classes=5, size=size))
    ours = np.asarray(leaves['backbone/embeddings/position']).reshape(-1, 32)
    np.testing.assert_allclose(ours, state['pos_embed'][0, int(class_token) :], atol=1e-5)


def test_patches_and_channels_are_resized_as_timm_resizes_them(tmp_path):
    """From patches of 4 pixels to 6 x 8, and from colour to grey."""
    layers, models = pytest.importorskip('timm.layers'), pytest.importorskip('timm.models')
    before, after = _randomise(_timm((20, 28))), _timm((30, 56), patch_size=(6, 8), in_chans=1).eval()
    torch.save(before.state_dict(), tmp_path / 'model.pth')
    state = before.state_dict()
    weight = models.adapt_input_conv(1, state['patch_embed.proj.weight'])
    state['patch_embed.proj.weight'] = layers.resample_patch_embed(weight, (6, 8))
    after.load_state_dict(state)
    size = (30, 56)
    options = {'pretrained_image_size': (20, 28), 'patch': (6, 8), 'image_channels': 1}
    _compare(tmp_path / 'model.pth', 'vit_s16', after, size=size, channels=1, **options)


@pytest.mark.parametrize('old', [False, True], ids=['now', 'before 0.14'])
def test_torchvision_state_dict(tmp_path, old):
    module = pytest.importorskip('torchvision.models.vision_transformer')
    size = (28, 28)  # torchvision's are square
    original = _randomise(module.VisionTransformer(28, 4, 2, 2, 32, 48, num_classes=5, representation_size=24 if old else None))
    state = original.state_dict()
    if old:
        names = {'mlp.0': 'mlp.linear_1', 'mlp.3': 'mlp.linear_2'}
        state = {next((k.replace(a, b) for a, b in names.items() if a in k), k): v for k, v in state.items()}
        original.load_state_dict(dict(state))  # the library reads its former names too
    torch.save(state, tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', 'vit_b16', original, size=size, pretrained_image_size=28, representation=24 if old else 0)


def _safetensors(original, path):
    original.save_pretrained(path)
    return path / 'model.safetensors'


def _interpolated(original, x):
    with torch.no_grad():
        pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        return original(pixels, interpolate_pos_encoding=True).logits.numpy()


@pytest.mark.parametrize('size', [(56, 56), (96, 96), (40, 72)], ids=['as trained', 'larger', 'other shape'])
def test_transformers_vit(tmp_path, size):
    transformers = pytest.importorskip('transformers')
    config = transformers.ViTConfig(**HF, intermediate_size=48, image_size=56)
    original = _randomise(transformers.ViTForImageClassification(config))
    path = _safetensors(original, tmp_path)
    run = partial(_interpolated, original)
    _compare(path, 'vit_s16', original, size=size, run=run, pretrained_image_size=56, epsilon=1e-12)


def test_transformers_vit_with_its_pooler(tmp_path):
    transformers = pytest.importorskip('transformers')
    original = _randomise(transformers.ViTModel(transformers.ViTConfig(**HF, intermediate_size=48, image_size=28)))
    original.save_pretrained(tmp_path)
    size = (28, 28)
    x = reference.images(size)
    options = {'name': 'vit_s16', **TINY, 'pretrained_image_size': 28, 'representation': 32}
    experiment = reference.experiment(tmp_path / 'model.safetensors', options, classes=5, size=size, head='new')
    with torch.no_grad():
        wanted = original(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).pooler_output.numpy()
    variables = {'params': unflatten(jtl.load_leaves(experiment), 'backbone')}
    found = jax.jit(experiment.net.backbone.apply)(variables, {'image': x})['pooled']
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize('size', [(56, 56), (24, 40)], ids=['as trained', 'other shape'])
@pytest.mark.parametrize('swiglu', [False, True])
@pytest.mark.parametrize('registers', [0, 3])
def test_transformers_dinov2(tmp_path, registers, swiglu, size):
    transformers = pytest.importorskip('transformers')
    kind = 'Dinov2WithRegisters' if registers else 'Dinov2'
    extra = {'num_register_tokens': registers} if registers else {}
    config = getattr(transformers, f'{kind}Config')(**HF, mlp_ratio=2, image_size=56, use_swiglu_ffn=swiglu, **extra)
    original = _randomise(getattr(transformers, f'{kind}ForImageClassification')(config))
    mlp = (int(64 * 2 / 3) + 7) // 8 * 8 if swiglu else 64
    options = {'pretrained_image_size': 56, 'registers': registers, 'swiglu': swiglu, 'mlp': mlp}
    _compare(_safetensors(original, tmp_path), 'dinov2_s14', original, size=size, pool='pooled_and_mean', **options)


@pytest.mark.parametrize('registers', [0, 3])
@pytest.mark.parametrize('swiglu', [False, True])
def test_timm_dinov2(tmp_path, registers, swiglu):
    """timm's own names, and those of DINOv2's files as timm's converter reads them."""
    transformer = pytest.importorskip('timm.models.vision_transformer')
    layers = pytest.importorskip('timm.layers')
    size = (28, 28)
    options = {'init_values': 0.1, 'reg_tokens': registers, 'no_embed_class': registers > 0}
    if swiglu:
        options |= {'mlp_layer': layers.SwiGLUPacked, 'act_layer': torch.nn.SiLU, 'mlp_ratio': 3.0}  # 96, half of it the gate
    original = _randomise(_timm(size, **options))
    ours = {'pretrained_image_size': 28, 'registers': registers, 'swiglu': swiglu, 'mlp': 48}
    new = ('backbone/embeddings/cls_position',) if registers else ()  # zero: timm has added it to the token
    torch.save(original.state_dict(), tmp_path / 'timm.pth')
    _compare(tmp_path / 'timm.pth', 'dinov2_s14', original, size=size, new=new, **ours)

    state = original.state_dict()
    names = {'mlp.fc1': 'mlp.w12', 'mlp.fc2': 'mlp.w3'} if swiglu else {}
    state = {next((k.replace(a, b) for a, b in names.items() if a in k), k): v for k, v in state.items()}
    state['mask_token'] = torch.zeros(1, 32)
    if registers:
        position = torch.randn(1, 1, 32)
        state['register_tokens'] = state.pop('reg_token')
        state['pos_embed'] = torch.cat([position, state['pos_embed']], dim=1)
        state['cls_token'] = state['cls_token'] - position
    torch.save(state, tmp_path / 'dinov2.pth')
    converted = transformer.checkpoint_filter_fn(dict(state), original)
    original.load_state_dict(converted)
    _compare(tmp_path / 'dinov2.pth', 'dinov2_s14', original, size=size, **ours)


@pytest.mark.parametrize('source', ['vision_transformer', 'big_vision_token'])
def test_npz_of_google_as_timm_reads_it(source):
    """timm's own loader of both layouts, beside the logits that the originals gave."""
    size, file = (8, 12), Path(__file__).parents[1] / 'models' / 'golden' / f'vit_{source}.npz'
    gelu = pytest.importorskip('timm.layers').GELUTanh
    original = _timm(size, embed_dim=8, num_classes=3, act_layer=gelu, no_embed_class=source == 'big_vision_token').eval()
    original.load_pretrained(str(file))
    new = ('backbone/embeddings/cls_position',) if source == 'big_vision_token' else ()
    options = {'width': 8, 'mlp': 12, 'pretrained_image_size': size}
    _compare(file, 'jax_vit_s16', original, size=size, new=new, classes=3, **options)


@pytest.mark.parametrize(
    ('name', 'theirs'),
    [
        ('vit_ti16', 'vit_tiny_patch16_224'),
        ('vit_s16', 'vit_small_patch16_224'),
        ('vit_s32', 'vit_small_patch32_224'),
        ('vit_b16', 'vit_base_patch16_224'),
        ('vit_b32', 'vit_base_patch32_224'),
        ('vit_l16', 'vit_large_patch16_224'),
        ('dinov2_s14', 'vit_small_patch14_dinov2'),
        ('dinov2_b14', 'vit_base_patch14_dinov2'),
        ('dinov2_l14', 'vit_large_patch14_dinov2'),
        ('dinov2_g14', 'vit_giant_patch14_dinov2'),
        ('dinov2_s14_reg', 'vit_small_patch14_reg4_dinov2'),
        ('dinov2_b14_reg', 'vit_base_patch14_reg4_dinov2'),
        ('dinov2_l14_reg', 'vit_large_patch14_reg4_dinov2'),
        ('dinov2_g14_reg', 'vit_giant_patch14_reg4_dinov2'),
    ],
)
def test_full_sizes_load_leaf_by_leaf(name, theirs):
    """Every key of timm's full-size model is read, and every leaf of ours found, from shapes alone."""
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        original = timm.create_model(theirs)
    specs = {key: jax.ShapeDtypeStruct(tuple(x.shape), 'float32') for key, x in original.state_dict().items()}
    checkpoint = Checkpoint(theirs, 'torch', specs, lambda key: np.zeros(0))
    model = build_model({'name': name})
    leaves, _ = init_shapes(model.backbone, model.inputs(model.preprocessing.size))
    table = choose_table(checkpoint, [weights.table for weights in model.weights], leaves)
    found = adapt(leaves, {'': Source(checkpoint, table)}).origins
    folded = {'backbone/embeddings/cls_position'} if name.endswith('_reg') else set()
    assert {path for path, origin in found.items() if origin.status == 'new'} == folded
    head = sum(x.numel() for x in original.get_classifier().parameters())
    leaves, _ = init_shapes(model.backbone, model.inputs((518, 518) if name.startswith('dinov2') else (224, 224)))
    count = sum(int(np.prod(x.shape)) for path, x in leaves.items() if path not in folded)
    assert count + head == sum(x.numel() for x in original.parameters())
