"""Load the dialects that SparseFlow works on into a context."""

from __future__ import annotations

from threading import Lock

from torch_mlir import ir
from torch_mlir._mlir_libs import _mlir
from torch_mlir.dialects import torch as torch_dialect

from sparseflow.dialect.sparse_gemm import SparseGemm

# The bindings search for a dialect's module at every access to one of its operations, until they find it.
_mlir.globals.append_dialect_search_prefix("sparseflow.dialect")

# Loading registers Python classes in tables that all contexts share.
_lock = Lock()


def load(context: ir.Context) -> None:
    """Make the Torch and the sparse_gemm dialect available in a context.

    Idempotent, and safe for threads that load into contexts of their own at the same time. Multithreading of
    the context is turned off.
    """
    # MLIR would run the verifiers, which are in Python, on its own threads. Those wait for the GIL, which the
    # parsing thread holds while it waits for them: a module of two functions deadlocks.
    context.enable_multithreading(False)
    with _lock, context, ir.Location.unknown():
        if not context.is_dialect_loaded(SparseGemm.DIALECT_NAMESPACE):
            torch_dialect.register_dialect(context)
            SparseGemm.load()
