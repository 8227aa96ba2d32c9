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

_WEIGHT_KEEPING_INITS = (True, False, "gaussian", "orthogonal")
"""Values of ``init_lora_weights`` that leave the weight of the base layer unchanged."""


class SparseLoraLinear(Linear):  # type: ignore[misc]  # peft is not typed
    """LoRA over a `SparseLinear`: ``y = sparse(x) + scale · B · A · x``, as PEFT's over an ``nn.Linear``.

    Merging adds ``scale · B · A`` at the positions that the packed weight stores, and drops the rest, so that
    the weight stays 2:4.

    Args:
        base_layer: the packed layer.
        adapter_name: name of the first adapter.
        config: PEFT's LoraConfig.
        options: further arguments of PEFT's own layer.

    Raises:
        ArgumentError: the configuration asks for a variant, such as DoRA, or an initialisation, such as
            PiSSA, that reads or rewrites the dense weight.
    """

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: LoraConfig, **options: object
    ) -> None:
        super().__init__(base_layer, adapter_name, config=config, **options)
        self.fan_in_fan_out = False  # the configuration may say otherwise for other layers of the model

    def update_layer(self, adapter_name: str, *sizes: object, config: LoraConfig, **options: object) -> None:
        """Add an adapter."""
        if config.init_lora_weights not in _WEIGHT_KEEPING_INITS:
            subject = f"LoraConfig(init_lora_weights={config.init_lora_weights!r})"
            raise _refusal(subject, "starts from the weight that it adapts")
        super().update_layer(adapter_name, *sizes, config=config, **options)

    def resolve_lora_variant(self, *, config: LoraConfig, **options: object) -> None:
        """Refuse every variant of LoRA; PEFT returns None for plain LoRA."""
        found = super().resolve_lora_variant(config=config, **options)
        if found is not None:
            kind = type(found).__name__.removesuffix("LinearVariant")
            raise _refusal(f"LoraConfig of variant {kind}", "reads the weight that it adapts")

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Add adapters to the packed weight, always with PEFT's safe merge: NaN and Inf can't be packed."""
        with self._unpacked():
            super().merge(safe_merge=True, adapter_names=adapter_names)

    def unmerge(self) -> None:
        """Subtract merged adapters from the packed weight, up to rounding."""
        with self._unpacked():
            super().unmerge()

    @contextmanager
    def _unpacked(self) -> Iterator[None]:
        """Within the block, replace the base layer by a dense one; pack its stored positions afterwards."""
        packed = self.get_base_layer()
        linear = densified(packed)
        stored = _stored_positions(packed.weight)
        self.base_layer = linear
        try:
            yield
        finally:
            self.base_layer = packed
        linear.weight.masked_fill_(~stored, 0)
        packed.weight.fill([compress_2_4(linear.weight).portable()])

    def _get_in_out_features(self, module: SparseLinear) -> tuple[int, int]:
        return module.in_features, module.out_features


def _stored_positions(weight: PackedWeight) -> Tensor:
    """Return which positions ``[N, K]`` are stored, including those that hold a zero; bool."""
    values, positions = weight.portable()
    places: Tensor = find("2:4").unpack((torch.ones_like(values), positions), weight.in_features) != 0
    return places


def make_lora_layer(
    config: object, adapter_name: str, target: nn.Module, **options: object
) -> SparseLoraLinear:
    """Create the LoRA layer over a packed layer.

    Raises:
        ArgumentError: PEFT is too old, or the configuration needs the dense weight.
    """
    if "config" not in inspect.signature(Linear.__init__).parameters:
        rule = "adapters over packed layers need PEFT 0.19 or newer"
        raise ArgumentError("peft", rule, "pip install -U peft")
    return SparseLoraLinear(target, adapter_name, config=config, **options)


def _refusal(subject: str, rule: str) -> ArgumentError:
    remedy = "use plain LoRA, or unpack first: sf.nn.densify(model)"
    return ArgumentError(subject, f"it {rule}, which is packed", remedy)
