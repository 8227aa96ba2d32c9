"""Train pruned models while keeping their pattern, with or without a dense teacher and its own text."""

from __future__ import annotations

from sparseflow.finetune.distill import DistillReport, distill
from sparseflow.finetune.masks import Masks, masked
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.recovering import recover
from sparseflow.finetune.recovery_report import RecoverReport

__all__ = ["DistillReport", "Masks", "Objective", "RecoverReport", "distill", "masked", "recover"]
