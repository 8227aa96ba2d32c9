"""Find the model to which the parameters of a graph's call belong, by walking the stack."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch._dynamo import OptimizedModule

from sparseflow.errors import InferenceOnlyError
from sparseflow.support.training_mode import trained_part


def find_owner(weights: Sequence[Tensor]) -> nn.Module | None:
    """Return the model with these weights that `torch.compile` was given, or the outermost being called."""
    wanted = set(map(id, weights))
    callers = [m for m in _callers() if not wanted.isdisjoint(map(id, m.parameters()))]
    compiled = [m._orig_mod for m in callers if isinstance(m, OptimizedModule)]
    return next(iter([*reversed(compiled), *reversed(callers)]), None)


def _callers() -> Iterator[nn.Module]:
    """Yield the modules with a method on the stack, innermost first."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        # Reading f_locals keeps all locals of a frame alive, so frames that aren't methods are skipped.
        if frame.f_code.co_varnames[:1] == ("self",):
            caller = frame.f_locals.get("self")
            if isinstance(caller, nn.Module):
                yield caller


def require_inference(owner: nn.Module | None, weights: Sequence[Tensor], grad: bool) -> None:
    """Refuse a model in training mode or, if the model is unknown, weights that require gradients.

    Raises:
        InferenceOnlyError: either; the error names the module.
    """
    if owner is None and grad and any(weight.requires_grad for weight in weights):
        raise InferenceOnlyError(
            "torch.compile(function, backend='sparseflow')",
            "weights require gradients, and the backend is for inference only",
            "call it under torch.no_grad(), or compile the module instead of a function that calls it",
        )
    if owner is not None and (name := trained_part(owner)) is not None:
        raise InferenceOnlyError(
            f"{type(owner).__name__}{'.' if name else ''}{name}",
            "the module is in training mode; SparseFlow compiles for inference only",
            "call model.eval() first",
        )
