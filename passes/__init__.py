"""MLIR passes over the Torch and sparse_gemm dialects, one a file. Never imports torch."""

from __future__ import annotations

from sparseflow.passes.base import Pass
from sparseflow.passes.pipelines import Timing, format_pipeline, parse_pipeline, run_pipeline

__all__ = ["Pass", "Timing", "format_pipeline", "parse_pipeline", "run_pipeline"]
