import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `loaded` is a plain module beside these tests
