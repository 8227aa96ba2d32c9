"""Decide which weights pruning changes, for `sparseflow.prune` and `sparseflow.compile(prune=…)` alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True)
class Prunable:
    """What pruning does with the parameters of a model, by every name that they have.

    Attributes:
        layers: the weights that it changes, and whether each is the transpose of its layer's ``[N, K]``.
        kept: the parameters that it leaves as they are, and why.
    """

    layers: dict[str, bool] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module) -> Prunable:
        """Read it off a model's modules, as they are now."""
        found, owners = cls(), owners_of(model)
        layers: dict[int, tuple[bool, str | None]] = {}
        for name, module in model.named_modules():
            if is_layer(module) and (weight := module._parameters.get("weight")) is not None:
                layers.setdefault(id(weight), (is_conv1d(module), why_kept(name, module, owners)))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            holder = type(model.get_submodule(name.rpartition(".")[0])).__name__
            other = False, f"it is a parameter of {holder}, not the weight of an nn.Linear"
            transposed, reason = layers.get(id(parameter), other)
            if reason is None:
                found.layers[name] = transposed
            else:
                found.kept[name] = reason
        return found

    def rename(self, names: Mapping[str, str]) -> Prunable:
        """Return the entries of some parameters under new names, given a mapping from old to new names."""
        return Prunable(
            {new: self.layers[old] for old, new in names.items() if old in self.layers},
            {new: self.kept[old] for old, new in names.items() if old in self.kept},
        )

    def add(self, other: Prunable) -> None:
        """Add the entries of other parameters."""
        self.layers.update(other.layers)
        self.kept.update(other.kept)
