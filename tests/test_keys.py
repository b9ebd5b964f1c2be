import zlib

import jax
import numpy as np

from jtl.keys import derive


def data(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_names_lead_to_keys_of_their_own():
    root = jax.random.key(7)
    keys = [
        derive(root, *names)
        for names in [(), ('a',), ('b',), (0,), (1,), ('a', 0), ('a', 1), (0, 'a'), ('a', 'b'), ('b', 'a'), ('phase', 0, 'step', 1)]
    ]
    assert len({data(key) for key in keys}) == len(keys)
    assert data(derive(jax.random.key(8), 'a')) != data(derive(root, 'a'))


def test_derivation_is_one_fold_a_name_and_composes():
    root = jax.random.key(7)
    by_hand = jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(b'dropout')), 3)
    assert data(derive(root, 'dropout', 3)) == data(by_hand) == data(derive(derive(root, 'dropout'), 3))
    assert data(derive(root)) == data(root)


def test_a_traced_step_gives_the_key_of_the_number():
    root = jax.random.key(7)
    traced = jax.jit(lambda step: derive(root, 'step', step))(jax.numpy.int32(12))
    assert data(traced) == data(derive(root, 'step', 12))
