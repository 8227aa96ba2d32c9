"""Layers over packed weights, for models that aren't compiled as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.nn.linear import SparseLinear, prepare
    from sparseflow.nn.replace import densify, sparsify

__all__ = ["SparseLinear", "densify", "prepare", "sparsify"]

__getattr__, __dir__ = lazy.names(
    globals(), {"SparseLinear": "linear", "densify": "replace", "prepare": "linear", "sparsify": "replace"}
)
