"""Merge adapters into a pruned model that stays 2:4."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError
from sparseflow.finetune.masks import dropped, pruned_layers
from sparseflow.nn.linear import SparseLinear
from sparseflow.pruning.linear_layers import Layer
from sparseflow.runtime.calling.frozen import require_uncompiled


def merge_adapters(model: nn.Module, *, adapters: Sequence[str] | None = None) -> nn.Module:
    """Merge PEFT adapters into their base layers in place, keeping 2:4 weights 2:4.

    A 2:4 weight W becomes mask ⊙ (W + scale · B · A), where the mask keeps the two positions of each group of
    four that W keeps; likewise with 4:6 and 6:8. What an adapter adds elsewhere is dropped, so the merged
    model differs from the adapted one: evaluate it, or finetune under `sparseflow.finetune.masked`. Layers
    without a pattern are merged in full, packed ones (`sparseflow.nn.SparseLinear`) are packed again. For
    adapters other than LoRA, the weight that PEFT merged is masked.

        plain = sf.integrations.peft.merge_adapters(get_peft_model(pruned, config))

    Args:
        model: what ``get_peft_model`` or ``PeftModel.from_pretrained`` returned; don't use it afterwards.
        adapters: names of the adapters to merge, all into one weight; by default the active ones.

    Returns:
        The plain model, as PEFT's ``merge_and_unload`` does.

    Raises:
        ArgumentError: the model has no PEFT adapters, or none of the adapted layers is 2:4, 4:6 or 6:8
            (adapters that are initialised from a decomposition of W, such as PiSSA, rewrite it); an adapter
            is unknown, merged already, or has a bias but the layer has none. The model is unchanged.
        FinetuneError: PEFT can't merge a layer's adapter; the layers before it are merged already.
    """
    require_uncompiled(model, "sf.integrations.peft.merge_adapters(model)")
    if "peft" not in sys.modules:  # a PEFT model can't exist without its import
        rule = f"{type(model).__name__} is not a PEFT model"
        raise ArgumentError(
            "sf.integrations.peft.merge_adapters(model)", rule, "pass what get_peft_model returned"
        )
    from sparseflow.integrations.peft import merging

    bases = merging.adapted(model)
    merging.require_mergeable(model, adapters)
    masks = _masks(model, bases.values())
    if not masks and not any(isinstance(base, SparseLinear) for base in bases.values()):
        raise ArgumentError(
            "sf.integrations.peft.merge_adapters(model)",
            f"none of the {len(bases)} adapted layers is 2:4, 4:6 or 6:8",
            "prune the model before adapting it: sf.prune(model, …); or merge in full: merge_and_unload()",
        )
    merged = merging.merge(model, adapters)
    with torch.no_grad():
        for layer, zeros in masks:
            layer.module.weight.masked_fill_(zeros, 0)  # type: ignore[operator]
    return merged


def _masks(model: nn.Module, bases: Iterable[nn.Module]) -> list[tuple[Layer, Tensor]]:
    """Return the pruned layers among the given ones, each with the positions that stay zero."""
    wanted = set(bases)
    return [(layer, dropped(layer)) for layer in pruned_layers(model).values() if layer.module in wanted]
