"""Loading the dialects that SparseFlow works on into a context."""

from __future__ import annotations

from threading import Lock

from torch_mlir import ir
from torch_mlir.dialects import torch as torch_dialect

from sparseflow.dialect.base import SparseGemm

# Loading registers Python classes in tables that all contexts share.
_lock = Lock()


def load(context: ir.Context) -> None:
    """Make the Torch and the sparse_gemm dialect available in a context.

    Doing it again changes nothing; several threads may load into their contexts at once. The context
    stops using threads of its own.
    """
    # Verifiers written in Python, called from MLIR's threads, would wait for the interpreter lock that
    # the thread which started them holds while it parses: a module of two functions hangs.
    context.enable_multithreading(False)
    with _lock, context, ir.Location.unknown():
        if not context.is_dialect_loaded(SparseGemm.DIALECT_NAMESPACE):
            torch_dialect.register_dialect(context)
            SparseGemm.load()
