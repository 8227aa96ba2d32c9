"""2:4 products on NVIDIA GPUs: cuSPARSELt with cached plans, and weights as its tensor cores want them."""

from __future__ import annotations

from sparseflow.runtime.gpu.library import require, unusable, version
from sparseflow.runtime.gpu.plans import PlanStats, failures, path, policy_code, prepare, reset, stats
from sparseflow.runtime.gpu.weight import DeviceWeight

__all__ = [
    "DeviceWeight",
    "PlanStats",
    "failures",
    "path",
    "policy_code",
    "prepare",
    "require",
    "reset",
    "stats",
    "unusable",
    "version",
]
