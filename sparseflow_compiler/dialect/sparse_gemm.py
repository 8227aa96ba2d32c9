"""The dialect, in a module of its name: where the bindings look for it."""

from __future__ import annotations

from torch_mlir.dialects import ext


class SparseGemm(ext.Dialect, name="sparse_gemm"):
    """Structured-sparse matrix products over weights by reference."""
