"""Checkpoints of transformers models, whatever form their 2:4 weights have: read by layer, and converted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.checkpoints.checkpoint import (
        Checkpoint,
        CheckpointLayer,
        convert_checkpoint,
        is_fp8,
    )

__all__ = ["Checkpoint", "CheckpointLayer", "convert_checkpoint", "is_fp8"]

__getattr__, __dir__ = lazy.names(globals(), dict.fromkeys(__all__, "checkpoint"))
