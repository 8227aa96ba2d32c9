"""Resolve the weights of a lowered graph by name, and register each once, shared and not copied."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import fx, nn

from sparseflow.errors import LoweringError
from sparseflow.runtime.formats import find


class Packed(nn.Module):
    """The interface of a provider's packed weights, whose buffers are named as their format's parts."""

    dense: torch.Tensor | None
    turned: torch.Tensor | None

    def keep_dense(self) -> None:
        """Keep the dense form [N, K] as `dense` too."""
        raise NotImplementedError

    def keep_turned(self) -> None:
        """Keep the contiguous transpose [K, N] as `turned` too."""
        raise NotImplementedError


class WeightProvider(Protocol):
    """Resolves the names in `sparse_gemm.weight` and the other operations over weights by reference.

    `transposed` says for each name whether that matrix is read with its dimensions exchanged; empty if none
    is.
    """

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ...) -> torch.Tensor:
        """Return the rows of the named tensors, concatenated in order."""

    def contiguous(self, name: str, transposed: bool) -> torch.Tensor:
        """Return the named matrix, contiguous."""

    def columns(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ...) -> torch.Tensor:
        """Return the transpose of what `dense` returns, contiguous."""

    def packed(self, names: tuple[str, ...], transposed: tuple[bool, ...], format: str) -> nn.Module:
        """Return the rows of the named tensors in a format, as a module like `Packed`."""


class DenseWeights:
    """A provider over plain tensors, for programs without packed weights."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> torch.Tensor:
        """Return the named tensor itself, or several concatenated."""
        turned = transposed or (False,) * len(names)
        tensors = [
            self._tensors[n].t() if t else self._tensors[n] for n, t in zip(names, turned, strict=True)
        ]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def contiguous(self, name: str, transposed: bool) -> torch.Tensor:
        """Return the named matrix itself if it is contiguous, else a copy."""
        return self.dense((name,), (transposed,)).contiguous()

    def columns(self, names: tuple[str, ...], transposed: tuple[bool, ...] = ()) -> torch.Tensor:
        """Return the transpose of what `dense` returns, contiguous."""
        return self.dense(names, transposed).t().contiguous()

    def packed(self, names: tuple[str, ...], transposed: tuple[bool, ...], format: str) -> nn.Module:
        """Refuse: plain tensors have no packed form.

        Raises:
            LoweringError: always.
        """
        raise LoweringError(
            ", ".join(names), "DenseWeights has no packed weights", "lower with a provider that packs them"
        )


class WeightRegistry:
    """Registers weights on the module that holds a graph.

    Dense weights become buffers, detached so that running records no gradients. Packed weights become
    submodules, which programs share.
    """

    def __init__(self, root: nn.Module, weights: WeightProvider) -> None:
        self._root = root
        self._weights = weights
        self._attributes: dict[tuple[str, tuple[str, ...], tuple[bool, ...]], str] = {}

    def dense(self, names: tuple[str, ...], transposed: tuple[bool, ...]) -> str:
        """Return the attribute that holds the dense weight."""
        key = ("dense", names, transposed)
        if key not in self._attributes:
            attribute = self._unused(names)
            tensor = self._weights.dense(names, transposed) if transposed else self._weights.dense(names)
            self._root.register_buffer(attribute, tensor.detach())
            self._attributes[key] = attribute
        return self._attributes[key]

    def contiguous(self, name: str, transposed: bool) -> str:
        """Return the attribute that holds a contiguous matrix."""
        key = ("contiguous", (name,), (transposed,))
        if key not in self._attributes:
            attribute = self._unused((name,))
            self._root.register_buffer(attribute, self._weights.contiguous(name, transposed).detach())
            self._attributes[key] = attribute
        return self._attributes[key]

    def columns(self, names: tuple[str, ...], transposed: tuple[bool, ...]) -> str:
        """Return the attribute that holds the contiguous transpose of the dense weight."""
        key = ("columns", names, transposed)
        if key not in self._attributes:
            attribute = self._unused(names)
            self._root.register_buffer(attribute, self._weights.columns(names, transposed).detach())
            self._attributes[key] = attribute
        return self._attributes[key]

    def packed(self, names: tuple[str, ...], transposed: tuple[bool, ...], stored: str) -> list[str]:
        """Return the attributes that hold the tensors of a weight in a format."""
        attribute = self._holder(names, transposed, stored)
        return [f"{attribute}.{part}" for part in find(stored).part_names]

    def pruned(self, names: tuple[str, ...], transposed: tuple[bool, ...], stored: str) -> str:
        """Return the attribute that holds the dense form of a weight in a format."""
        attribute = self._holder(names, transposed, stored)
        cast(Packed, self._root.get_submodule(attribute)).keep_dense()
        return f"{attribute}.dense"

    def turned(self, names: tuple[str, ...], transposed: tuple[bool, ...], stored: str) -> str:
        """Return the attribute that holds the transpose of that dense form, contiguous."""
        attribute = self._holder(names, transposed, stored)
        cast(Packed, self._root.get_submodule(attribute)).keep_turned()
        return f"{attribute}.turned"

    def _holder(self, names: tuple[str, ...], transposed: tuple[bool, ...], stored: str) -> str:
        key = (stored, names, transposed)
        if key not in self._attributes:
            attribute = self._unused((*names, "packed"))
            self._root.add_module(attribute, self._weights.packed(names, transposed, stored))
            self._attributes[key] = attribute
        return self._attributes[key]

    def literal(self, tensor: torch.Tensor) -> str:
        """Return the attribute that holds a tensor which belongs to this graph alone."""
        attribute = self._unused(("literal",))
        self._root.register_buffer(attribute, tensor)
        return attribute

    def _unused(self, names: tuple[str, ...]) -> str:
        base = re.sub(r"\W", "_", "__".join(names))
        base = f"_{base}" if base[0].isdigit() else base
        count = 1
        attribute = base
        while hasattr(self._root, attribute):
            count += 1
            attribute = f"{base}_{count}"
        return attribute


def packed_module(root: nn.Module, values: object) -> nn.Module | None:
    """Return the packed weight whose part a node of a lowered graph reads; None for any other node."""
    if not isinstance(values, fx.Node) or values.op != "get_attr":
        return None
    return root.get_submodule(str(values.target).rpartition(".")[0])
