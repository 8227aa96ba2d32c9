"""Configurations, models and tokenizers: read from folders, or made from a configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.library import library

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PretrainedConfig


def read_config(folder: Path) -> PretrainedConfig:
    """The configuration in a folder.

    Raises:
        ArgumentError: there is none that transformers can read.
    """
    auto = library(f"model {folder}").AutoConfig
    with reading(folder):
        config: PretrainedConfig = auto.from_pretrained(folder, local_files_only=True)
    return config


def make_config(kind: str, values: Mapping[str, Any]) -> PretrainedConfig:
    """A configuration of the class of that name."""
    config: PretrainedConfig = getattr(library(kind), kind)(**values)
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
    # BERT and its like have such a head too, for use as a decoder, which is rare.
    causal = _has_causal_head(config) and "bert" not in config.model_type
    with reading(model):
        built: nn.Module = _auto_model(causal).from_config(config, **options)
    return built.eval()


def from_folder(folder: Path, dtype: torch.dtype | None) -> nn.Module:
    """A model with its weights, of the kind that was saved.

    Args:
        folder: of a transformers model, as ``save_pretrained`` writes it.
        dtype: of its weights; None: as they are saved.

    Raises:
        ArgumentError: transformers is missing, or the folder can't be read.
    """
    config = read_config(folder)
    architectures = getattr(config, "architectures", None) or ["ForCausalLM"]
    # Encoders such as BERT have a causal head too; what was saved decides.
    saved_causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    kind = _auto_model(_has_causal_head(config) and saved_causal)
    with reading(folder):
        model: nn.Module = kind.from_pretrained(folder, dtype=dtype or "auto", local_files_only=True)
    return model


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder, or None."""
    auto = library(f"model {folder}").AutoTokenizer
    try:
        return auto.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def is_causal(model: nn.Module) -> bool:
    """Whether a model predicts next tokens."""
    return hasattr(model, "lm_head") or "ForCausalLM" in type(model).__name__


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is GPT-2's linear layer, which stores its weight as ``[K, N]``."""
    # Whoever holds a Conv1D has imported it; nobody else should have to import transformers.
    found = sys.modules.get("transformers.pytorch_utils")
    return found is not None and isinstance(module, found.Conv1D)


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


def _auto_model(causal: bool) -> Any:
    transformers = library("models")
    return transformers.AutoModelForCausalLM if causal else transformers.AutoModel


def _has_causal_head(config: object) -> bool:
    """Whether there is a causal language model for a configuration, used or not."""
    return type(config) in library("models").AutoModelForCausalLM._model_mapping
