"""2:4 products on NVIDIA GPUs: cuSPARSELt with cached plans, and weights in the GPU layout."""

from __future__ import annotations

from sparseflow.runtime.device_weight import DeviceWeight
from sparseflow.runtime.gpu.compress import compress
from sparseflow.runtime.gpu.library import require, unusable, version
from sparseflow.runtime.gpu.plans import PlanStats, failures, path, prepare, reset, stats

__all__ = [
    "DeviceWeight",
    "PlanStats",
    "compress",
    "failures",
    "path",
    "prepare",
    "require",
    "reset",
    "stats",
    "unusable",
    "version",
]
