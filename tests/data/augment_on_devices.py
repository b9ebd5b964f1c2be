"""Run by test_augment.py in a process with eight devices: prints JSON."""

import json
import re
import sys

import jax
import numpy as np

from jtl.config import frozen
from jtl.data.augment import augment, settings_of
from jtl.parallel.mesh import make_mesh, over_batch, put_batch, replicated


def main(section, options, seed):
    """The result of `augment` for a batch of eight, and the collectives of the compiled program."""
    settings = settings_of(frozen(section))
    images = np.random.default_rng(seed).integers(0, 256, (8, 12, 14, 3), np.uint8)
    mesh = make_mesh({'data': -1}, jax.devices())
    step = jax.jit(
        lambda images, key: augment(images, jax.random.wrap_key_data(key), settings, size=(6, 7)),
        in_shardings=(over_batch(mesh), replicated(mesh)),
        out_shardings=over_batch(mesh),
        compiler_options=options,
    )
    batch = put_batch({'image': images}, mesh)['image']
    key = jax.device_put(jax.random.key_data(jax.random.key(seed)), replicated(mesh))
    text = step.lower(batch, key).compile().as_text()
    kinds = 'all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute|collective-broadcast'
    print(
        json.dumps(
            {
                'devices': len(batch.sharding.device_set),
                'collectives': re.findall(rf' ({kinds})(?:-start)?\(', text),
                'result': np.asarray(step(batch, key)).tolist(),
            }
        )
    )


if __name__ == '__main__':
    main(*map(json.loads, sys.argv[1:]))
