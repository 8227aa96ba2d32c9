"""Loading the dialects that SparseFlow works on into a context."""

from __future__ import annotations

from threading import Lock

from sparseflow.dialect.base import SparseGemm
from torch_mlir import ir
from torch_mlir.dialects import torch as torch_dialect

# Loading registers Python classes in tables that all contexts share.
_lock = Lock()


def load(context: ir.Context) -> None:
    """Make the Torch and the sparse_gemm dialect available in a context.

    Doing it again changes nothing; several threads may load into their contexts at once.
    """
    with _lock, context, ir.Location.unknown():
        if not context.is_dialect_loaded(SparseGemm.DIALECT_NAMESPACE):
            torch_dialect.register_dialect(context)
            SparseGemm.load()
