"""Thresholds for made-up weights: those that leave out a share of each layer's inputs in vLLM's decoding."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROMPT, TOKENS = 8, 16
"""Tokens that are read, and that are decoded to look at the layers' inputs."""


def write_thresholds(start: Callable[..., Any], path: Path, rate: float) -> None:
    """Decode with a dense engine and write thresholds below which a share of the inputs lies.

    Args:
        start: returns vLLM's engine, given further options.
        path: of the file to write.
        rate: the share.

    Raises:
        RuntimeError: no step of one token was seen.
    """
    import gc

    from _vllm_side import prompts, sampling
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

    llm = start(enforce_eager=True, max_num_seqs=1)
    llm.apply_model(functools.partial(_watch, rate=rate))
    llm.generate(prompts(1, PROMPT), sampling(TOKENS), use_tqdm=False)
    (found,) = llm.apply_model(_thresholds)
    del llm
    gc.collect()
    cleanup_dist_env_and_memory()
    if not found:
        raise RuntimeError("no layer was called with one token: there is nothing to set thresholds by")
    _save(found, path, rate)


def _watch(model: Any, rate: float) -> None:
    """Have the linear layers of a model note the quantile of their inputs in steps of one token."""
    import torch
    from vllm.model_executor.layers.linear import LinearBase

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        if x.shape[0] == 1:
            layer.quantiles = [*getattr(layer, "quantiles", []), float(torch.quantile(x.abs().float(), rate))]

    for layer in model.modules():
        if isinstance(layer, LinearBase):
            layer.register_forward_pre_hook(note)


def _thresholds(model: Any) -> dict[str, tuple[float, tuple[int, int]]]:
    """Return the mean quantile and the shape of each layer, by its names in checkpoints."""
    parts = getattr(model, "packed_modules_mapping", {})
    found = {}
    for name, layer in model.named_modules():
        if quantiles := getattr(layer, "quantiles", None):
            parent, _, last = name.rpartition(".")
            for part in parts.get(last, [last]):
                shape = (int(layer.output_size), int(layer.input_size))
                found[f"{parent}.{part}"] = (sum(quantiles) / len(quantiles), shape)
    return found


def _save(found: dict[str, tuple[float, tuple[int, int]]], path: Path, rate: float) -> None:
    from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds, LayerThreshold

    layers = {name: LayerThreshold(each, rate, 0.0, shape) for name, (each, shape) in found.items()}
    ActivationThresholds(layers).save(path)
