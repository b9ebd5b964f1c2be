import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # `golden_case` is a plain module beside these tests
