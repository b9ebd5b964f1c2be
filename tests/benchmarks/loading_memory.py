"""Host memory while a checkpoint is loaded into eight shards: how much more than what is placed.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 JAX_PLATFORMS=cpu python tests/benchmarks/loading_memory.py [--gigabytes 2] [--mesh fsdp|data]

Writes a BERT of that size as transformers would (random values), then loads it through `jtl.load_leaves` on a mesh of eight devices. The peak is
that of anonymous memory, sampled every 5 ms from the kernel's own count for this process; pages of the file itself are not counted. The bound of
the design is twice the largest leaf.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

import jtl
from jtl.data.arrays import from_arrays  # noqa: F401 - imported before memory is measured
from jtl.data.tokenizer import word_tokenizer

WIDTH = 1024


def anonymous() -> int:
    """Bytes of anonymous memory that this process holds."""
    for line in Path('/proc/self/smaps_rollup').read_text().splitlines():
        if line.startswith('Anonymous:'):
            return 1024 * int(line.split()[1])
    raise OSError('/proc/self/smaps_rollup has no line "Anonymous:".')


def write(folder: Path, gigabytes: float) -> int:
    """A checkpoint in parts below a folder, and its number of layers."""
    layer = 4 * (WIDTH * WIDTH + WIDTH) + 2 * 4 * WIDTH * WIDTH + 9 * WIDTH
    depth = max(1, round(gigabytes * 1e9 / 4 / layer))
    rng = np.random.default_rng(0)

    def values(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    words = ['film', 'good', 'bad']
    (folder / 'tokenizer.json').write_text(word_tokenizer(words))
    rows = len(json.loads((folder / 'tokenizer.json').read_text())['model']['vocab'])
    leaves = {
        'embeddings.word_embeddings.weight': values(rows, WIDTH),
        'embeddings.position_embeddings.weight': values(64, WIDTH),
        'embeddings.token_type_embeddings.weight': values(2, WIDTH),
        'embeddings.LayerNorm.weight': values(WIDTH),
        'embeddings.LayerNorm.bias': values(WIDTH),
    }
    shapes = {
        **{f'attention.{part}': (WIDTH, WIDTH) for part in ('self.query', 'self.key', 'self.value', 'output.dense')},
        'intermediate.dense': (4 * WIDTH, WIDTH),
        'output.dense': (WIDTH, 4 * WIDTH),
    }
    for k in range(depth):
        for name, shape in shapes.items():
            leaves[f'encoder.layer.{k}.{name}.weight'], leaves[f'encoder.layer.{k}.{name}.bias'] = values(*shape), values(shape[0])
        for name in ('attention.output.LayerNorm', 'output.LayerNorm'):
            leaves[f'encoder.layer.{k}.{name}.weight'], leaves[f'encoder.layer.{k}.{name}.bias'] = values(WIDTH), values(WIDTH)
    save_file(leaves, folder / 'model.safetensors')
    return depth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--gigabytes', type=float, default=2.0)
    parser.add_argument('--mesh', choices=('fsdp', 'data'), default='fsdp')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        depth = write(folder, args.gigabytes)
        (folder / 'texts.csv').write_text('text,label\n' + 'good film,a\nbad film,b\n' * 20)
        config = jtl.default_config()
        config.model.name = 'bert_base'
        config.model.width, config.model.depth, config.model.heads, config.model.positions, config.model.pooler = (
            WIDTH,
            depth,
            16,
            64,
            False,
        )
        config.init_from = name
        config.data.update(name='text_csv', root=str(folder / 'texts.csv'))
        config.text.max_length = 16
        config.steps, config.batch_size = 1, 8
        config.mesh.update(data=-1 if args.mesh == 'data' else 1, fsdp=-1 if args.mesh == 'fsdp' else 1)
        experiment = jtl.build(config)
        largest = max(leaf.nbytes for leaf in experiment.plan.leaves)
        before, peak, over = anonymous(), [0], threading.Event()

        def sample() -> None:
            while not over.is_set():
                peak[0] = max(peak[0], anonymous())
                time.sleep(0.005)

        thread = threading.Thread(target=sample)
        thread.start()
        began = time.monotonic()
        leaves = jax.block_until_ready(jtl.load_leaves(experiment))
        seconds = time.monotonic() - began
        over.set()
        thread.join()
        placed = sum(shard.data.nbytes for leaf in leaves.values() for shard in leaf.addressable_shards)
        beyond = peak[0] - before - placed
        print(
            f'{len(jax.devices())} devices, {args.mesh}: {placed / 1e9:.2f} GB placed in {seconds:.0f} s, largest leaf {largest / 1e6:.1f} MB'
        )
        print(f'peak of anonymous memory beyond what is placed: {beyond / 1e6:.1f} MB, {beyond / largest:.2f} times the largest leaf')


if __name__ == '__main__':
    main()
