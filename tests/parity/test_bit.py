"""BiT against timm and transformers in files that they wrote, and against timm's own reading of an npz in the original's layout."""

from functools import partial

import numpy as np
import pytest

from jtl.models import build_model
from jtl.models.base import init_shapes

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before timm

SIZE = (67, 45)
DEPTHS = (2, 1, 1)
WIDTH = 32


def _timm(classes=5, **options):
    resnetv2 = pytest.importorskip('timm.models.resnetv2')
    from timm.layers import StdConv2d

    fields = {'width_factor': WIDTH / 64, 'channels': (256, 512, 1024), 'stem_type': 'fixed', **options}
    return resnetv2.ResNetV2(list(DEPTHS), num_classes=classes, conv_layer=partial(StdConv2d, eps=1e-8), **fields)


def _compare(path, original, classes=5):
    x = reference.images(SIZE)
    model = {'name': 'bit_resnet50x1', 'depths': DEPTHS, 'width': WIDTH}
    experiment = reference.experiment(path, model, classes=classes, size=SIZE)
    reference.check(experiment, x, reference.torch_outputs(original, x), tolerance=2e-5)
    return experiment


def test_timm_state_dict(tmp_path):
    original = reference.randomise(_timm())
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', original)


def test_transformers_safetensors(tmp_path):
    transformers = pytest.importorskip('transformers')
    hidden = [4 * WIDTH * 2**i for i in range(len(DEPTHS))]
    config = transformers.BitConfig(embedding_size=WIDTH, hidden_sizes=hidden, depths=list(DEPTHS), num_labels=5)
    original = reference.randomise(transformers.BitForImageClassification(config))
    original.save_pretrained(tmp_path)
    _compare(tmp_path / 'model.safetensors', original)


def _npz_keys(model):
    """The keys of the published npz files (google-research/big_transfer, bit_pytorch/models.py) and their shapes, for a model like timm's."""
    conv = 'standardized_conv2d/kernel'
    keys = {f'resnet/root_block/{conv}': model.stem.conv.weight}
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            unit = f'resnet/block{i + 1}/unit{j + 1:02d}'
            for k, part in enumerate('abc', 1):
                keys[f'{unit}/{part}/{conv}'] = getattr(block, f'conv{k}').weight
                norm = getattr(block, f'norm{k}')
                keys |= {f'{unit}/{part}/group_norm/gamma': norm.weight, f'{unit}/{part}/group_norm/beta': norm.bias}
            if block.downsample is not None:
                keys[f'{unit}/a/proj/{conv}'] = block.downsample.conv.weight
    keys |= {'resnet/group_norm/gamma': model.norm.weight, 'resnet/group_norm/beta': model.norm.bias}
    keys |= {'resnet/head/conv2d/kernel': model.head.fc.weight, 'resnet/head/conv2d/bias': model.head.fc.bias}
    return {key: [x.shape[i] for i in (2, 3, 1, 0)] if x.ndim == 4 else list(x.shape) for key, x in keys.items()}


@pytest.mark.parametrize('classes', [5, 21843])
def test_npz_as_timm_reads_it(tmp_path, classes):
    model = _timm(classes).eval()
    draw = np.random.default_rng(0)
    arrays = {}
    for key, shape in _npz_keys(model).items():
        value = draw.normal(size=shape) * (np.prod(shape[:-1]) ** -0.5 if len(shape) == 4 else 0.2)
        arrays[key] = (value + (1.0 if key.endswith('gamma') else 0.0)).astype(np.float32)
    np.savez(tmp_path / 'BiT-M-R50x1.npz', **arrays)
    model.load_pretrained(str(tmp_path / 'BiT-M-R50x1.npz'))
    experiment = _compare(tmp_path / 'BiT-M-R50x1.npz', model, classes)
    assert experiment.preprocessing.crop == (0.875 if classes == 21843 else 1.0)


@pytest.mark.parametrize(('name', 'layers', 'factor'), [('50x1', (3, 4, 6, 3), 1), ('152x2', (3, 8, 36, 3), 2)])
def test_counts_are_those_of_timm(name, layers, factor):
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        wanted = sum(p.numel() for p in timm.create_model(f'resnetv2_{name}_bit', num_classes=0).parameters())
    model = build_model({'name': f'bit_resnet{name}'})
    params, _ = init_shapes(model.backbone, model.inputs((32, 32)))
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) == wanted
