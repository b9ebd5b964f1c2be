"""Random keys derived by name, so that adding one random choice leaves every other as it was."""

import zlib

import jax


def derive(key: jax.Array, *names: str | int | jax.Array) -> jax.Array:
    """The key that `names` lead to from `key`: strings by their CRC-32, integers (traced ones too) as they are.

    >>> bool((jax.random.key_data(derive(jax.random.key(0), 'dropout', 3)) != jax.random.key_data(derive(jax.random.key(0), 'dropout', 4))).any())
    True
    """
    for name in names:
        key = jax.random.fold_in(key, zlib.crc32(name.encode()) if isinstance(name, str) else name)
    return key
