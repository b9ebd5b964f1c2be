"""ResNet against torchvision, timm, transformers and Keras: random weights and statistics in files that these libraries wrote."""

import pytest

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before torchvision and timm

SIZE = (67, 45)


def _compare(path, name, original, classes=5, size=SIZE, tolerance=1e-4, **options):
    x = reference.images(size)
    experiment = reference.experiment(path, {'name': name, **options}, classes=classes, size=size)
    return reference.check(experiment, x, reference.torch_outputs(original, x), tolerance=tolerance)


@pytest.mark.parametrize(('name', 'block', 'depths'), [('resnet18', 'BasicBlock', (1, 2, 1, 1)), ('resnet50', 'Bottleneck', (2, 1, 1, 1))])
def test_torchvision_state_dict(tmp_path, name, block, depths):
    resnet = pytest.importorskip('torchvision.models.resnet')
    original = reference.randomise(resnet.ResNet(getattr(resnet, block), list(depths), num_classes=5))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, depths=depths)


@pytest.mark.parametrize(('name', 'block', 'depths'), [('resnet34', 'BasicBlock', (1, 1, 2, 1)), ('resnet50', 'Bottleneck', (1, 2, 1, 1))])
def test_timm_state_dict(tmp_path, name, block, depths):
    resnet = pytest.importorskip('timm.models.resnet')
    original = reference.randomise(resnet.ResNet(getattr(resnet, block), depths, num_classes=5))
    torch.save({'state_dict': original.state_dict(), 'epoch': 3}, tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', name, original, depths=depths)


@pytest.mark.parametrize('kind', ['basic', 'bottleneck'])
def test_transformers_safetensors(tmp_path, kind):
    transformers = pytest.importorskip('transformers')
    depths, width = (2, 1, 1), 8
    hidden = [width * (4 if kind == 'bottleneck' else 1) * 2**i for i in range(3)]
    config = transformers.ResNetConfig(embedding_size=width, hidden_sizes=hidden, depths=list(depths), layer_type=kind, num_labels=5)
    assert not config.downsample_in_bottleneck, 'v1.5'
    original = reference.randomise(transformers.ResNetForImageClassification(config))
    original.save_pretrained(tmp_path)
    name = 'resnet18' if kind == 'basic' else 'resnet50'
    _compare(tmp_path / 'model.safetensors', name, original, depths=depths, width=width)
