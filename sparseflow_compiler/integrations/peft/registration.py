"""Make PEFT adapt packed layers; ``import sparseflow`` does it without importing PEFT.

PEFT has a table of custom layers, but one in each configuration, which users would have to fill in. So the
two functions that choose are wrapped: which modules count as linear, and which layer adapts a module.
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
    """Patch PEFT now if it is imported, else as soon as it is."""
    when_imported(_LORA, _patch)


def _patch(lora: ModuleType) -> None:
    create = lora.LoraModel._create_new_module
    if hasattr(create, "is_sparseflow_patch"):
        return
    lora.LoraModel._create_new_module = staticmethod(_with_packed_layers(create))
    utils = sys.modules["peft.tuners.tuners_utils"]
    utils._maybe_include_all_linear_layers = _with_packed_names(utils._maybe_include_all_linear_layers)  # type: ignore[attr-defined]


def _with_packed_layers(create: Callable[..., object]) -> Callable[..., object]:
    """Wrap PEFT's function that creates the adapter of a layer, so that it handles packed layers."""

    @functools.wraps(create)
    def create_new_module(
        lora_config: LoraConfig, adapter_name: str, target: nn.Module, **options: object
    ) -> object:
        adapted: Callable[[], nn.Module] | None = getattr(target, "get_base_layer", None)
        base = target if adapted is None else adapted()
        # A class that the user registered for packed layers takes precedence.
        if not _is_packed(base) or isinstance(base, tuple(lora_config._custom_modules or ())):
            return create(lora_config, adapter_name, target, **options)
        from sparseflow.integrations.peft.layer import make_lora_layer

        return make_lora_layer(lora_config, adapter_name, target, **options)

    create_new_module.is_sparseflow_patch = True  # type: ignore[attr-defined]
    return create_new_module


def _with_packed_names(include: Callable[..., PeftConfig]) -> Callable[..., PeftConfig]:
    """Wrap PEFT's function that resolves ``"all-linear"``, so that it includes packed layers."""

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
    # A packed layer can't exist without this import.
    found = sys.modules.get("sparseflow.nn.linear")
    return found is not None and isinstance(module, found.SparseLinear)
