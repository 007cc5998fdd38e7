"""The lab is a package at the top of the repository, outside of the Python project that the other tests import."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
