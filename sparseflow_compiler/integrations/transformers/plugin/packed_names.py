"""Map the names of packed layers between a checkpoint and a model that is being loaded."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sparseflow.integrations.transformers.plugin.quantizer_api import WeightRenaming
from sparseflow.nn.linear import VALUES
from sparseflow.runtime.formats import find

IN_MODULE = f"{VALUES}.{find('2:4').part_names[0]}"


class PackedNames(WeightRenaming):  # type: ignore[misc]
    """Rename ``weight`` of packed layers in a checkpoint to ``weight.values`` in the module.

    Args:
        layers: names of the packed layers.
    """

    __slots__ = ("_layers",)

    def __init__(self, layers: Iterable[str]) -> None:
        super().__init__(VALUES, IN_MODULE)
        self._layers = frozenset(layers)

    def rename_source_key(self, source_key: str) -> tuple[str, str | None]:
        """Return the module's name of a checkpoint's tensor, and the pattern that matched or None."""
        layer = source_key.removesuffix(f".{VALUES}")
        if layer == source_key or layer not in self._layers:
            return source_key, None
        self._was_used = True  # type: ignore[misc]  # a slot of the base
        return f"{layer}.{IN_MODULE}", VALUES

    def reverse_transform(self) -> PackedNames:
        """Return a renaming of nothing: layers choose the names of their tensors when they are saved."""
        return PackedNames(())


def local_name(model: nn.Module, name: str) -> str:
    """Return a saved layer's name in this model, which may be the saved model's base or have it as base."""
    base = getattr(model, "base_model_prefix", "")
    names = (name, f"{base}.{name}", name.removeprefix(f"{base}."))
    modules = dict(model.named_modules())
    return next((found for found in names if found in modules), name)
