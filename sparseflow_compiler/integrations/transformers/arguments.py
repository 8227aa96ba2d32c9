"""What transformers' models call their arguments and outputs, by what the model at hand has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparseflow.runtime.calling.caches import cache_name

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def parameters(model: nn.Module) -> frozenset[str]:
    """The names that a model's forward knows; those that it only passes on are not among them."""
    return frozenset(inspect.signature(model.forward).parameters)


def supported_only(model: nn.Module, options: Mapping[str, object]) -> dict[str, object]:
    """Those of some keyword arguments that the model's forward has."""
    known = parameters(model)
    return {name: value for name, value in options.items() if name in known}


def cache_argument(model: Callable[..., object]) -> str | None:
    """The name under which a model takes a cache: ``cache``, or ``past_key_values`` before transformers 5.24.

    Args:
        model: a model, or a compiled one, which takes what its model takes.

    Returns:
        None for a model that takes none.
    """
    forward = getattr(getattr(model, "_model", model), "forward", model)
    return cache_name(inspect.signature(forward).parameters)


def with_cache(model: Callable[..., object], cache: object) -> dict[str, object]:
    """A cache as the keyword argument that the model has for it.

    Raises:
        TypeError: it has none.
    """
    name = cache_argument(model)
    if name is None:
        raise TypeError(f"{type(model).__name__} takes no cache")
    return {name: cache}


def returned_cache(output: object) -> object:
    """The cache in an output with fields, None where there is none."""
    fields = output if isinstance(output, Mapping) else vars(output) if hasattr(output, "__dict__") else {}
    name = cache_name(fields.keys())  # as the output has it: asking for an old name warns
    return None if name is None else fields[name]


def image_size(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Channels, height and width of the images that a model of this configuration takes."""
    side = config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return config.num_channels, height, width


def example_input(
    name: str, config: PreTrainedConfig, batch: int, seq: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """An input of that name: ``pixel_values`` as the configuration says, otherwise tokens, all of them 1."""
    if name == "pixel_values":
        return torch.zeros(batch, *image_size(config), dtype=dtype, device=device)
    return torch.ones(batch, seq, dtype=torch.int64, device=device)


def next_input(name: str, value: Tensor) -> Tensor:
    """An input of the call for one token more: its own column, or a mask over all so far."""
    return value.new_ones(value.shape[0], value.shape[1] + 1) if name == "attention_mask" else value[:, :1]


def generates(model: nn.Module) -> bool:
    """Whether `generate` works on a model."""
    return bool(getattr(model, "can_generate", lambda: False)())
