"""The optimisers of a recovery."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, MissingDependencyError

Kind = Literal["adamw", "adamw-8bit", "adamw-offload"]

_LIBRARIES = {
    "adamw-8bit": (("bitsandbytes.optim", "AdamW8bit"), ("torchao.optim", "AdamW8bit")),
    "adamw-offload": (("torchao.optim", "CPUOffloadOptimizer"),),
}
"""Where each is found, the first that is installed."""
BETAS = (0.9, 0.95)
"""Squared gradients are forgotten sooner than by torch's 0.999. Those of the first steps, when the pruned
model is farthest from the dense one, are far greater than all later ones."""


def make_optimizer(kind: Kind, parameters: Sequence[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return an optimiser without weight decay.

    Args:
        kind: ``"adamw"``: torch's, whose state is two float32 values a weight, and which a CUDA graph may
            hold; ``"adamw-8bit"``: two bytes a weight, of bitsandbytes or torchao; ``"adamw-offload"``:
            torchao's, with the state in the host's memory. The latter two run on GPUs only.
        parameters: that it updates.
        lr: the highest learning rate.

    Raises:
        ArgumentError: the parameters are on a CPU, and the kind is for GPUs.
        MissingDependencyError: no library that has it is installed.
    """
    if kind == "adamw" and _on_gpu(parameters):
        rate = torch.tensor(lr, device=parameters[0].device)
        return torch.optim.AdamW(parameters, rate, BETAS, weight_decay=0.0, fused=True, capturable=True)
    if kind == "adamw":
        return torch.optim.AdamW(parameters, lr, BETAS, weight_decay=0.0)
    if not _on_gpu(parameters):
        rule = f"runs on GPUs only, not on {parameters[0].device}"
        raise ArgumentError(f"sf.recover(optimizer={kind!r})", rule, "leave it out")
    for module, name in _LIBRARIES[kind]:
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError):
            continue
        options: dict[str, object] = {"lr": lr, "betas": BETAS, "weight_decay": 0.0}
        made = (
            found(parameters, torch.optim.AdamW, **options)
            if kind == "adamw-offload"
            else found(parameters, **options)
        )
        return cast(torch.optim.Optimizer, made)
    libraries = " or ".join(module.partition(".")[0] for module, _ in _LIBRARIES[kind])
    raise MissingDependencyError(
        f"sf.recover(optimizer={kind!r})", f"needs {libraries}", f"pip install {libraries.split()[0]}"
    )


def why_not_capturable(optimizer: torch.optim.Optimizer) -> str:
    """Return why no CUDA graph can hold an optimiser's step; empty if one can."""
    if all(group.get("capturable") for group in optimizer.param_groups):
        return ""
    return f"{type(optimizer).__name__} can't be in a CUDA graph"


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a group of parameters, in place where it is a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def _on_gpu(parameters: Sequence[nn.Parameter]) -> bool:
    return parameters[0].device.type == "cuda"
