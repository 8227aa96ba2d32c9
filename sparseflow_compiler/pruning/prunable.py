"""Decide which weights pruning changes, for `sparseflow.prune` and `sparseflow.compile(prune=…)` alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from sparseflow.integrations.transformers.models import is_conv1d
from sparseflow.runtime import checks

DTYPES = (*checks.NATIVE_DTYPES, torch.float64)

Owners = Mapping[int, Sequence[str]]
"""The names of the modules that hold a parameter, by the parameter's id."""


def is_layer(module: nn.Module) -> bool:
    """Return whether a module is a prunable kind: an `nn.Linear` or transformers' Conv1D."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def owners_of(model: nn.Module) -> Owners:
    """Return the modules that hold each parameter."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append(name)
    return owners


def why_kept(name: str, layer: nn.Module, owners: Owners) -> str | None:
    """Return why pruning leaves a layer's weight unchanged, or None.

    Args:
        name: of the layer in the model.
        layer: a module for which `is_layer` holds.
        owners: of the model's parameters.
    """
    weight = layer._parameters.get("weight")
    if weight is None:
        return "its weight is no parameter of its own"
    if weight.dtype not in DTYPES:
        return f"its weight's dtype is {str(weight.dtype).removeprefix('torch.')}"
    others = [owner for owner in owners[id(weight)] if owner != name]
    return f"its weight is shared with {', '.join(others)}" if others else None


def kept_weights(model: nn.Module) -> dict[str, str]:
    """Return the reason for each parameter that pruning leaves unchanged, under all its names."""
    owners = owners_of(model)
    reasons: dict[int, str | None] = {}
    for name, module in model.named_modules():
        if is_layer(module) and (weight := module._parameters.get("weight")) is not None:
            reasons.setdefault(id(weight), why_kept(name, module, owners))
    kept = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        holder = type(model.get_submodule(name.rpartition(".")[0])).__name__
        reason = reasons.get(id(parameter), f"it is a parameter of {holder}, not the weight of an nn.Linear")
        if reason is not None:
            kept[name] = reason
    return kept
