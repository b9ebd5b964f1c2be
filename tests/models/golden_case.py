"""Golden outputs: what an original implementation gives for weights made by a rule, so that the default tests need no such library.

A generator in golden/ (run by hand with the library it names) calls `write`; a test calls `check`. A golden file holds keys and shapes
of the original's own state, outputs, and the versions that computed them, and is a few kB.
"""

import zlib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

GOLDEN = Path(__file__).parent / 'golden'


def weight(key: str, shape: tuple[int, ...], dtype: str = 'float32', gain: float = 1.0) -> np.ndarray:
    """A leaf that depends on its key alone: variances and scales in 0.5..1.5, vectors of 0.2, kernels by what their name says of the layout.

    `gain` is a factor on kernels, for nets whose activations would shrink what a picture changes to nothing.
    """
    random = np.random.RandomState(zlib.crc32(key.encode()))  # its streams are frozen across NumPy versions
    if np.dtype(dtype).kind not in 'fV':
        return np.zeros(shape, dtype)
    last = key.replace('/', '.').split('.')[-1].removesuffix(':0')
    if last in ('running_var', 'var', 'moving_variance') or (len(shape) == 1 and last in ('weight', 'scale', 'gamma')):
        return random.uniform(0.5, 1.5, shape).astype(dtype)
    if len(shape) <= 1:
        return (0.2 * random.standard_normal(shape)).astype(dtype)
    fan_in = np.prod(shape[:-1]) if last == 'kernel' else np.prod(shape[1:])  # Flax and Keras: (..., out); torch: (out, ...)
    return (gain * random.standard_normal(shape) * max(fan_in, 1) ** -0.5).astype(dtype)


def images(size: tuple[int, int], n: int = 2, channels: int = 3) -> np.ndarray:
    """Normalised pictures (n, H, W, C) float32, the same for every NumPy."""
    return np.random.RandomState(0).standard_normal((n, *size, channels)).astype(np.float32)


def sentences(vocabulary: int, length: int, padding: int = 0) -> dict[str, np.ndarray]:
    """`ids`, `mask` and `segments` of four sequences, from full to a single token; no real word is below 3, filling is the word `padding`."""
    random = np.random.RandomState(0)
    mask = np.arange(length) < np.array([length, length - 1, length // 2, 1])[:, None]
    ids = np.where(mask, random.randint(3, vocabulary, mask.shape), padding)
    second = mask & (np.arange(length) >= np.array([length // 2, 1, length // 2 - 1, 1])[:, None])
    return {'ids': ids.astype(np.int32), 'mask': mask, 'segments': second.astype(np.int32)}


def write(name: str, specs: Mapping[str, tuple[tuple[int, ...], str]], outputs: np.ndarray, packages: tuple[str, ...]) -> None:
    """Writes golden/<name>.npz: `specs` are the original's keys with shape and dtype, `outputs` (n, K) what it gives for `images`."""
    rank = max(len(shape) for shape, _ in specs.values())
    np.savez_compressed(
        GOLDEN / f'{name}.npz',
        keys=np.array(list(specs)),
        shapes=np.array([shape + (-1,) * (rank - len(shape)) for shape, _ in specs.values()], np.int32),
        dtypes=np.array([dtype for _, dtype in specs.values()]),
        outputs=outputs.astype(np.float32),
        versions=np.array([f'{package} {version(package)}' for package in packages]),
    )


def check(name: str, model: dict, *, size: tuple[int, int], tolerance: float = 1e-4, channels: int = 3, gain: float = 1.0, **task) -> None:
    """jtl's outputs for the same weights, read by its own table with the head kept, no leaf new, equal to `tolerance`."""
    from jtl.checkpoint.adapt import Source, adapt, choose_table, read
    from jtl.checkpoint.base import Checkpoint
    from jtl.models import build_model
    from jtl.models.base import with_stages
    from jtl.models.net import make_net
    from jtl.tasks import build_task
    from jtl.tasks.base import HEAD

    with np.load(GOLDEN / f'{name}.npz') as file:
        shapes = [tuple(int(n) for n in shape if n >= 0) for shape in file['shapes']]
        specs = {
            str(key): jax.ShapeDtypeStruct(shape, np.dtype(str(dtype)))
            for key, shape, dtype in zip(file['keys'], shapes, file['dtypes'], strict=True)
        }
        wanted = file['outputs']
    checkpoint = Checkpoint(name, 'golden', specs, lambda key: weight(key, specs[key].shape, str(specs[key].dtype), gain))
    built = build_model({'image_size': size, **model})
    classes = tuple(f'class {k}' for k in range(wanted.shape[1]))
    made = build_task({'name': 'classification', **task}, classes, ())
    net = make_net(with_stages(built.backbone, made.stages), {HEAD: made.head}, built.inputs(size))
    table = choose_table(checkpoint, [weights.table for weights in built.weights], net.shapes)
    found = adapt(net.shapes, {'': Source(checkpoint, table)}, head='keep')
    assert all(origin.status != 'new' for origin in found.origins.values())
    leaves = {path: read(origin, checkpoint) for path, origin in found.origins.items()}
    got = jax.jit(lambda leaves, x: net.apply(leaves, {'image': x})[0][HEAD])(leaves, images(size, channels=channels))
    assert float(np.abs(wanted).max()) > 0.05, 'outputs too small to tell anything'
    np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=0)
