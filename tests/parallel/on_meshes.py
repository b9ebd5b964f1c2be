"""Run by test_meshes.py in a process with eight devices: `on_meshes.py CASE ...` prints JSON, a result for each case `kind/recipe/optimizer`."""

import json
import sys
import tempfile
from functools import partial
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / 'train'))
import on_devices
import test_resume
import texts
import tiny

import jtl
from jtl.train.state import empty_window

MESHES = {
    'data 8': {'data': 8},
    'fsdp 8': {'data': 1, 'fsdp': 8},
    'data 2 x fsdp 4': {'data': 2, 'fsdp': 4},
    'fsdp 4 x tensor 2': {'data': 1, 'fsdp': 4, 'tensor': 2},
}
STEPS = 20
BERT = {'name': 'bert_tiny', 'width': 32, 'depth': 2, 'heads': 4, 'pooler': False, 'positions': 24}
KINDS = {'dtype': 'float32', 'param_dtype': 'float32', 'image_size': 0}
OPTIMIZERS = {'sgd': {'name': 'sgd', 'lr': 0.05, 'momentum': 0.9}, 'adam': {'name': 'adamw', 'lr': 1e-3, 'momentum': 0.0}}


def image(recipe, optimizer, mesh, devices=None, **fields):
    """A convolutional net with BatchNorm, dropout and flips."""
    model = {'batch_norm': True, 'bn_momentum': 0.9, 'dropout': 0.3, 'channels': (8, 16)}
    optimizer = {**OPTIMIZERS[optimizer], 'clip': 1.0, 'weight_decay': 1e-3}
    return tiny.experiment(
        model, devices=devices, tune=tiny.recipe(recipe), mesh=mesh, augment={'flip': True}, optimizer=optimizer, **fields
    )


def text(recipe, optimizer, mesh, devices=None, **fields):
    """A BERT of two layers with dropout, the mean of its tokens, texts of ragged lengths."""
    with tempfile.TemporaryDirectory() as folder:
        task = {'name': 'classification', 'pool': 'mean', 'zero_init': False}
        config = texts.config('text_csv', texts.table(Path(folder) / 'texts.csv'), {}, (12,), task=task, mesh=mesh, **fields)
        with config.unlocked():
            config.model = BERT | KINDS
        config.tune.recipe = recipe
        config.optimizer.update(**OPTIMIZERS[optimizer], clip=1.0)
        config.batch_size, config.steps = 16, STEPS
        return jtl.build(config, devices=devices)


def trained(e):
    """The loss and the norm of the gradients at each step, and the parameters at the end."""
    frozen, state = jtl.start(e, tiny.leaves_of(e))
    step, feed, found = jtl.training_step(e), jtl.batches(e), []
    for _ in range(STEPS):
        state = step(frozen, state, next(feed))
        found.append([float(state.window.loss), float(state.window.grad_norm)])
        state = state.replace(window=jax.device_put(empty_window(), state.step.sharding))
    return np.array(found), {path: np.asarray(leaf) for path, leaf in state.params.items()}


def against_one(make):
    """By mesh: the largest differences in losses, in norms, and in each parameter, from a run on one device; and how far that run came."""
    one, params = trained(make({'data': 1}, devices=jax.devices()[:1]))
    found = {'came': float(np.ptp(one[:, 0])), 'finite': bool(np.isfinite(one).all())}
    for name, mesh in MESHES.items():
        losses, others = trained(make(mesh))
        loss, norm = np.abs(losses - one).max(axis=0).tolist()
        found[name] = {'loss': loss, 'norm': norm, 'params': {path: float(np.abs(others[path] - params[path]).max()) for path in params}}
    return found


def sent(make, mesh):
    """What the compiled step sends, and the bytes of what is split, trained or held by a device."""
    e = make(mesh)
    frozen, state = tiny.start(e)
    step = tiny.compile_fast(jtl.training_step(e), frozen, state, next(jtl.batches(e)))

    def held(tree):
        return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

    def whole(leaves):
        return {path: leaf.nbytes for path, leaf in leaves.items() if leaf.sharding.is_fully_replicated}

    sizes = {path: spec.size * 4 for path, spec in e.net.shapes.items()}
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    return on_devices.collectives(e, step) | {
        'split': sum(sizes[path] for path in sizes if e.placement.parts(path) > 1),
        'leaves': {
            'total': sum(sizes.values()),
            'held': held([frozen.leaves, state.params, state.stats]),
            'whole': whole(frozen.leaves | state.params),
        },
        'moments': {
            'total': sum(leaf.nbytes for leaf in moments),
            'held': held(moments),
            'whole': sum(leaf.nbytes for leaf in moments if leaf.sharding.is_fully_replicated),
        },
    }


def gone_on(folder):
    """A run that is stopped twice and goes on under another mesh each time: its leaves at the end against those of a run without a break."""
    model = {'name': 'convnet', 'image_size': 8, 'channels': (8,), 'dense': (16,), 'batch_norm': True, 'dropout': 0.1}
    optimizer = {'name': 'adamw', 'lr': 0.02, 'ema': 0.8}
    found, splits = {}, []
    for name, meshes in (
        ('whole', [MESHES['data 8']]),
        ('broken', [MESHES['fsdp 8'], MESHES['fsdp 4 x tensor 2'], MESHES['data 2 x fsdp 4']]),
    ):
        where = test_resume.files(folder, name)
        for k, mesh in enumerate(meshes):
            plain = {**test_resume.config(optimizer=optimizer), 'model': model, 'mesh': mesh, 'checkpoint_every': 3}
            splits.append(sum(map(bool, jtl.build(plain, data=test_resume.data()).placement.specs['backbone/dense_0/dense/kernel'])))
            try:
                found[name] = test_resume.go(where, plain, stop_after=1 if k < len(meshes) - 1 else None)
            except test_resume.Break:
                continue
    (one, at), (other, position) = found['whole'], found['broken']
    return {
        'at': at == position,
        'split': splits,
        'off': max(float(np.abs(one[path] - other[path]).max()) for path in one),
        'leaves': len(one),
    }


def main():
    assert len(jax.devices()) == 8
    jax.config.update('jax_disable_most_optimizations', True)
    result = {}
    for case in sys.argv[1:]:
        if case == 'gone on':
            with tempfile.TemporaryDirectory() as folder:
                result[case] = gone_on(Path(folder))
            continue
        kind, recipe, optimizer, *what = case.split('/')
        make = partial({'image': image, 'text': text}[kind], recipe, optimizer)
        result[case] = {name: sent(make, MESHES[name]) for name in what} if what else against_one(make)
    print(json.dumps(result))


if __name__ == '__main__':
    main()
