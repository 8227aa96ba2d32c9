"""Libraries whose models hold layers of ours: each is told when layers of a model are packed or unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import nn


class Host(Protocol):
    """What a library wants to know."""

    def before_packing(self, model: nn.Module) -> None:
        """Refuse a model whose layers must not be packed."""
        ...

    def after_packing(self, model: nn.Module, options: Mapping[str, object]) -> None:
        """Take note of packed layers, and of the options of `sparseflow.nn.sparsify`."""
        ...

    def after_unpacking(self, model: nn.Module) -> None:
        """Take note that no layer is packed any more."""
        ...


HOSTS: list[Host] = []
"""Those that `import sparseflow` knows."""
