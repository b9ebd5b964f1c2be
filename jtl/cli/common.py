"""What several commands share."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jtl.errors import UserError


def add_config(parser: argparse.ArgumentParser, *, workdir: bool = True) -> None:
    """`--config` and `--workdir`; config fields come as further arguments."""
    parser.add_argument(
        '--config', required=True, metavar='FILE[:arg]', help='Python file with get_config(); then --config.<field>=<value> ...'
    )
    if workdir:
        parser.add_argument('--workdir', required=True, metavar='DIR', help='run directory; an unfinished run there goes on')


def read_config(args: argparse.Namespace, rest: Sequence[str]) -> Any:
    """The config that the arguments mean. ConfigError (a UserError) for anything wrong, knobs of a recipe that is not used included."""
    from jtl.config import parse

    parsed = parse([f'--config={args.config}', *rest])
    recipe = parsed.config.get('tune', {}).get('recipe', '')
    for field in parsed.overridden:
        parts = field.split('.')
        if parts[0] == 'tune' and len(parts) > 2 and parts[1] != recipe:
            raise UserError(f'--config.{field}: a knob of the recipe {parts[1]!r}, but the run uses {recipe!r} (config.tune.recipe).')
    if 'tune.recipe' in parsed.overridden and recipe and parsed.config.get('phases'):
        print(f'tune.recipe={recipe} from the command line replaces the phases that the config writes.')
    return parsed.config


def names_of_views(text: str) -> tuple[str, ...]:
    """The views that `--tta=A,B` names. UserError for one that is none."""
    from jtl.data.views import check_views

    names = tuple(name.strip() for name in text.split(',') if name.strip())
    check_views(names, '--tta')
    return names


def refuse_rest(rest: Sequence[str]) -> None:
    """UserError for arguments that the command does not have."""
    if rest:
        raise UserError(f'there is no argument {rest[0]!r}. See --help.')


def prepare_jax() -> None:
    """Settings before JAX starts: a compilation cache in the user's cache directory, so that a second run starts at once."""
    import jax

    if not os.environ.get('JAX_COMPILATION_CACHE_DIR'):
        jax.config.update('jax_compilation_cache_dir', str(user_cache() / 'jax'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)
    jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)


def user_cache() -> Path:
    """Where jtl keeps what it can make again."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache') / 'jtl'
