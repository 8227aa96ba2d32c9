"""MLIR passes over the Torch and sparse_gemm dialects, one a file. Never imports torch.

Names are imported on first use: what passes there are can be asked without loading MLIR.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparseflow.passes.base import Pass as Pass
    from sparseflow.passes.pipelines import Timing as Timing
    from sparseflow.passes.pipelines import format_pipeline as format_pipeline
    from sparseflow.passes.pipelines import parse_pipeline as parse_pipeline
    from sparseflow.passes.pipelines import run_pipeline as run_pipeline

_HOME = {
    "Pass": "base",
    "Timing": "pipelines",
    "format_pipeline": "pipelines",
    "parse_pipeline": "pipelines",
    "run_pipeline": "pipelines",
}

__all__ = ["Pass", "Timing", "format_pipeline", "parse_pipeline", "run_pipeline"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
