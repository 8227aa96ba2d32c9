"""Names of packed layers and their values, in a checkpoint and in a model that is being loaded."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sparseflow.integrations.transformers.plugin.quantizer_api import WeightRenaming
from sparseflow.nn.linear import VALUES
from sparseflow.runtime.formats import find

IN_MODULE = f"{VALUES}.{find('2:4').part_names[0]}"


class PackedNames(WeightRenaming):  # type: ignore[misc]
    """The values of a packed layer are its ``weight`` in a checkpoint, its ``weight.values`` in the module.

    Args:
        layers: that are packed.
    """

    __slots__ = ("_layers",)

    def __init__(self, layers: Iterable[str]) -> None:
        super().__init__(VALUES, IN_MODULE)
        self._layers = frozenset(layers)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """The module's name of a checkpoint's tensor, and which pattern matched."""
        layer = source_key.removesuffix(f".{VALUES}")
        if layer == source_key or layer not in self._layers:
            return source_key, None
        self._was_used = True  # type: ignore[misc]  # a slot of the base
        return f"{layer}.{IN_MODULE}", VALUES

    def reverse_transform(self) -> PackedNames:
        """Nothing: layers name their tensors themselves when they are saved."""
        return PackedNames(())


def name_here(model: nn.Module, name: str) -> str:
    """A saved layer's name in this model, which may be the base of the saved one, or hold it as its base."""
    base = getattr(model, "base_model_prefix", "")
    names = (name, f"{base}.{name}", name.removeprefix(f"{base}."))
    modules = dict(model.named_modules())
    return next((found for found in names if found in modules), name)
