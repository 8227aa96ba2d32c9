"""What the runtime's tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# A deadline is a timing assertion: on a busy machine it fails without reason.
settings.register_profile("sparseflow", deadline=None)
settings.load_profile("sparseflow")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache folder: no test reads or writes the user's tables."""
    monkeypatch.setenv("SPARSEFLOW_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"
