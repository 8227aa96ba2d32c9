"""Let transformers save and load models whose layers were replaced by packed ones in place."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.plugin.registration import METHOD
from sparseflow.nn.linear import SparseLinear


def require_unquantised(model: nn.Module) -> None:
    """Refuse to pack layers of a model that another quantizer saves.

    Raises:
        ArgumentError: there is another quantizer; the error names it.
    """
    for module in _pretrained(model):
        method = getattr(module, "quantization_method", None)
        if getattr(module, "hf_quantizer", None) is not None and method != METHOD:
            raise ArgumentError(
                f"{type(module).__name__}",
                f"it was quantised by {str(method)!r}, which can't save packed layers",
                "load the model in 16 or 32 bits",
            )


def attach_quantizer(model: nn.Module, options: Mapping[str, Any]) -> None:
    """Attach SparseFlow's quantizer, so that ``save_pretrained`` records which layers are packed.

    Args:
        model: with packed layers; a transformers model, or one that contains some, or neither.
        options: of `SparseFlowConfig`.
    """
    for module in _pretrained(model):
        if not any(isinstance(part, SparseLinear) for part in module.modules()):
            continue
        # Imported late: it needs transformers, which only such a model has imported.
        from sparseflow.integrations.transformers.plugin.quantizer import (
            SparseFlowConfig,
            SparseFlowQuantizer,
        )

        config = SparseFlowConfig(**options)
        config.note_layers(module)
        module.hf_quantizer = SparseFlowQuantizer(config, pre_quantized=True)
        module.quantization_method = METHOD  # type: ignore[assignment]
        module.config.quantization_config = module.hf_quantizer.quantization_config  # type: ignore[union-attr]


def detach_quantizer(model: nn.Module) -> None:
    """Undo `attach_quantizer` for a model without packed layers."""
    for module in _pretrained(model):
        if getattr(module, "quantization_method", None) == METHOD:
            module.hf_quantizer.remove_quantization_config(module)  # type: ignore[union-attr,operator]


def _pretrained(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost transformers models in a module; those inside them share their configuration."""
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:
        return
    found: list[str] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, library.PreTrainedModel) and not inside:
            found.append(name)
            yield module
