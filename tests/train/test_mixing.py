"""Mixup and cutmix in the training step, whatever the task: the head's updates as computed by hand."""

import jax
import numpy as np
import pytest
import tiny

from jtl.data.arrays import from_arrays
from jtl.errors import UserError
from jtl.keys import derive
from jtl.train.setup import build
from jtl.train.step import micro_batches, step_key, training_inputs

N, PARTS, STEPS = 8, 2, 2
IMAGES = np.random.default_rng(0).integers(0, 256, (N, 8, 8, 1), np.uint8)
TARGETS = {
    'classification': np.array([0, 1, 2, 1, 0, 2, 2, 1]),
    'multi_label': (np.random.default_rng(1).random((N, 3)) < 0.4).astype(np.float32),
    'regression': np.random.default_rng(2).normal(size=(N, 3)).astype(np.float32),
}
KERNEL, BIAS = 'heads/main/output/kernel', 'heads/main/output/bias'


def experiment(name='classification', **fields):
    """A frozen convolution of three channels under a linear head of three outputs."""
    plain = {
        'model': {'name': 'convnet', 'image_size': 8, 'channels': (3,), 'dense': ()},
        'optimizer': {'name': 'sgd', 'lr': 0.1, 'momentum': 0.0, 'schedule': 'constant'},
        'tune': {'recipe': 'probe'},
        'steps': STEPS,
        'batch_size': N,
        'accumulate': PARTS,
        'augment': {'flip': True, 'mixup': 0.4, 'cutmix': 1.0},
        'task': {'name': name, **({'label_smoothing': 0.1} if name == 'classification' else {}), 'pool': 'mean'},
        'data': {'name': 'arrays', 'validation': 0.0, 'test': 0.0},
    }
    return build({**plain, **fields}, data=from_arrays({'train': IMAGES}, {'train': TARGETS[name]}, ('a', 'b', 'c')))


@pytest.fixture(scope='module')
def seen():
    """Features (STEPS, PARTS, N / PARTS, 3) of what the net reads, and shares (STEPS, PARTS, N / PARTS)."""
    e = experiment()
    leaves = {**tiny.leaves_of(e), KERNEL: np.eye(3, dtype=np.float32), BIAS: np.zeros(3, np.float32)}  # outputs are features

    @jax.jit
    def run(micro, key):
        inputs, share = training_inputs(micro, key, e.prepare, e.mixing)
        return e.net.apply(leaves, inputs)[0]['main'], share

    micro = micro_batches({'image': IMAGES}, PARTS)['image']
    keys = [[derive(step_key(jax.random.key(0), 0, k), 'micro', part) for part in range(PARTS)] for k in range(STEPS)]
    found = [[run({'image': micro[part]}, key) for part, key in enumerate(row)] for row in keys]
    return tuple(np.array([[pair[i] for pair in row] for row in found], np.float64) for i in (0, 1))


@pytest.mark.parametrize('name', TARGETS)
def test_two_steps_by_hand(name, seen):
    """A cross-entropy is linear in its target: two losses come to one against the mixed (and smoothed) target."""
    e = experiment(name)
    leaves = tiny.numpy(tiny.leaves_of(e))
    host = {'image': IMAGES, 'label': e.data.splits['train'].targets}
    frozen, state = tiny.start(e, leaves=leaves)
    step = tiny.compile_fast(tiny.step_of(e), frozen, state, host)
    kernel, bias, total = np.float64(leaves[KERNEL]), np.float64(leaves[BIAS]), 0.0
    hard = np.eye(3)[TARGETS[name]] if name == 'classification' else np.float64(TARGETS[name])
    for features, shares in zip(*seen, strict=True):
        state = step(frozen, state, tiny.on_mesh(e, host))
        assert np.ptp(shares) > 0.3
        of_kernel, of_bias = np.zeros_like(kernel), np.zeros_like(bias)
        for part in range(PARTS):
            x, own, share = features[part], hard[part::PARTS], shares[part][:, None]
            partner = own[[-1, *range(len(own) - 1)]]
            y, z = share * own + (1 - share) * partner, x @ kernel + bias
            if name == 'classification':
                y, p = 0.9 * y + 0.1 / 3, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
                loss, of_z = -(y * np.log(p)).sum(axis=1).mean(), (p - y) / len(y)
            elif name == 'multi_label':
                p = 1 / (1 + np.exp(-z))
                loss, of_z = -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(), (p - y) / y.size
            else:
                loss, of_z = (share * (z - own) ** 2 + (1 - share) * (z - partner) ** 2).mean(), 2 * (z - y) / y.size
            total += loss / PARTS
            of_kernel += x.T @ of_z / PARTS
            of_bias += of_z.sum(axis=0) / PARTS
        kernel, bias = kernel - 0.1 * of_kernel, bias - 0.1 * of_bias
        np.testing.assert_allclose(state.window.loss, total, rtol=1e-5)
        np.testing.assert_allclose(state.params[KERNEL], kernel, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(state.params[BIAS], bias, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ('fields', 'says'),
    [
        ({'augment': {'mixup': -1.0}}, r'^config\.augment\.mixup: alpha of a Beta distribution'),
        ({'augment': {'mixupp': 1.0}}, r"^config\.augment\.mixupp: there is no such field\. Did you mean 'mixup'"),
        ({'accumulate': N}, r'^config\.augment\.mixup, cutmix: a micro-batch of one example has nothing to mix'),
    ],
)
def test_what_cannot_be_mixed_is_told(fields, says):
    with pytest.raises(UserError, match=says):
        experiment(**fields)
