"""What has been read from JSON, in signatures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Document = Mapping[str, Any]
"""A JSON object. Whoever reads a field of one that SparseFlow didn't write checks what it is."""
