"""The README's notebook example runs as it stands, and its recipes and configs exist."""

import re
from pathlib import Path

from jtl.recipes import RECIPES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / 'README.md').read_text()


def test_notebook_example_learns():
    (code,) = [block for block in re.findall(r'```python\n(.*?)```', TEXT, re.S) if 'import jtl' in block]
    scope = {}
    exec(compile(code, 'README.md', 'exec'), scope)
    assert len(code.splitlines()) <= 20
    assert scope['result'].metrics['accuracy'] > 0.6
    assert set(scope['phase'].labels) == {'heads/main/output/kernel', 'heads/main/output/bias'}


def test_every_config_is_in_the_table_and_every_recipe_named():
    for path in (ROOT / 'configs').glob('*.py'):
        assert f'configs/{path.name}' in TEXT
    for recipe in RECIPES:
        assert f'`{recipe}`' in TEXT
