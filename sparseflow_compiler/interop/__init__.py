"""2:4 weights of others: checkpoints of compressed-tensors and transformers, and torch's own tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.runtime import lazy

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.quantizer import SparseFlowConfig
    from sparseflow.interop.bitmask import from_bitmask, to_bitmask
    from sparseflow.interop.checkpoints import Checkpoint, CheckpointLayer, convert_checkpoint
    from sparseflow.interop.semi_structured import from_semi_structured, to_semi_structured

__all__ = [
    "Checkpoint",
    "CheckpointLayer",
    "SparseFlowConfig",
    "convert_checkpoint",
    "from_bitmask",
    "from_semi_structured",
    "to_bitmask",
    "to_semi_structured",
]

__getattr__, __dir__ = lazy.names(
    globals(),
    {
        "Checkpoint": "checkpoints",
        "CheckpointLayer": "checkpoints",
        "SparseFlowConfig": ".integrations.transformers.quantizer",
        "convert_checkpoint": "checkpoints",
        "from_bitmask": "bitmask",
        "from_semi_structured": "semi_structured",
        "to_bitmask": "bitmask",
        "to_semi_structured": "semi_structured",
    },
)
