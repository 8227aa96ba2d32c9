"""PEFT told of packed layers, without importing it: ``import sparseflow`` does it.

PEFT has a table of custom layers, but one in each configuration, which users would have to fill in.
So its two functions that choose are wrapped: which modules are linear, and what adapts one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from sparseflow.integrations.imports import when_imported

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig
    from torch import nn

_LORA = "peft.tuners.lora.model"
_ALL_LINEAR = "all-linear"


def register() -> None:
    """Tell PEFT now if it is imported, else as soon as it is."""
    when_imported(_LORA, _tell)


def _tell(lora: ModuleType) -> None:
    create = lora.LoraModel._create_new_module
    if hasattr(create, "of_sparseflow"):
        return
    lora.LoraModel._create_new_module = staticmethod(_creating(create))
    utils = sys.modules["peft.tuners.tuners_utils"]
    utils._maybe_include_all_linear_layers = _including(utils._maybe_include_all_linear_layers)  # type: ignore[attr-defined]


def _creating(create: Callable[..., object]) -> Callable[..., object]:
    """What makes the layer in place of another, for packed ones too."""

    @functools.wraps(create)
    def create_new_module(
        lora_config: LoraConfig, adapter_name: str, target: nn.Module, **options: object
    ) -> object:
        adapted: Callable[[], nn.Module] | None = getattr(target, "get_base_layer", None)
        base = target if adapted is None else adapted()
        # A class that the user registered for them goes first.
        if not _is_packed(base) or isinstance(base, tuple(lora_config._custom_modules or ())):
            return create(lora_config, adapter_name, target, **options)
        from sparseflow.integrations.peft.layer import make

        return make(lora_config, adapter_name, target, **options)

    create_new_module.of_sparseflow = True  # type: ignore[attr-defined]
    return create_new_module


def _including(include: Callable[..., PeftConfig]) -> Callable[..., PeftConfig]:
    """What finds the modules that ``target_modules="all-linear"`` means, with packed ones among them."""

    @functools.wraps(include)
    def include_all_linear(peft_config: PeftConfig, model: nn.Module) -> PeftConfig:
        asked = getattr(peft_config, "target_modules", None)
        peft_config = include(peft_config, model)
        if isinstance(asked, str) and asked.lower() == _ALL_LINEAR:
            adapted = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
            peft_config.target_modules |= {
                name
                for name, module in model.named_modules()
                if _is_packed(module) and not any(name.startswith(f"{layer}.") for layer in adapted)
            }
        return peft_config

    return include_all_linear


def _is_packed(module: object) -> bool:
    # Whoever holds a packed layer has imported it.
    found = sys.modules.get("sparseflow.nn.linear")
    return found is not None and isinstance(module, found.SparseLinear)
