"""What all tests share: the collector of garbage looks less often at what is imported."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Leave imported modules out of collections: these took a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
