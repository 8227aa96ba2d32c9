"""What the tests of the contextual kernels share."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))  # gather

settings.register_profile("sparseflow", deadline=None)
settings.load_profile("sparseflow")
