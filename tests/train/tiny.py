"""Small experiments in memory for the tests of the training core."""

import types
from dataclasses import replace

import jax
import numpy as np

from jtl.data.arrays import from_arrays
from jtl.models.base import Backbone
from jtl.models.efficientnet_lite import efficientnet_lite0
from jtl.parallel.mesh import put_batch
from jtl.train.setup import build
from jtl.train.state import abstract, begin
from jtl.train.step import compile_step, make_step

CLASSES = 3


LITE = f'{__file__}:lite'


def lite():
    """The first stages of EfficientNet-Lite0: BatchNorm, depthwise convolutions, a residual."""
    model = efficientnet_lite0(bn_momentum=0.9, stochastic_depth=0.2)
    return replace(model, backbone=Backbone(stages=model.backbone.stages[:3]))


def data(n=64, side=8, channels=1):
    rng = np.random.default_rng(0)
    return from_arrays({'train': rng.integers(0, 256, (n, side, side, channels), np.uint8)}, {'train': np.arange(n) % CLASSES})


def experiment(model=types.MappingProxyType({}), *, devices=None, side=8, **fields):
    """convnet: conv_0 and conv_1 (4 and 8 channels), dense_0 (16 wide), or `LITE`; a linear head of three classes that starts random."""
    fields.setdefault('steps', 20)
    fields.setdefault('batch_size', 16)
    fields.setdefault('task', {'name': 'classification', 'zero_init': False})
    model = {'image_size': side, **({'name': 'convnet', 'channels': (4, 8), 'dense': (16,), **model} if model != LITE else {'name': LITE})}
    optimizer = {'name': 'sgd', 'lr': 0.1, 'momentum': 0.0, 'schedule': 'constant', **fields.pop('optimizer', {})}
    pictures = data(side=side, channels=3 if model['name'] == LITE else 1)
    return build({**fields, 'model': model, 'optimizer': optimizer, 'data': {'name': 'arrays'}}, data=pictures, devices=devices)


def recipe(name, **knobs):
    return {'recipe': name, name: knobs}


def batch(e, seed=0):
    rng = np.random.default_rng((1, seed))
    n, spec = e.config['batch_size'], e.net.inputs['image']
    return {'image': rng.integers(0, 256, (n, *spec.shape), np.uint8), 'label': rng.integers(0, CLASSES, n).astype(np.int32)}


def on_mesh(e, host):
    return put_batch(host, e.mesh)


def leaves_of(e):
    """Values for every leaf, on the mesh. (What jtl itself would start from takes seconds to compile.)"""
    rng = np.random.default_rng(2)
    values = {
        path: rng.normal(0, (2 / max(spec.shape[0], np.prod(spec.shape[:-1]))) ** 0.5, spec.shape) for path, spec in e.net.shapes.items()
    }
    around_one = {path: 1 + 0.3 * abs(v) for path, v in values.items() if path.endswith(('/scale', '/var'))}
    numbers = {path: np.asarray(v, np.float32) for path, v in {**values, **around_one}.items()}
    return jax.device_put(numbers, e.placement.leaves(numbers))


def start(e, index=0, leaves=None, before=None):
    """Frozen and State at the start of a phase; `leaves` are copied, since steps donate them."""
    leaves = leaves_of(e) if leaves is None else leaves
    copied = jax.device_put(numpy(leaves), e.placement.leaves(leaves))
    frozen, state, _ = begin(e.net, e.plan, index, copied, leaves, e.config['seed'], e.placement, before)
    return frozen, state


def start_shapes(e, index=0):
    """The same, shapes alone."""
    return abstract(e.net, e.plan, index, e.placement)


def batch_shapes(e):
    return {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch(e).items()}


def compile_fast(jitted, *args):
    """Compiled with little effort of LLVM's: the program that XLA optimised is the same."""
    return jitted.lower(*args).compile(compiler_options={'xla_backend_optimization_level': 0, 'xla_llvm_disable_expensive_passes': True})


def step_of(e, index=0):
    """The compiled step of a phase."""
    return compile_step(
        make_step(e.net, e.tasks, e.plan.phases[index], index, e.prepare, e.config['accumulate'], e.mixing),
        start_shapes(e, index),
        e.placement,
    )


def numpy(tree):
    return jax.tree.map(np.array, tree)


def train(e, steps=1, index=0, leaves=None, host=None):
    """Frozen, and the state after each step of a phase, in numpy; every step sees `host`, or batches of its own."""
    frozen, state = start(e, index, leaves)
    step, states = compile_fast(step_of(e, index), frozen, state, batch_shapes(e)), []
    for k in range(steps):
        state = step(frozen, state, on_mesh(e, batch(e, k) if host is None else host))
        states.append(numpy(state))
    return frozen, states
