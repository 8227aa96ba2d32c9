"""Thresholds for made-up weights: those that leave out a share of each layer's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import LayerThreshold

TOKENS = 64
"""Random tokens that are read to look at the layers' inputs."""


def leaving_out(model: Any, rate: float) -> sf.ActivationThresholds:
    """Return thresholds below which a share of the inputs of each linear layer lies, but those of lm_head.

    Args:
        model: a causal language model of transformers.
        rate: the share.
    """
    found: dict[str, LayerThreshold] = {}
    ids = torch.randint(model.config.vocab_size, (1, TOKENS), device=model.device)
    with _watched(model, rate, found), torch.no_grad():
        model(ids, use_cache=False)
    return sf.ActivationThresholds(found)


@contextmanager
def _watched(model: nn.Module, rate: float, found: dict[str, LayerThreshold]) -> Iterator[None]:
    """Have the model's layers note their thresholds while the block runs."""

    def note(name: str, layer: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        threshold = float(torch.quantile(inputs[0].abs().float().flatten(), rate))
        found[name] = LayerThreshold(threshold, rate, 0.0, (layer.out_features, layer.in_features))

    hooks = [
        layer.register_forward_pre_hook(lambda layer, inputs, name=name: note(name, layer, inputs))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name != "lm_head"
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
