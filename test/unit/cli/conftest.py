"""What all tests of commands share: a pipe without a width."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget COLUMNS, which pytest-xdist sets to 80 in its processes."""
    monkeypatch.delenv("COLUMNS", raising=False)
