"""Reading a config file with its command-line overrides, and comparing two configs.

A config file is Python with a function `get_config()` (or `get_config(arg)` for `FILE:arg`) that returns an
`ml_collections.ConfigDict`; `jtl.default_config()` is where it starts. Overrides are `--config.<field>=<value>`.
"""

import ast
import copy
import inspect
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jtl.errors import UserError, did_you_mean


class ConfigError(UserError):
    """A config file or a field of it is wrong."""


OPTIONS = ('model', 'task', 'preprocessing')
"""Sections whose further fields are the keyword arguments of what they describe; that checks them."""


@dataclass(frozen=True)
class Parsed:
    """A config, and the fields that the command line set (so that a knob of the wrong recipe can be refused)."""

    config: ConfigDict
    overridden: tuple[str, ...]


def parse(arguments: Sequence[str]) -> Parsed:
    """The config that `--config=FILE[:arg] --config.x=y ...` means.

    Raises:
      ConfigError: no or a second `--config`, a file that is not there or fails, an unknown field (with the nearest), a value of the
        wrong type, or any other argument.
    """
    arguments = list(_joined(arguments))
    files = [a.partition('=')[2] for a in arguments if a.startswith('--config=')]
    overrides = [a for a in arguments if a.startswith('--config.')]
    for argument in arguments:
        if argument != '--config' and not argument.startswith(('--config=', '--config.')):
            raise ConfigError(f'Unknown argument {argument!r}. Config fields are set as --config.<field>=<value>.')
        if '=' not in argument:
            raise ConfigError(f'{argument}: write {argument}=<value>.')
    if len(files) != 1 or not files[0]:
        raise ConfigError('Give one config file: --config=FILE, where FILE is a Python file with a function get_config().')

    fields = tuple(a[len('--config.') :].partition('=')[0] for a in overrides)
    return Parsed(override(_load(files[0]), overrides), fields)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """A config with `--config.<field>=<value>` arguments applied, each converted to the type of the field; the given one stays as it is.

    Raises:
      ConfigError: an unknown field (with the nearest), or a value of the wrong type.
    """
    from absl import flags
    from ml_collections import config_flags

    config = copy.deepcopy(config)
    for argument in overrides:  # one at a time, so that a message names the one that is wrong
        field, _, text = argument[len('--config.') :].partition('=')
        section, _, option = field.partition('.')
        if section in OPTIONS and option and '.' not in option and option != 'name' and section in config:
            with config.ignore_type():
                config[section][option] = _literal(text)
            continue
        now = _value_at(config, field)
        if isinstance(now, ConfigDict | Mapping) and not text.startswith('{'):
            example = min(now, key=lambda key: isinstance(now[key], ConfigDict | Mapping), default=None)
            raise ConfigError(f'{argument}: this is a section; set its fields{f", such as --config.{field}.{example}" if example else ""}.')
        values = flags.FlagValues()
        argv = ['jtl', argument]
        config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=argv, lock_config=False)
        try:
            values(argv)
            config = values['config'].value
        except (flags.Error, ValueError, TypeError, AttributeError, KeyError, IndexError, SyntaxError) as error:
            why = _one_line(error).removeprefix('flag ').removeprefix(f'{argument}: ').rstrip('.')
            raise ConfigError(f'{argument}: expected a value such as {now!r} ({type(now).__name__}): {why}.') from None
    return config


def _literal(text: str) -> Any:
    """A number, tuple, True, None ... as Python writes it; anything else is a string."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def flat(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The leaves of a config as `{'tune.recipe': 'probe', 'phases[0].steps': 10, ...}`."""
    return dict(_walk('', plain(config)))


def plain(value: Any) -> Any:
    """A config as JSON data: dicts, lists, numbers, strings, None."""
    if isinstance(value, ConfigDict):
        # Not `items()`: it would turn field references into their values one level deep only.
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, 'item') and getattr(value, 'ndim', 1) == 0:
        return value.item()
    raise ConfigError(f'A config holds numbers, strings, tuples and dicts, found {type(value).__name__}: {value!r}.')


