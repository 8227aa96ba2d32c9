"""Models that commands read: a transformers configuration, without its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig


def require_transformers(model: object) -> None:
    """Refuse to read `model` where transformers is missing.

    Raises:
        ArgumentError: says how to get it.
    """
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise ArgumentError(
            f"model {model}", "needs transformers to be read", "pip install transformers"
        ) from None


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a folder.

    Raises:
        ArgumentError: there is none that transformers can read.
    """
    require_transformers(folder)
    import transformers

    with reading(folder):
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    return config


def from_config(model: object, config: PretrainedConfig, **options: Any) -> nn.Module:
    """A model of that configuration, with its language-model head if it has one, in evaluation mode.

    Args:
        model: what the user calls it, for the error.
        config: the configuration.
        options: such as its dtype.

    Raises:
        ArgumentError: transformers has no model for it.
    """
    import transformers

    # BERT and its like have such a head too, for use as a decoder, which is rare.
    causal = (
        type(config) in transformers.AutoModelForCausalLM._model_mapping and "bert" not in config.model_type
    )
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    with reading(model):
        built: nn.Module = kind.from_config(config, **options)
    return built.eval()


def named_model(model: str, layers: int | None, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A model with random weights, in evaluation mode.

    Args:
        model: a built-in shape, or the folder of a transformers model, of which the configuration is read.
        layers: only so many; None: all.
        dtype: of the weights.
        device: where they are.

    Raises:
        ArgumentError: there is no such shape, or transformers has no model for the configuration.
    """
    require_transformers(model)
    import torch

    from sparseflow.profiling.workload import shape_config, with_layers

    folder = Path(model)
    config = with_layers(read_config(folder) if folder.is_dir() else shape_config(model), layers)
    with torch.device(device):
        return from_config(model, config, dtype=dtype)


def require_phase(phase: str) -> None:
    """Refuse a phase that is neither prefill nor decode.

    Raises:
        ArgumentError: names both.
    """
    from sparseflow.profiling.workload import Phase

    if phase not in get_args(Phase):
        raise ArgumentError(f"--phase {phase}", f"must be one of {', '.join(get_args(Phase))}")


@contextmanager
def reading(model: object) -> Iterator[None]:
    """Turn every way in which transformers and safetensors fail to make sense of files into one refusal.

    Raises:
        ArgumentError: says what they said.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # validators of configurations, unpackers of files: each has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise ArgumentError(
            f"model {model}", f"can't be read: {reason}", "name a folder that save_pretrained wrote"
        ) from None
