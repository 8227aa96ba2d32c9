"""All that SparseFlow knows about transformers: versions, names, caches, models and quantizer hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.plugin.quantizer import SparseFlowConfig
    from sparseflow.integrations.transformers.plugin.trainer import MaskCallback

__all__ = ["MaskCallback", "SparseFlowConfig"]

__getattr__, __dir__ = lazy.names(
    globals(), {"MaskCallback": "plugin.trainer", "SparseFlowConfig": "plugin.quantizer"}
)
