"""BiT against timm and transformers in files that they wrote, and against timm's own reading of an npz in the original's layout."""

from pathlib import Path

import numpy as np
import pytest

from jtl.models import build_model
from jtl.models.base import init_shapes
from jtl.names import lookup

pytestmark = pytest.mark.parity

torch = pytest.importorskip('torch')
reference = pytest.importorskip('reference')  # before timm

GENERATE = Path(__file__).parents[1] / 'models' / 'golden' / 'make_bit.py'
SIZE = (67, 45)
DEPTHS = (2, 1, 1)
WIDTH = 32


def _make(library, classes=5):
    pytest.importorskip(library)
    return reference.randomise(lookup(f'{GENERATE}:{library}_model', {}, 'golden')(DEPTHS, WIDTH, classes))


def _compare(path, original, classes=5):
    x = reference.images(SIZE)
    model = {'name': 'bit_resnet50x1', 'depths': DEPTHS, 'width': WIDTH}
    experiment = reference.experiment(path, model, classes=classes, size=SIZE)
    reference.check(experiment, x, reference.torch_outputs(original, x), tolerance=2e-5)
    return experiment


def test_timm_state_dict(tmp_path):
    original = _make('timm')
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    _compare(tmp_path / 'model.pth', original)


def test_transformers_safetensors(tmp_path):
    original = _make('transformers')
    original.save_pretrained(tmp_path)
    _compare(tmp_path / 'model.safetensors', original)


def test_transformers_without_head(tmp_path):
    original = reference.randomise(_make('transformers').bit)
    reference.check_bare(tmp_path, original, {'name': 'bit_resnet50x1', 'depths': DEPTHS, 'width': WIDTH}, SIZE)


@pytest.mark.parametrize('classes', [5, 21843])
def test_npz_as_timm_reads_it(tmp_path, classes):
    model = _make('timm', classes)
    draw = np.random.default_rng(0)
    arrays = {}
    for key, shape in lookup(f'{GENERATE}:npz_shapes', {}, 'golden')(model).items():
        value = draw.normal(size=shape) * (np.prod(shape[:-1]) ** -0.5 if len(shape) == 4 else 0.2)
        arrays[key] = (value + (1.0 if key.endswith('gamma') else 0.0)).astype(np.float32)
    np.savez(tmp_path / 'BiT-M-R50x1.npz', **arrays)
    model.load_pretrained(str(tmp_path / 'BiT-M-R50x1.npz'))
    experiment = _compare(tmp_path / 'BiT-M-R50x1.npz', model, classes)
    assert experiment.preprocessing.crop == (0.875 if classes == 21843 else 1.0)


def test_the_whole_r50x1_of_timm(tmp_path):
    """Widths and depths as published: what rounding and the other epsilon of the standardisation come to."""
    timm = pytest.importorskip('timm')
    original = reference.randomise(timm.create_model('resnetv2_50x1_bit', num_classes=5))
    torch.save(original.state_dict(), tmp_path / 'model.pth')
    size = (96, 65)
    x = reference.images(size)
    experiment = reference.experiment(tmp_path / 'model.pth', {'name': 'bit_resnet50x1'}, classes=5, size=size)
    reference.check(experiment, x, reference.torch_outputs(original, x))


@pytest.mark.parametrize('name', ['50x1', '50x3', '101x1', '101x3', '152x2', '152x4'])
def test_counts_are_those_of_timm(name):
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        wanted = sum(p.numel() for p in timm.create_model(f'resnetv2_{name}_bit', num_classes=0).parameters())
    model = build_model({'name': f'bit_resnet{name}'})
    params, _ = init_shapes(model.backbone, model.inputs((32, 32)))
    assert sum(int(np.prod(leaf.shape)) for leaf in params.values()) == wanted
