"""Models of transformers configurations, without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import from_config, read_config

if TYPE_CHECKING:
    import torch
    from torch import nn


def named_model(model: str, layers: int | None, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """Return a model with random weights, in evaluation mode.

    Args:
        model: a built-in shape, or the folder of a transformers model, of which the configuration is read.
        layers: the number of layers; None: all.
        dtype: of the weights.
        device: their device.

    Raises:
        ArgumentError: there is no such shape, or transformers has no model for the configuration.
    """
    import torch

    from sparseflow.profiling.workload import shape_config, with_layers

    folder = Path(model)
    config = with_layers(read_config(folder) if folder.is_dir() else shape_config(model), layers)
    with torch.device(device):
        return from_config(model, config, dtype=dtype)


def require_phase(phase: str) -> None:
    """Refuse a phase that is neither prefill nor decode.

    Raises:
        ArgumentError: the phase is another one.
    """
    from sparseflow.profiling.workload import Phase

    if phase not in get_args(Phase):
        raise ArgumentError(f"--phase {phase}", f"must be one of {', '.join(get_args(Phase))}")
