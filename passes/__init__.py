"""MLIR passes over the Torch and sparse_gemm dialects, one a file. Never imports torch.

Names are imported on first use, so that passes can be listed without loading MLIR.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.passes.base import Pass as Pass
    from sparseflow.passes.pipelines import Timing as Timing
    from sparseflow.passes.pipelines import format_pipeline as format_pipeline
    from sparseflow.passes.pipelines import named_pipeline as named_pipeline
    from sparseflow.passes.pipelines import parse_pipeline as parse_pipeline
    from sparseflow.passes.pipelines import run_pipeline as run_pipeline

__all__ = ["Pass", "Timing", "format_pipeline", "named_pipeline", "parse_pipeline", "run_pipeline"]

__getattr__, __dir__ = lazy.names(
    globals(), {name: "base" if name == "Pass" else "pipelines" for name in __all__}
)
