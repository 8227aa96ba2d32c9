"""Training a pruned model without losing its 2:4 pattern, with or without its dense teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sparseflow.finetune.distill import DistillReport, distill
from sparseflow.finetune.masks import Masks, masked
from sparseflow.finetune.merge import merge_adapters
from sparseflow.finetune.objective import Objective

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.trainer import MaskCallback

__all__ = ["DistillReport", "MaskCallback", "Masks", "Objective", "distill", "masked", "merge_adapters"]


def __getattr__(name: str) -> Any:
    # The callback derives from a class of transformers, which nothing else here needs.
    if name == "MaskCallback":
        from sparseflow.integrations.transformers.trainer import MaskCallback

        return MaskCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
