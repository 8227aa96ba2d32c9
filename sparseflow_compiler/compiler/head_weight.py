"""Find the weight of a language model's head: what makes logits of the last hidden state."""

from __future__ import annotations

from collections.abc import Container
from fnmatch import fnmatchcase

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.support.arguments import HEADS


def head_weight(model: nn.Module, known: Container[str] | None = None) -> str:
    """Return the name of the weight of a model's head.

    Args:
        model: has a module that one of `HEADS` names.
        known: the names that a program knows; a tied weight has several, and programs one of them.

    Raises:
        ArgumentError: the model has no such module, or none with a matrix.
    """
    for path, module in model.named_modules(remove_duplicate=False):
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and any(fnmatchcase(path, pattern) for pattern in HEADS):
            named = model.named_parameters(remove_duplicate=False)
            names = [name for name, parameter in named if parameter is weight]
            return next((name for name in names if known is None or name in known), names[0])
    raise ArgumentError(
        "sf.compile(lm_head=…)",
        f"{type(model).__name__} has no layer called {' or '.join(HEADS)}",
        "leave lm_head out; a layer of another name can be pruned and packed as any other",
    )
