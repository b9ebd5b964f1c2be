import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `config_data` is a plain module beside these tests
