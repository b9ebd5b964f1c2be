"""Writes efficientnet_lite0.npz: logits of the original EfficientNet-Lite0 for weights made by a rule, so that tests need no torch.

    python tests/models/golden/generate.py        # with the extra `parity`

The file holds the keys and shapes of the original's state dict, the logits, and the versions that computed them.
"""

import zlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name('efficientnet_lite0.npz')
SIZE = (64, 45)  # an odd side, so that SAME padding is uneven in different ways


def weight(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A leaf that depends on its key alone; scales keep activations near 1, so that ReLU6 clips some but not most of them."""
    random = np.random.RandomState(zlib.crc32(key.encode()))  # its streams are frozen across NumPy versions
    if key.endswith('num_batches_tracked'):
        return np.zeros(shape, np.int64)
    if key.endswith('running_var') or ('bn' in key and key.endswith('weight')):
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    if key.endswith(('bias', 'running_mean')):
        return (0.2 * random.standard_normal(shape)).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    return (random.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(np.float32)


def images() -> np.ndarray:
    """(2, H, W, 3) float32."""
    return np.random.RandomState(0).uniform(-1, 1, (2, *SIZE, 3)).astype(np.float32)


def main() -> None:
    """Run the original."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name('efficientnet-lite0', image_size=list(SIZE)).eval()
    state = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    model.load_state_dict({key: torch.tensor(weight(key, shape)) for key, shape in state.items()})
    with torch.no_grad():
        logits = model(torch.tensor(images().transpose(0, 3, 1, 2))).numpy()
    packages = ('torch', 'efficientnet-lite-pytorch', 'numpy')
    np.savez_compressed(
        FILE,
        keys=np.array(list(state)),
        shapes=np.array([shape + (0,) * (4 - len(shape)) for shape in state.values()], np.int32),  # filled up with zeros
        logits=logits,
        versions=np.array([f'{name} {version(name)}' for name in packages]),
    )
    print(f'{FILE}: logits {logits.shape}, mean {logits.mean():.3f}, standard deviation {logits.std():.3f}')


if __name__ == '__main__':
    main()
