"""SparseFlow: a compiler that makes PyTorch models faster with structured sparsity.

    import sparseflow as sf

    sf.prune(model)                   # by magnitude; better with calibration data
    compiled = sf.compile(model)      # captures on the first call, like torch.compile
    y = compiled(x)
    print(compiled.report.table())

Names are imported on first use: ``import sparseflow`` itself imports neither torch nor MLIR. It tells
transformers how to read packed folders, and PEFT how to adapt packed layers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparseflow.integrations.peft import registration as _peft
from sparseflow.integrations.transformers import registration as _transformers

if TYPE_CHECKING:
    from sparseflow import evaluation as evaluation
    from sparseflow import finetune as finetune
    from sparseflow import interop as interop
    from sparseflow import nn as nn
    from sparseflow.api.compile import compile as compile  # noqa: A004
    from sparseflow.api.compiled import CompiledModel as CompiledModel
    from sparseflow.api.load import load as load
    from sparseflow.api.options import DEFAULT_SKIP as DEFAULT_SKIP
    from sparseflow.api.tune import tune as tune
    from sparseflow.contextual import Predictors as Predictors
    from sparseflow.contextual import train_predictor as train_predictor
    from sparseflow.errors import SparseFlowError as SparseFlowError
    from sparseflow.profiling import profile as profile
    from sparseflow.pruning import prune as prune
    from sparseflow.runtime import PackedWeight as PackedWeight
    from sparseflow.runtime import compress_2_4 as compress_2_4
    from sparseflow.runtime import is_24 as is_24
    from sparseflow.runtime import prune_24 as prune_24
    from sparseflow.runtime import sparse_mm as sparse_mm

_EXPORTS = {
    "CompiledModel": "sparseflow.api.compiled",
    "DEFAULT_SKIP": "sparseflow.api.options",
    "PackedWeight": "sparseflow.runtime",
    "Predictors": "sparseflow.contextual",
    "SparseFlowError": "sparseflow.errors",
    "compile": "sparseflow.api.compile",
    "compress_2_4": "sparseflow.runtime",
    "is_24": "sparseflow.runtime",
    "load": "sparseflow.api.load",
    "profile": "sparseflow.profiling",
    "prune": "sparseflow.pruning",
    "prune_24": "sparseflow.runtime",
    "sparse_mm": "sparseflow.runtime",
    "train_predictor": "sparseflow.contextual",
    "tune": "sparseflow.api.tune",
}

_PACKAGES = ("evaluation", "finetune", "interop", "nn")

__all__ = sorted((*_EXPORTS, *_PACKAGES))
__version__ = "0.1.0"

_peft.register()
_transformers.register()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"sparseflow.{name}")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'sparseflow' has no attribute {name!r}")
    value = getattr(importlib.import_module(_EXPORTS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
