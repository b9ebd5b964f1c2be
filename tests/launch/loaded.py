"""The scripts of launch/, which are no package, as modules."""

import importlib.util
from pathlib import Path

LAUNCH = Path(__file__).parents[2] / 'launch'


def load(name):
    spec = importlib.util.spec_from_file_location(f'launch_{name}', LAUNCH / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
