"""Capture modules with torch.export and import them to MLIR, with weights by reference.

    captured = capture(model, args, kwargs)             # CapturedProgram
    captured.accepts(args, kwargs)                      # None, or why this program can't serve that call
    imported = import_program(captured, context)        # ImportedProgram: module, weights, signature
    graph = sparseflow.lowering.to_fx(imported.module, weights)
    run = Executable(graph, imported.signature, captured.call_signature, buffers)
    run(*args, **kwargs)                                # the model's own output types and side effects

To flatten a call once for many programs: `call = captured.flatten(args, kwargs)`, then
`captured.accepts_flat(call)` and `run.run_flat(call)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.frontend.capture import capture
from sparseflow.frontend.program import CapturedProgram
from sparseflow.frontend.weight_source import WeightSource
from sparseflow.runtime.calling.executable import Executable
from sparseflow.runtime.calling.signature import Result, ResultKind, Signature
from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.frontend.importer import ImportedProgram, import_program

__all__ = [
    "CapturedProgram",
    "Executable",
    "ImportedProgram",
    "Result",
    "ResultKind",
    "Signature",
    "WeightSource",
    "capture",
    "import_program",
]


# They need torch_mlir.
__getattr__, __dir__ = lazy.names(globals(), {"ImportedProgram": "importer", "import_program": "importer"})
