"""2:4 weights of compressed-tensors: ``sparse-24-bitmask``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.integrations.compressed_tensors.bitmask import (
        from_bitmask,
        positions_of_bitmask,
        to_bitmask,
    )

__all__ = ["from_bitmask", "positions_of_bitmask", "to_bitmask"]

__getattr__, __dir__ = lazy.names(globals(), dict.fromkeys(__all__, "bitmask"))
