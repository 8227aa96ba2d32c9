"""Find a transformers model's names for its arguments and outputs, which depend on the version."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparseflow.runtime.calling.cache_names import cache_name

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def parameters(model: nn.Module) -> frozenset[str]:
    """Return the names of the parameters of a model's forward, without those behind `**kwargs`."""
    return frozenset(inspect.signature(model.forward).parameters)


def supported_only(model: nn.Module, options: Mapping[str, object]) -> dict[str, object]:
    """Return the keyword arguments that the model's forward accepts."""
    known = parameters(model)
    return {name: value for name, value in options.items() if name in known}


def cache_argument(model: Callable[..., object]) -> str | None:
    """Return a model's name for its cache: ``cache``, or ``past_key_values`` before transformers 5.24.

    Args:
        model: a model, eager or compiled.

    Returns:
        The name, or None for a model without a cache.
    """
    forward = getattr(getattr(model, "_model", model), "forward", model)
    return cache_name(inspect.signature(forward).parameters)


def with_cache(model: Callable[..., object], cache: object) -> dict[str, object]:
    """Return a cache as a keyword argument of the model.

    Raises:
        TypeError: the model takes no cache.
    """
    name = cache_argument(model)
    if name is None:
        raise TypeError(f"{type(model).__name__} takes no cache")
    return {name: cache}


def returned_cache(output: object) -> object:
    """Return the cache in a model's output, or None."""
    fields = output if isinstance(output, Mapping) else vars(output) if hasattr(output, "__dict__") else {}
    name = cache_name(fields.keys())  # the output's own name: reading it by an old one would warn
    return None if name is None else fields[name]


def image_size(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Return channels, height and width of the images that a model of this configuration takes."""
    side = config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return config.num_channels, height, width


def example_input(
    name: str, config: PreTrainedConfig, batch: int, seq: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Make an example of an input by name: zeros for ``pixel_values``, tokens of value 1 for all others."""
    if name == "pixel_values":
        return torch.zeros(batch, *image_size(config), dtype=dtype, device=device)
    return torch.ones(batch, seq, dtype=torch.int64, device=device)


def next_input(name: str, value: Tensor) -> Tensor:
    """Make the input of the next decoding step: one token, or an attention mask that is one token longer."""
    return value.new_ones(value.shape[0], value.shape[1] + 1) if name == "attention_mask" else value[:, :1]


def generates(model: nn.Module) -> bool:
    """Return whether a model supports `generate`."""
    return bool(getattr(model, "can_generate", lambda: False)())
