"""ConvNeXt against torchvision, timm and transformers: random weights in files that these libraries wrote."""

import re

import pytest

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (67, 45)
TINY = {'depths': (1, 2, 1, 1), 'width': 8}


def _compare(path, original, size=SIZE, channels=3, **options):
    x = reference.images(size, channels=channels)
    experiment = reference.experiment(path, {'name': 'convnext_tiny', **TINY, **options}, classes=5, size=size)
    return reference.check(experiment, x, reference.torch_outputs(original, x))


def _randomise(model):
    """Branches as large as what they are added to."""
    model = reference.randomise(model)
    for name, x in model.state_dict().items():
        if name.endswith(('gamma', 'layer_scale', 'layer_scale_parameter')):
            x.copy_(0.5 + torch.rand(x.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def _timm(**options):
    return pytest.importorskip('timm.models.convnext').ConvNeXt(depths=(1, 2, 1, 1), dims=(8, 16, 32, 64), num_classes=5, **options)


def test_torchvision_state_dict(tmp_path):
    module = pytest.importorskip('torchvision.models.convnext')
    settings = [
        module.CNBlockConfig(8, 16, 1),
        module.CNBlockConfig(16, 32, 2),
        module.CNBlockConfig(32, 64, 1),
        module.CNBlockConfig(64, None, 1),
    ]
    original = _randomise(module.ConvNeXt(settings, num_classes=5))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', original)


@pytest.mark.parametrize('scale', [1e-6, None])
def test_timm_state_dict(tmp_path, scale):
    original = _randomise(_timm(ls_init_value=scale))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', original, layer_scale=scale or 0.0)


def test_grey_pictures_as_timm_takes_them(tmp_path):
    adapt = pytest.importorskip('timm.models').adapt_input_conv
    before, after = _randomise(_timm()), _timm(in_chans=1).eval()
    torch.save(before.state_dict(), tmp_path / 'model.pth')
    after.load_state_dict(before.state_dict() | {'stem.0.weight': adapt(1, before.state_dict()['stem.0.weight'])})
    _compare(tmp_path / 'model.pth', after, channels=1, image_channels=1)


def test_layout_of_the_original_as_timm_reads_it(tmp_path):
    module = pytest.importorskip('timm.models.convnext')
    original = _randomise(_timm())
    names = {
        r'stem\.(\d)': r'downsample_layers.0.\1',
        r'stages\.(\d)\.downsample\.(\d)': r'downsample_layers.\1.\2',
        r'stages\.(\d)\.blocks\.(\d)\.conv_dw': r'stages.\1.\2.dwconv',
        r'stages\.(\d)\.blocks\.(\d)\.mlp\.fc(\d)': r'stages.\1.\2.pwconv\3',
        r'stages\.(\d)\.blocks\.(\d)': r'stages.\1.\2',
        r'head\.norm': 'norm',
        r'head\.fc': 'head',
    }
    state = {}
    for key, value in original.state_dict().items():
        pattern = next(p for p in names if re.match(p, key))
        state[re.sub(f'^{pattern}', names[pattern], key)] = value
    torch.save({'model': state}, tmp_path / 'model.pth')
    again = module.checkpoint_filter_fn({'model': dict(state)}, original)
    assert again.keys() == original.state_dict().keys(), 'timm knows these keys for those of the original'
    original.load_state_dict(again)
    _compare(tmp_path / 'model.pth', original)


def test_transformers_safetensors(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.ConvNextConfig(num_stages=4, hidden_sizes=[8, 16, 32, 64], depths=[1, 2, 1, 1], num_labels=5)
    original = _randomise(transformers.ConvNextForImageClassification(config))
    original.save_pretrained(tmp_path)
    _compare(tmp_path / 'model.safetensors', original)


def test_transformers_without_head(tmp_path):
    transformers = pytest.importorskip('transformers')
    config = transformers.ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 2, 1, 1])
    original = _randomise(transformers.ConvNextModel(config))
    reference.check_bare(tmp_path, original, {'name': 'convnext_tiny', **TINY}, SIZE)
