"""What tests compile, kept on disk for as long as they run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextmanager
def compilations(folder: Path, optimized: bool = True) -> Iterator[None]:
    """Everything is compiled at most once, and with `optimized=False` with little effort."""
    settings = {
        'jax_compilation_cache_dir': str(folder),
        'jax_persistent_cache_min_compile_time_secs': 0.0,
        'jax_persistent_cache_min_entry_size_bytes': -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    _set(settings | {'jax_disable_most_optimizations': not optimized})
    yield
    _set(before | {'jax_disable_most_optimizations': False})  # cannot be asked for


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
