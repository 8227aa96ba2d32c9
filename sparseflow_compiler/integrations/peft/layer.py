"""PEFT's LoRA over a packed 2:4 layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.nn.linear import SparseLinear
from sparseflow.nn.replace import densified
from sparseflow.runtime import PackedWeight, compress_2_4
from sparseflow.runtime.formats import find

if TYPE_CHECKING:
    from peft import LoraConfig

_STARTS = (True, False, "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that don't change the weight below."""


class SparseLoraLinear(Linear):  # type: ignore[misc]  # peft is not typed
    """``y = sparse(x) + scale · B · A · x`` over a `SparseLinear`, as PEFT has it over an ``nn.Linear``.

    Merging adds ``scale · B · A`` where the packed weight has a place, and drops the rest: it stays 2:4.

    Args:
        base_layer: the packed layer.
        adapter_name: of the first adapter.
        config: PEFT's LoraConfig.
        options: what PEFT passes besides.

    Raises:
        ArgumentError: the configuration asks for a variant, such as DoRA, or a start, such as PiSSA, that
            reads or rewrites the dense weight.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **options: object
    ) -> None:
        super().__init__(base_layer, adapter_name, config=config, **options)
        self.fan_in_fan_out = False  # of the weight below, whatever the configuration says of others

    def update_layer(self, adapter_name: str, *sizes: object, config: LoraConfig, **options: object) -> None:
        """Add an adapter."""
        if config.init_lora_weights not in _STARTS:
            start = f"LoraConfig(init_lora_weights={config.init_lora_weights!r})"
            raise _refused(start, "starts from the weight that it adapts")
        super().update_layer(adapter_name, *sizes, config=config, **options)

    def resolve_lora_variant(self, *, config: LoraConfig, **options: object) -> None:
        """Refuse every variant: plain LoRA is none of them."""
        found = super().resolve_lora_variant(config=config, **options)
        if found is not None:
            kind = type(found).__name__.removesuffix("LinearVariant")
            raise _refused(f"LoraConfig of variant {kind}", "reads the weight that it adapts")

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the packed weight; always safe, for a weight with NaN or Inf can't be packed."""
        with self._unpacked():
            super().merge(safe_merge=True, adapter_names=adapter_names)

    def unmerge(self) -> None:
        """Take merged adapters out of the packed weight again, to within rounding."""
        with self._unpacked():
            super().unmerge()

    @contextmanager
    def _unpacked(self) -> Iterator[None]:
        """Within the block a plain layer is below; what becomes of its 2:4 places is packed after it."""
        packed = self.get_base_layer()
        linear = densified(packed)
        kept = _kept(packed.weight)
        self.base_layer = linear
        try:
            yield
        finally:
            self.base_layer = packed
        linear.weight.masked_fill_(~kept, 0)
        packed.weight.fill([compress_2_4(linear.weight).portable()])

    def _get_in_out_features(self, module: SparseLinear) -> tuple[int, int]:
        return module.in_features, module.out_features


def _kept(weight: PackedWeight) -> Tensor:
    """Bool ``[N, K]``: the places that are stored, whatever values are in them."""
    values, positions = weight.portable()
    places: Tensor = find("2:4").unpack((torch.ones_like(values), positions), weight.in_features) != 0
    return places


def make(config: object, adapter_name: str, target: nn.Module, **options: object) -> SparseLoraLinear:
    """The layer in place of a packed one.

    Raises:
        ArgumentError: this PEFT is too old, or the configuration asks for what packed layers can't do.
    """
    if "config" not in inspect.signature(Linear.__init__).parameters:
        rule = "adapters over packed layers need 0.19 or newer, which makes layers otherwise"
        raise ArgumentError("peft", rule, "pip install -U peft")
    return SparseLoraLinear(target, adapter_name, config=config, **options)


def _refused(subject: str, rule: str) -> ArgumentError:
    remedy = "take plain LoRA, or unpack first: sf.nn.densify(model)"
    return ArgumentError(subject, f"it {rule}, which is packed", remedy)
