"""Models that commands read: a transformers configuration, without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
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

    try:
        config: PretrainedConfig = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise unreadable(folder, error) from None
    return config


def from_config(config: PretrainedConfig, **options: Any) -> nn.Module:
    """A model of that configuration, with its language-model head if it has one, in evaluation mode.

    Raises:
        ValueError: transformers has no model for it.
    """
    import transformers

    # BERT and its like have such a head too, for use as a decoder, which is rare.
    causal = (
        type(config) in transformers.AutoModelForCausalLM._model_mapping and "bert" not in config.model_type
    )
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    model: nn.Module = kind.from_config(config, **options)
    return model.eval()


def unreadable(model: object, error: Exception) -> ArgumentError:
    """The refusal of a model that transformers can't build."""
    reason = str(error).splitlines()[0]
    return ArgumentError(f"model {model}", f"can't be read: {reason}", "name a folder that has a config.json")
