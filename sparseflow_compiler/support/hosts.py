"""Hooks for libraries that are notified when layers of a model are packed or unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Host(Protocol):
    """The notifications of a library."""

    def before_packing(self, model: nn.Module) -> None:
        """Refuse a model whose layers must not be packed."""
        ...

    def after_packing(self, model: nn.Module, options: Mapping[str, object]) -> None:
        """Handle packed layers, given the options of `sparseflow.nn.sparsify`."""
        ...

    def after_unpacking(self, model: nn.Module) -> None:
        """Handle that no layer is packed any more."""
        ...


HOSTS: list[Host] = []
"""Those that `import sparseflow` knows."""
