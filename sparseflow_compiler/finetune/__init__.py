"""Train pruned models while keeping their 2:4 pattern, with or without a dense teacher."""

from __future__ import annotations

from sparseflow.finetune.distill import DistillReport, distill
from sparseflow.finetune.masks import Masks, masked
from sparseflow.finetune.objective import Objective

__all__ = ["DistillReport", "Masks", "Objective", "distill", "masked"]
