"""Run by test_devices.py in a process with eight devices: prints JSON."""

import json
import math
import re
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import texts
import tiny

import jtl
from jtl.parallel.mesh import local_rows, make_mesh, put_batch, put_leaf, replicated
from jtl.train.recalibrate import recalibration
from jtl.train.state import empty_window

MODEL = {'batch_norm': True, 'bn_momentum': 0.9, 'dropout': 0.3}
TASK = {'name': 'classification', 'zero_init': False, 'dropout': 0.2}
STEPS = 20
MIXED = {'flip': True, 'mixup': 0.4, 'cutmix': 1.0}


def experiment(recipe, devices, **fields):
    return tiny.experiment(
        MODEL,
        devices=devices,
        tune=tiny.recipe(recipe),
        task=TASK,
        augment=fields.pop('augment', {'flip': True, 'crop': 1.0}),
        optimizer={'lr': 0.05, 'momentum': 0.9, 'weight_decay': 1e-3, 'clip': 1.0},
        **fields,
    )


def compiled(e):
    return tiny.compile_fast(tiny.step_of(e), *tiny.start_shapes(e), tiny.batch_shapes(e))


def losses(e, step):
    """The loss and the norm of the gradients at each step."""
    frozen, state = tiny.start(e)
    found = []
    for k in range(STEPS):
        state = step(frozen, state, tiny.on_mesh(e, tiny.batch(e, k)))
        found.append([float(state.window.loss), float(state.window.grad_norm)])
        state = state.replace(window=jax.device_put(empty_window(), state.step.sharding))
    return found


def collectives(e, step):
    """The collectives of the compiled step as [operation, bytes of its results], and what may be reduced, in bytes."""
    text = re.sub(r'/\*.*?\*/', '', step.as_text())
    kinds = 'all-reduce|reduce-scatter|all-gather|all-to-all|ragged-all-to-all|collective-permute|collective-broadcast'
    found = []
    for shape, kind in re.findall(rf'= (\(.*?\)|\S+) ({kinds})(?:-start)?\(', text):
        arrays = re.findall(r'([a-z]+)(\d*)\[([\d,]*)\]', shape)
        found.append([kind, sum(int(bits or 8) // 8 * math.prod(int(n) for n in dims.split(',') if n) for _, bits, dims in arrays)])
    phase = e.plan.phases[0]
    return {
        'found': found,
        'mentioned': len(re.findall(rf' (?:{kinds})(?:-start)?\(', text)),
        'gradients': sum(e.net.params[path].size * 4 for path in phase.labels),
        'statistics': sum(4 * leaf.size for path, leaf in e.net.stats.items() if phase.modes[path.split('/')[1]].batch_statistics),
    }


def recalibrated(devices):
    """Statistics computed anew over two batches, with flips and dropout, and what they were before."""
    e = experiment('full', devices, recalibrate=2)
    leaves = tiny.leaves_of(e)
    found = recalibration(e, 0)(leaves)
    return {path: [np.asarray(found[path]).tolist(), np.asarray(leaves[path]).tolist()] for path in e.net.stats}


def losses_of_texts(devices):
    """The loss and the norm of the gradients at each step on texts, with dropout, and the widths of their batches."""
    with tempfile.TemporaryDirectory() as folder:
        config = texts.config(
            'text_csv', texts.table(Path(folder) / 'texts.csv'), {'dropout': 0.3, 'recurrent_dropout': 0.2}, (7, 12), task=TASK
        )
        e = jtl.build(config, devices=devices)
    frozen, state = jtl.start(e, tiny.leaves_of(e))
    step, feed, found, widths = jtl.training_step(e), jtl.batches(e), [], []
    for _ in range(6):
        batch = next(feed)
        state = step(frozen, state, batch)
        found.append([float(state.window.loss), float(state.window.grad_norm)])
        widths.append(batch['ids'].shape[1])
        state = state.replace(window=jax.device_put(empty_window(), state.step.sharding))
    return found, widths


def meshes():
    mesh = make_mesh({'data': 4, 'tensor': -1})
    rows = local_rows(mesh, 32).tolist()
    batch = put_batch({'x': np.arange(32).reshape(16, 2)}, mesh)['x']
    return {
        'shape': list(mesh.shape.values()),
        'all': list(make_mesh({'data': -1}).shape.values()),
        'rows': rows,
        'shards': sorted({(shard.index[0].start or 0, int(shard.data[0, 0])) for shard in batch.addressable_shards}),
        'leaf': put_leaf(np.arange(6), replicated(mesh)).sharding.is_fully_replicated,
    }


def main():
    assert len(jax.devices()) == 8
    result = {'mesh': meshes(), 'losses': {}, 'collectives': {}}
    for name, recipe, fields in (
        ('probe', 'probe', {}),
        ('probe, batch statistics', 'probe', {'batch_norm': (('backbone/conv_1', 'batch'),)}),
        ('last, accumulated', 'last', {'accumulate': 2}),
        ('full', 'full', {}),
        ('mixed', 'probe', {'augment': MIXED}),
    ):
        eight = experiment(recipe, None, **fields)
        step = compiled(eight)
        result['collectives'][name] = collectives(eight, step)
        if recipe != 'probe' or name == 'mixed':
            one = experiment(recipe, jax.devices()[:1], **fields)
            result['losses'][name] = [losses(one, compiled(one)), losses(eight, step)]
    jax.config.update('jax_disable_most_optimizations', True)
    result['texts'] = [losses_of_texts(jax.devices()[:1]), losses_of_texts(None)]
    jax.config.update('jax_disable_most_optimizations', False)
    result['recalibrated'] = [recalibrated(jax.devices()[:1]), recalibrated(None)]
    print(json.dumps(result))


if __name__ == '__main__':
    main()
