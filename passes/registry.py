"""The registry of passes."""

from __future__ import annotations

import difflib
from importlib import import_module

from sparseflow.errors import PassError
from sparseflow.passes.base import Pass

PASSES = {
    "drop-true-masks": "sparseflow.passes.drop_true_masks:DropTrueMasks",
    "causal-attention": "sparseflow.passes.causal_attention:CausalAttention",
    "form-decode-attention": "sparseflow.passes.form_decode_attention:FormDecodeAttention",
    "canonicalize-linear": "sparseflow.passes.canonicalize_linear:CanonicalizeLinear",
    "keep-dense": "sparseflow.passes.keep_dense:KeepDense",
    "mark-patterns": "sparseflow.passes.mark_patterns:MarkPatterns",
    "form-column-linear": "sparseflow.passes.form_column_linear:FormColumnLinear",
    "form-contextual-mlp": "sparseflow.passes.form_contextual_mlp:FormContextualMlp",
    "match-sparse-linear": "sparseflow.passes.match_sparse_linear:MatchSparseLinear",
    "explain-products": "sparseflow.passes.explain_products:ExplainProducts",
    "merge-projections": "sparseflow.passes.merge_projections:MergeProjections",
    "fuse-epilogue": "sparseflow.passes.fuse_epilogue:FuseEpilogue",
    "choose-format": "sparseflow.passes.choose_format:ChooseFormat",
    "fuse-gate": "sparseflow.passes.fuse_gate:FuseGate",
    "pack-head": "sparseflow.passes.pack_head:PackHead",
    "apply-policy": "sparseflow.passes.apply_policy:ApplyPolicy",
    "lower-column-linear": "sparseflow.passes.lower_column_linear:LowerColumnLinear",
    "lower-contextual-mlp": "sparseflow.passes.lower_contextual_mlp:LowerContextualMlp",
    "lower-sparse-gemm": "sparseflow.passes.lower_sparse_gemm:LowerSparseGemm",
    "lower-decode-attention": "sparseflow.passes.lower_decode_attention:LowerDecodeAttention",
}
"""The module and class of each pass, by name; imported on first use."""


def pass_class(name: str) -> type[Pass]:
    """Return the class of a pass.

    Raises:
        PassError: there is no such pass.
    """
    if name not in PASSES:
        raise unknown_pass(name)
    module, _, attribute = PASSES[name].partition(":")
    found: type[Pass] = getattr(import_module(module), attribute)
    return found


def unknown_pass(name: str) -> PassError:
    """Return the error for an unknown pass."""
    close = difflib.get_close_matches(name, PASSES, n=1)
    hint = f"Did you mean '{close[0]}'? " if close else ""
    return PassError(
        f"pass '{name}'", "is unknown", f"{hint}`sparseflow-opt --list-passes` lists all passes."
    )
