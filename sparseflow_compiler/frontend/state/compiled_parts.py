"""Resolve compiled models inside a model to their eager originals for capture."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator

from torch import nn

from sparseflow.frontend.state.kinds import cell_content, function_cells
from sparseflow.runtime.calling.inference import InferenceModule


def eager_forward(model: nn.Module) -> Callable[..., object]:
    """Return the `forward` that a model had before a compiled form replaced it."""
    if "forward" not in vars(model):
        return model.forward
    found = own_forward(model)
    return found if callable(found) else types.MethodType(type(model).forward, model)


def own_forward(model: nn.Module) -> object:
    """Return a model's instance attribute `forward`, unless it runs a compiled form of the model."""
    found = vars(model).get("forward")
    while (compiled := compiled_form(found, model)) is not None:
        found = compiled.replaced_forward
    return found


def compiled_form(forward: object, model: nn.Module) -> InferenceModule | None:
    """Return the compiled form of a model that a function refers to, or None."""
    return next((part for part in _reached(forward, set()) if part.runs(model)), None)


def _reached(value: object, seen: set[int]) -> Iterator[InferenceModule]:
    """Yield the compiled models that a function is bound to or refers to."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, InferenceModule):
        yield value
    parts: tuple[object, ...] = ()
    if isinstance(value, types.MethodType):
        parts = (value.__self__,)
    elif isinstance(value, functools.partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, types.FunctionType):
        parts = tuple(map(cell_content, function_cells(value)))
    for part in parts:
        yield from _reached(part, seen)
