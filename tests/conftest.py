"""Fixtures and settings for all rooms."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # `from peers import ...` in every test folder

# No deadline for an example: how long it takes says more about the machine than about the code.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
