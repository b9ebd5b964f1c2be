"""Bundles of tiny nets that read text, with random parameters: nothing is trained."""

import types

import jax
import jax.numpy as jnp
import numpy as np

import jtl
from jtl.bundle import write_bundle
from jtl.train.record import golden

TEXTS = ('good film', 'a bad film', 'the dog sings a good song', 'bad')


def experiment(folder, task=types.MappingProxyType({'name': 'classification', 'zero_init': False})):
    """An LSTM over the words of a CSV with two classes, whose buckets are 4 and 8."""
    rows = [f'{text},{("neg", "pos")["good" in text]}' for text in TEXTS * 3]
    (folder / 'texts.csv').write_text('\n'.join(['sentence,label', *rows]))
    config = jtl.default_config()
    config.data.update(name='text_csv', root=str(folder / 'texts.csv'), text_key='sentence')
    with config.unlocked():
        config.model = {'name': 'lstm', 'embedding': 4, 'hidden': 4}
        config.task = dict(task)
    config.text.update(buckets=(4, 8))
    config.steps, config.batch_size = 1, 2
    return jtl.build(config)


def leaves_of(made):
    rng = np.random.default_rng(0)
    return {path: jnp.asarray(rng.normal(0, 1, spec.shape), spec.dtype) for path, spec in made.net.shapes.items()}


def write(made, leaves, where):
    write_bundle(
        where,
        net=made.net,
        leaves=leaves,
        labels=made.data.labels,
        preprocessing=made.preprocessing,
        config={**made.config, 'model': made.model},
        metrics={},
        golden=golden(made),
    )


def by_hand(made, leaves):
    """From a text to the outputs (K,) or (T, K) float64 of the net without filling, and the ids, words looked up one by one."""
    words, apply = made.preprocessing.words, jax.jit(lambda batch: made.net.apply(leaves, batch)[0]['main'][0])

    def outputs(text):
        names = ['<bos>', *text.split(), '<eos>']
        ids = np.array([[words.index(name if name in words else '<unk>') for name in names]], np.int32)
        batch = {'ids': ids, 'mask': np.ones(ids.shape, bool), 'segments': np.zeros(ids.shape, np.int32)}
        return np.asarray(apply(batch), np.float64), ids[0]

    return outputs
