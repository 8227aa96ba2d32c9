"""Models to profile with random weights, by a published shape's name or a transformers configuration."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.argument_names import (
    cache_argument,
    generates,
    image_size,
    supported_only,
    with_cache,
)
from sparseflow.integrations.transformers.models import make_config
from sparseflow.integrations.transformers.static_caches import rewind, static_cache

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from sparseflow.integrations.transformers.types import PreTrainedConfig

Phase = Literal["prefill", "decode"]

_LLAMA = {
    "vocab_size": 128256,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
}
SHAPES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "llama-3-8b": (
        "LlamaConfig",
        {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
        | _LLAMA,
    ),
    "llama-3-70b": (
        "LlamaConfig",
        {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64}
        | _LLAMA,
    ),
    "qwen3-0.6b": (
        "Qwen3Config",
        {
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
        },
    ),
    "gpt2": ("GPT2Config", {}),
    "bert-base": ("BertConfig", {}),
    "vit-base": ("ViTConfig", {}),
}
"""The configuration class of each built-in shape, and the values that differ from its defaults."""

_ROOM = 64
"""Further tokens that a cache has room for, which is the number of calls in a row."""


@dataclass(frozen=True)
class Workload:
    """A model and the inputs of one call.

    Attributes:
        model: in evaluation mode.
        kwargs: inputs by keyword.
        before: restores the inputs before a call.
        most_calls: the number of calls allowed without that; None: any.
    """

    model: nn.Module
    kwargs: Mapping[str, object]
    before: Callable[[], object] | None = None
    most_calls: int | None = None


def shape_config(name: str) -> PretrainedConfig:
    """Return the configuration of a built-in shape.

    Raises:
        ArgumentError: there is no such shape.
        MissingDependencyError: transformers is missing.
    """
    if name not in SHAPES:
        raise ArgumentError(
            f"model {name}", "is neither a folder nor a built-in shape", f"the shapes are {', '.join(SHAPES)}"
        )
    return make_config(*SHAPES[name])


def with_layers(config: PretrainedConfig, layers: int | None) -> PretrainedConfig:
    """Return the configuration with a number of layers; None keeps it.

    Raises:
        ArgumentError: there are no layers to count, or fewer than one is asked for.
    """
    if layers is None:
        return config
    if layers < 1 or not hasattr(config, "num_hidden_layers"):
        raise ArgumentError(
            f"--layers {layers}", "a model has at least one layer", "leave it out for all of them"
        )
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    return config


def workload(model: nn.Module, batch: int, seq: int, phase: Phase) -> Workload:
    """Make inputs for a transformers model, on its device.

    Args:
        model: in evaluation mode.
        batch: samples.
        seq: tokens of each, or tokens in the cache before the one that is decoded; images have a size.
        phase: ``"prefill"`` computes all tokens, and in a causal model the logits of the last;
            ``"decode"`` one more token over a static cache.

    Raises:
        ArgumentError: a size is below 1, or the model has no such phase or inputs.
    """
    if batch < 1 or seq < 1:
        raise ArgumentError(f"--batch {batch} --seq {seq}", "both must be at least 1", "leave them out")
    parameter = next(model.parameters())
    config: PreTrainedConfig = model.config
    if model.main_input_name == "pixel_values":
        _require_prefill(model, phase)
        images = torch.randn(batch, *image_size(config), device=parameter.device, dtype=parameter.dtype)
        return Workload(model, {"pixel_values": images})
    if model.main_input_name != "input_ids":
        raise ArgumentError(
            f"model {type(model).__name__}",
            f"takes {model.main_input_name}, and only models of text and images can be profiled by name",
            "call sparseflow.profile(model, args) on your own inputs",
        )
    _require_positions(config, seq + (_ROOM if phase == "decode" else 0))
    tokens = 1 if phase == "decode" else seq
    ids = torch.randint(0, config.vocab_size, (batch, tokens), device=parameter.device)
    if phase == "decode":
        return _decode(model, ids, seq)
    causal = {"use_cache": False, "logits_to_keep": 1}
    return Workload(model, {"input_ids": ids} | supported_only(model, causal))


def _decode(model: nn.Module, ids: torch.Tensor, seq: int) -> Workload:
    if cache_argument(model) is None or not generates(model):
        _require_prefill(model, "decode")
    cache = static_cache(model, seq + _ROOM)
    past = torch.randint(0, int(ids.max()) + 1, (ids.shape[0], seq), device=ids.device)
    with torch.no_grad():
        model(input_ids=past, **with_cache(model, cache))
    inputs = {"input_ids": ids, **with_cache(model, cache)}
    return Workload(model, inputs, functools.partial(rewind, cache, seq), _ROOM)


def _require_positions(config: object, tokens: int) -> None:
    most = getattr(config, "max_position_embeddings", None)
    if most is not None and tokens > most:
        raise ArgumentError(
            f"--seq of {type(config).__name__}",
            f"the model has {most} positions, and {tokens} are needed",
            f"choose a shorter sequence; decode needs {_ROOM} positions after it",
        )


def _require_prefill(model: nn.Module, phase: Phase) -> None:
    if phase == "decode":
        raise ArgumentError(
            f"--phase decode of {type(model).__name__}",
            "the model has no cache to decode with",
            "use prefill",
        )
