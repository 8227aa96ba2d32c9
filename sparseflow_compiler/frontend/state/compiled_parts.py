"""Compiled models as parts of a model: a capture takes the eager ones behind them."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from sparseflow.frontend.state.kinds import cell_content, function_cells
from sparseflow.runtime.calling.inference import InferenceModule


def eager_forward(model: nn.Module) -> Any:
    """The `forward` of a model from before that of a compiled form was put in its place."""
    if "forward" not in vars(model):
        return model.forward
    found = own_forward(model)
    return types.MethodType(type(model).forward, model) if found is None else found


def own_forward(model: nn.Module) -> object:
    """The `forward` that a model has as an attribute, not counting one that runs a compiled form of it."""
    found = vars(model).get("forward")
    while (compiled := compiled_form(found, model)) is not None:
        found = compiled.replaced_forward
    return found


def compiled_form(forward: object, model: nn.Module) -> InferenceModule | None:
    """The compiled form of a model that a function leads to."""
    return next((part for part in _reached(forward, set()) if part.runs(model)), None)


def _reached(value: object, seen: set[int]) -> Iterator[InferenceModule]:
    """The compiled models that a function is a method of, or has among its arguments and variables."""
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
