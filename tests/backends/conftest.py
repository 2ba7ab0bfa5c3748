"""Test modules here share the helpers of ``recordings.py``, which pytest's importlib mode does not put on the path."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
