"""Functional transfer learning on JAX and Flax. The public names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.bundle import load_bundle as load_bundle
    from jtl.checkpoint.sources import open_checkpoint as open_checkpoint
    from jtl.defaults import default_config as default_config
    from jtl.train.run import run as run
    from jtl.train.setup import build as build

_PUBLIC = {
    'UserError': 'jtl.errors',
    'build': 'jtl.train.setup',
    'default_config': 'jtl.defaults',
    'load_bundle': 'jtl.bundle',
    'open_checkpoint': 'jtl.checkpoint.sources',
    'run': 'jtl.train.run',
}

__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
