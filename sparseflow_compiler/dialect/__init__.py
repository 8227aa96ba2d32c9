"""The sparse_gemm dialect: its operations, their verifiers, and how to load it into a context."""

from __future__ import annotations

from sparseflow.dialect.column_linear import ColumnLinearOp
from sparseflow.dialect.contexts import load
from sparseflow.dialect.contextual_mlp import ContextualMlpOp
from sparseflow.dialect.decode_attention import DecodeAttentionOp
from sparseflow.dialect.linear import LinearOp
from sparseflow.dialect.merged_weight import MergedWeightOp
from sparseflow.dialect.packed_weight import PackedWeightOp
from sparseflow.dialect.pruned_weight import PrunedWeightOp
from sparseflow.dialect.types import TensorType
from sparseflow.dialect.weight import WeightOp

__all__ = [
    "ColumnLinearOp",
    "ContextualMlpOp",
    "DecodeAttentionOp",
    "LinearOp",
    "MergedWeightOp",
    "PackedWeightOp",
    "PrunedWeightOp",
    "TensorType",
    "WeightOp",
    "load",
]
