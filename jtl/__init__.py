"""Functional transfer learning on JAX and Flax. The public names are imported when they are first used."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jtl.bundle import load_bundle as load_bundle
    from jtl.checkpoint.sources import open_checkpoint as open_checkpoint
    from jtl.data import load_data as load_data
    from jtl.data.arrays import from_arrays as from_arrays
    from jtl.defaults import default_config as default_config
    from jtl.errors import UserError as UserError
    from jtl.optim import make_optimizer as make_optimizer
    from jtl.plan import make_plan as make_plan
    from jtl.plan import phase_optimizer as phase_optimizer
    from jtl.report.plan_text import plan_text as plan_text
    from jtl.rules import resolve as resolve
    from jtl.train.compare import compare as compare
    from jtl.train.evaluation import evaluate as evaluate
    from jtl.train.parts import batches as batches
    from jtl.train.parts import prediction_step as prediction_step
    from jtl.train.parts import start as start
    from jtl.train.parts import training_step as training_step
    from jtl.train.run import run as run
    from jtl.train.setup import build as build
    from jtl.train.setup import load_leaves as load_leaves
    from jtl.train.state import begin as begin
    from jtl.train.state import merged as merged

_PUBLIC = {
    'UserError': 'jtl.errors',
    'batches': 'jtl.train.parts',
    'begin': 'jtl.train.state',
    'build': 'jtl.train.setup',
    'compare': 'jtl.train.compare',
    'default_config': 'jtl.defaults',
    'evaluate': 'jtl.train.evaluation',
    'from_arrays': 'jtl.data.arrays',
    'load_bundle': 'jtl.bundle',
    'load_data': 'jtl.data',
    'load_leaves': 'jtl.train.setup',
    'make_optimizer': 'jtl.optim',
    'make_plan': 'jtl.plan',
    'merged': 'jtl.train.state',
    'open_checkpoint': 'jtl.checkpoint.sources',
    'phase_optimizer': 'jtl.plan',
    'plan_text': 'jtl.report.plan_text',
    'prediction_step': 'jtl.train.parts',
    'resolve': 'jtl.rules',
    'run': 'jtl.train.run',
    'start': 'jtl.train.parts',
    'training_step': 'jtl.train.parts',
}

__all__ = list(_PUBLIC)  # type checkers read the imports above


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
