"""SparseFlow: a compiler that makes PyTorch models faster with structured sparsity.

    import sparseflow as sf

    dense = copy.deepcopy(model)
    sf.prune(model, "sparsegpt", calibration=batches)     # in place, by some tens of typical batches
    print(sf.evaluation.agreement(model, dense, tokens))  # what it cost
    compiled = sf.compile(model)                          # captures on the first call, like torch.compile
    y = compiled(x)
    print(compiled.report)

Names are imported on first use: ``import sparseflow`` itself imports neither torch nor MLIR. It tells
transformers how to read packed folders, and PEFT how to adapt packed layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.integrations.peft import registration as _peft
from sparseflow.integrations.transformers.plugin import registration as _transformers
from sparseflow.support import lazy
from sparseflow.support.version import __version__ as __version__

if TYPE_CHECKING:
    from sparseflow import checkpoints as checkpoints
    from sparseflow import evaluation as evaluation
    from sparseflow import finetune as finetune
    from sparseflow import integrations as integrations
    from sparseflow import nn as nn
    from sparseflow.api.compile import compile as compile  # noqa: A004
    from sparseflow.api.compiled import CompiledModel as CompiledModel
    from sparseflow.api.load import load as load
    from sparseflow.api.sparsify import sparsify as sparsify
    from sparseflow.api.tune import tune as tune
    from sparseflow.contextual import ActivationThresholds as ActivationThresholds
    from sparseflow.contextual import Predictors as Predictors
    from sparseflow.contextual import calibrate_activations as calibrate_activations
    from sparseflow.contextual import train_predictor as train_predictor
    from sparseflow.errors import QualityWarning as QualityWarning
    from sparseflow.errors import SparseFlowError as SparseFlowError
    from sparseflow.finetune import recover as recover
    from sparseflow.profiling import profile as profile
    from sparseflow.pruning import prune as prune
    from sparseflow.runtime import PackedWeight as PackedWeight
    from sparseflow.runtime import Pattern as Pattern
    from sparseflow.runtime import compress_2_4 as compress_2_4
    from sparseflow.runtime import is_24 as is_24
    from sparseflow.runtime import pattern_of as pattern_of
    from sparseflow.runtime import prune_24 as prune_24
    from sparseflow.runtime import sparse_mm as sparse_mm
    from sparseflow.support.arguments import DEFAULT_SKIP as DEFAULT_SKIP

_EXPORTS = {
    "ActivationThresholds": "contextual",
    "CompiledModel": "api.compiled",
    "DEFAULT_SKIP": "support.arguments",
    "PackedWeight": "runtime",
    "Pattern": "runtime",
    "Predictors": "contextual",
    "QualityWarning": "errors",
    "SparseFlowError": "errors",
    "calibrate_activations": "contextual",
    "compile": "api.compile",
    "compress_2_4": "runtime",
    "is_24": "runtime",
    "load": "api.load",
    "pattern_of": "runtime",
    "profile": "profiling",
    "prune": "pruning",
    "prune_24": "runtime",
    "recover": "finetune",
    "sparse_mm": "runtime",
    "sparsify": "api.sparsify",
    "train_predictor": "contextual",
    "tune": "api.tune",
}

_PACKAGES = ("checkpoints", "evaluation", "finetune", "integrations", "nn")

__all__ = sorted((*_EXPORTS, *_PACKAGES))

_peft.register()
_transformers.register()


__getattr__, __dir__ = lazy.names(globals(), _EXPORTS, _PACKAGES)
