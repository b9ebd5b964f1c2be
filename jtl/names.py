"""From a name in a config to the function it means, so that models, tasks, data sets and recipes are added without touching jtl.

A name is one of jtl's own (a row in the table of `jtl.models`, `jtl.tasks` or `jtl.data`), a function of an importable
module (`my_package.nets:tiny_net`), or a function of a file (`experiments/my_net.py:tiny_net`).
"""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jtl.errors import UserError, did_you_mean


def lookup(name: str, table: Mapping[str, str], what: str, field: str = '') -> Callable[..., Any]:
    """The function that `name` means.

    Args:
      name: a key of `table`, `package.module:function`, or `path/to/file.py:function`.
      table: jtl's own names, each with its `module:function`, imported only when asked for.
      what: 'model', 'task', ...: for messages.
      field: the config field that holds the name; `<what>.name` by default.

    Raises:
      UserError: an unknown name (with the nearest known ones), a file or module that is not there, or no such function in it.
    """
    field = field or f'{what}.name'
    where = table.get(name, name) if isinstance(name, str) else ''
    module_name, colon, attribute = where.rpartition(':')
    if not colon:
        raise UserError(
            f'{field}: there is no {what} {name!r}. {did_you_mean(str(name), table)} Your own: "path/to/file.py:function".'.replace(
                '  ', ' '
            )
        )
    module = _file_module(module_name, field) if module_name.endswith('.py') else _module(module_name, field)
    found = getattr(module, attribute, None)
    if not callable(found):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith('_')]
        raise UserError(f'{field}: {module_name} has no function {attribute!r}. {did_you_mean(attribute, names)}'.rstrip())
    return found


def _module(name: str, field: str) -> Any:
    if not name or name.startswith('.'):  # relative to nothing
        raise UserError(f'{field}: there is no importable module {name!r}. A file is written "path/to/file.py:function".')
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + '.')):
            raise UserError(f'{field}: there is no importable module {name!r}. A file is written "path/to/file.py:function".') from None
        raise


def _file_module(name: str, field: str) -> Any:
    path = Path(name).expanduser().resolve()
    if not path.is_file():
        raise UserError(f'{field}: there is no file {name} (looked for {path}).')
    # One module object for a file however often it is asked for: its classes must stay equal to themselves.
    key = f'jtl_file_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}'
    if key in sys.modules:
        return sys.modules[key]
    spec = importlib.util.spec_from_file_location(key, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[key] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        del sys.modules[key]
        raise UserError(f'{field}: {error.filename}, line {error.lineno}: {error.msg}.') from None
    except BaseException:
        del sys.modules[key]
        raise
    return module
