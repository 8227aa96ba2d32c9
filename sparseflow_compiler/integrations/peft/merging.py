"""Find the adapted layers of a PEFT model, check that their adapters can be merged, and merge them."""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftMixedModel, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import nn

from sparseflow.errors import ArgumentError, FinetuneError
from sparseflow.nn.linear import SparseLinear

_PREFIX = "base_model.model."


def adapted(model: nn.Module) -> dict[str, nn.Module]:
    """Return the base layers of all adapters, by their names in the plain model.

    Raises:
        ArgumentError: the model isn't a PEFT model, or has prompts instead of adapters.
    """
    if not isinstance(model, PeftModel | PeftMixedModel) or not isinstance(model.base_model, BaseTuner):
        raise ArgumentError(
            "sf.integrations.peft.merge_adapters(model)",
            f"expected a PEFT model with adapters, got {type(model).__name__}",
            "pass what get_peft_model or PeftModel.from_pretrained returned",
        )
    return {name: layer.get_base_layer() for name, layer in _tuned(model)}


def require_mergeable(model: nn.Module, adapters: Sequence[str] | None) -> None:
    """Refuse adapters that can't be merged, or would lose a weight's zeros, before anything changes.

    Raises:
        ArgumentError: there is one; the error names the layer or the adapter.
    """
    known = list(model.peft_config)  # type: ignore[arg-type]
    for name in adapters or ():
        if name not in known:
            rule = f"the model has no adapter {name!r}; it has {', '.join(map(repr, known))}"
            raise ArgumentError(f"sf.integrations.peft.merge_adapters(adapters=[{name!r}])", rule)
    for name, layer in _tuned(model):
        _require_layer(name, layer, adapters)


def merge(model: nn.Module, adapters: Sequence[str] | None) -> nn.Module:
    """Merge adapters with PEFT and return the plain model.

    Raises:
        FinetuneError: PEFT can't merge a layer, which the error names; those before it are merged already.
    """
    tuner: BaseTuner = model.base_model
    try:
        merged: nn.Module = tuner.merge_and_unload(
            safe_merge=True, adapter_names=None if adapters is None else list(adapters)
        )
    except Exception as error:  # kinds of adapters raise errors of their own
        left = next((name for name, _ in _tuned(model)), type(model).__name__)
        raise FinetuneError(
            f"layer {left}",
            f"PEFT can't merge its adapter: {error}",
            "load the model again and keep the adapter unmerged: sf.compile accepts adapters",
        ) from error
    return merged


def _require_layer(name: str, layer: BaseTunerLayer, adapters: Sequence[str] | None) -> None:
    base = layer.get_base_layer()
    if layer.merged and not isinstance(base, SparseLinear):
        raise ArgumentError(
            f"layer {name}",
            f"{', '.join(layer.merged_adapters)} was merged into it already, over its zeros",
            "call model.unmerge_adapter() first",
        )
    for adapter in adapters or layer.active_adapters:
        if getattr(layer, "lora_bias", {}).get(adapter) and getattr(base, "bias", None) is None:
            raise ArgumentError(
                f"layer {name}",
                f"the adapter {adapter!r} has a bias (lora_bias=True), but the base layer has none",
                "train it without lora_bias, or give the layer a bias of zeros",
            )


def _tuned(model: nn.Module) -> list[tuple[str, BaseTunerLayer]]:
    """Return PEFT's adapter layers by the names of their base layers."""
    return [
        (name.removeprefix(_PREFIX), module)
        for name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer)
    ]