def frozen(value: Any) -> Any:
    """The inverse of what JSON does to tuples: lists become tuples, at every level."""
    if isinstance(value, Mapping):
        return {key: frozen(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return tuple(frozen(item) for item in value)
    return value


def check_fields(config: ConfigDict, defaults: ConfigDict, open_sections: Sequence[str]) -> None:
    """Refuse fields that jtl does not read, and values of another kind than the default.

    Args:
      config: the config to check.
      defaults: `jtl.default_config()`. A default of None says nothing about the kind.
      open_sections: dotted names of sections whose further fields are checked by the function that they name (`model`, `task`).

    Raises:
      ConfigError: an unknown field, with the nearest known one, or a wrong kind.
    """

    def walk(prefix: str, mine: Any, theirs: Any) -> None:
        for key, value in mine.items():
            name = f'{prefix}{key}'
            if key not in theirs:
                if prefix.rstrip('.') in open_sections:
                    continue
                raise ConfigError(f'config.{name}: there is no such field. {did_you_mean(key, theirs)}'.rstrip())
            default = theirs[key]
            if isinstance(default, dict):
                if not isinstance(value, dict):
                    raise ConfigError(f'config.{name}: this is a section with the fields {", ".join(default)}, found {value!r}.')
                walk(f'{name}.', value, default)
            elif default is not None and not _of_kind(value, default):
                raise ConfigError(f'config.{name}: expected {_KINDS[type(default)][1]}, found {frozen(value)!r}.')

    walk('', plain(config), plain(defaults))


def differences(old: Mapping[str, Any], new: Mapping[str, Any], harmless: Sequence[str] = ()) -> list[str]:
    """The fields in which two plain configs differ, a line each, but for those that a `harmless` regular expression matches in full."""
    a, b = flat(old), flat(new)
    lines = []
    for field in sorted({*a, *b}):
        if a.get(field, _ABSENT) != b.get(field, _ABSENT) and not any(re.fullmatch(p, field) for p in harmless):
            lines.append(f'config.{field}: {a.get(field, "absent")!r} in the run, {b.get(field, "absent")!r} now')
    return lines


_ABSENT = object()
_KINDS: dict[type, tuple[Any, str]] = {  # of a default: what its field takes, and how to say so
    bool: (bool, 'True or False'),
    int: (int, 'a whole number'),
    float: (int | float, 'a number'),
    str: (str, 'a string'),
    list: (list, 'a tuple'),
}


def _of_kind(value: Any, default: Any) -> bool:
    return isinstance(value, _KINDS[type(default)][0]) and (isinstance(default, bool) or not isinstance(value, bool))


def _joined(arguments: Sequence[str]) -> Iterator[str]:
    """`--config FILE` as `--config=FILE`, which absl takes too."""
    pending = None
    for argument in arguments:
        if pending is not None:
            yield f'{pending}={argument}'
            pending = None
        elif argument.startswith('--config') and '=' not in argument:
            pending = argument
        else:
            yield argument
    if pending is not None:
        yield pending


def sweep_of(where: str) -> list[dict[str, Any]]:
    """The fields of each run that a config file's `sweep()` yields: `{'optimizer.lr': 1e-3, 'seed': 0}`.

    Args:
      where: as `--config` takes it; its argument is handed to a `sweep` that takes one.

    Raises:
      ConfigError: no such file or function, one that fails, or that yields something else, or nothing.
    """
    runs = _called(where, 'sweep', optional_argument=True)
    try:
        found = list(runs)
    except Exception as error:
        raise ConfigError(f'{where}: sweep(): {type(error).__name__}: {_one_line(error)}') from error
    wrong = [run for run in found if not isinstance(run, Mapping) or not all(isinstance(field, str) for field in run)]
    if wrong or not found:
        told = repr(wrong[0]) if wrong else 'nothing'
        raise ConfigError(f"{where}: sweep() yields dicts from fields to values, such as {{'optimizer.lr': 1e-3}}; found {told}.")
    return [dict(run) for run in found]


def _load(where: str) -> ConfigDict:
    """What the file's `get_config` returns, with every failure told in a sentence."""
    config = _called(where, 'get_config')
    if not isinstance(config, ConfigDict):
        name = where.partition(':')[0]
        raise ConfigError(f'{name}: get_config() must return an ml_collections.ConfigDict, found {type(config).__name__}.')
    return config


def _called(where: str, function: str, optional_argument: bool = False) -> Any:
    name, colon, argument = where.partition(':')
    path = Path(name)
    if not path.is_file():
        others = [str(p) for p in path.parent.glob('*.py')] if path.parent.is_dir() else []
        raise ConfigError(f'--config: there is no file {name}. {did_you_mean(name, others)}'.rstrip())
    scope: dict[str, Any] = {'__name__': 'config', '__file__': str(path)}
    try:
        exec(compile(path.read_text(), str(path), 'exec'), scope)
        get = scope.get(function)
        if get is None:
            raise ConfigError(f'{name}: there is no function {function}() in it.')
        takes = len(inspect.signature(get).parameters)
        if colon and not takes and not optional_argument:
            raise ConfigError(f'{name}: {function}() takes no argument, found ":{argument}".')
        return get(argument) if colon and takes else get()
    except UserError:
        raise
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        line = lines[-1] if lines else getattr(error, 'lineno', None)
        raise ConfigError(f'{name}{f", line {line}" if line else ""}: {type(error).__name__}: {_one_line(error)}') from error


def _value_at(config: ConfigDict, field: str) -> Any:
    """The value at `a.b[0].c`; ConfigError names the first part that is not there."""
    value: Any = config
    seen = ''
    for part in field.split('.'):
        key, *indices = re.split(r'[\[\]]+', part.rstrip(']'))
        if not isinstance(value, ConfigDict | Mapping) or key not in value:
            choices = list(value.keys()) if isinstance(value, ConfigDict | Mapping) else []
            raise ConfigError(f'--config.{field}: config{seen} has no field {key!r}. {did_you_mean(key, choices)}'.rstrip())
        value, seen = value[key], f'{seen}.{key}'
        for index in indices:
            if not isinstance(value, tuple | list) or not index.isdigit() or int(index) >= len(value):
                length = len(value) if isinstance(value, tuple | list) else 0
                raise ConfigError(f'--config.{field}: config{seen} has {length} entries, there is no [{index}].')
            value, seen = value[int(index)], f'{seen}[{index}]'
    return value


def _walk(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _walk(f'{prefix}.{key}' if prefix else key, item)
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        for index, item in enumerate(value):
            yield from _walk(f'{prefix}[{index}]', item)
    else:
        yield prefix, value


def _one_line(error: BaseException) -> str:
    return ' '.join(str(error).split())
