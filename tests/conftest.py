import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `config_data` is a plain module beside these tests


def pytest_collection_modifyitems(items):
    """Whole runs first: the long files must not be the last, when one worker works and the others wait."""
    items.sort(key=lambda item: '/tests/train/' not in item.path.as_posix())
