"""Configurations, models and tokenizers: read from folders, or made from a configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError, CheckpointError, SparseFlowError
from sparseflow.integrations.transformers.library import library
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase


def read_config(folder: Path) -> PreTrainedConfig:
    """The configuration in a folder.

    Raises:
        ArgumentError: there is none that transformers can read.
    """
    auto = library(f"model {folder}").AutoConfig
    with reading(folder):
        config: PreTrainedConfig = auto.from_pretrained(folder, local_files_only=True)
    return config


def make_config(kind: str, values: Mapping[str, object]) -> PreTrainedConfig:
    """A configuration of the class of that name."""
    config: PreTrainedConfig = getattr(library(kind), kind)(**values)
    return config


def from_config(model: object, config: PreTrainedConfig, **options: object) -> nn.Module:
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
        CheckpointError: its weights are not all that the model has, and of their shapes. transformers gives
            missing ones random values.
    """
    config = read_config(folder)
    architectures = getattr(config, "architectures", None) or ["ForCausalLM"]
    # Encoders such as BERT have a causal head too; what was saved decides.
    saved_causal = any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    kind = _auto_model(_has_causal_head(config) and saved_causal)
    options: dict[str, object] = {
        "dtype": dtype or "auto",
        "local_files_only": True,
        "output_loading_info": True,
    }
    with reading(folder):
        model, found = kind.from_pretrained(folder, **options)
        missing = list(found["missing_keys"])
        if missing and all(name.startswith("pooler.") for name in missing):
            # Encoders are often saved with another head than the pooler that they would have by themselves.
            model, found = kind.from_pretrained(folder, add_pooling_layer=False, **options)
    _require_whole(folder, model, found)
    loaded: nn.Module = model
    return loaded


def _require_whole(folder: Path, model: nn.Module, found: Document) -> None:
    """Refuse a model of which not every weight came from the folder, or not every one in it was taken.

    Heads of another kind may stay behind: an encoder is often saved with one.
    """
    parts = {name.partition(".")[0] for name, _ in model.named_parameters()}
    known = {*parts, getattr(model, "base_model_prefix", "")}
    wrong = {
        "lacks": found["missing_keys"],
        "has in other shapes": [name for name, *_ in found["mismatched_keys"]],
        "has besides": [name for name in found["unexpected_keys"] if name.partition(".")[0] in known],
    }
    for what, names in wrong.items():
        if names:
            some = ", ".join(sorted(names)[:3])
            raise CheckpointError(
                f"checkpoint {folder}",
                f"it {what} {len(names)} of the tensors of {type(model).__name__}: {some}"
                + (" …" if len(names) > 3 else ""),
                "get a whole copy of it, or name the folder that save_pretrained wrote of this model",
            )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The tokenizer in a model's folder, or None."""
    auto = library(f"model {folder}").AutoTokenizer
    try:
        return auto.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def is_causal(model: nn.Module) -> bool:
    """Whether a model predicts next tokens."""
    from sparseflow.runtime.artifact import LoadedModel

    kind = model.name if isinstance(model, LoadedModel) else type(model).__name__
    return hasattr(model, "lm_head") or kind.endswith(("LMHeadModel", "ForCausalLM"))


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
    except (torch.OutOfMemoryError, SparseFlowError):
        raise
    except Exception as error:  # validators of configurations, unpackers of files: each has errors of its own
        reason = " ".join(str(error).split())[:300]
        raise ArgumentError(
            f"model {model}", f"can't be read: {reason}", "name a folder that save_pretrained wrote"
        ) from None


def _auto_model(causal: bool) -> type[AutoModel] | type[AutoModelForCausalLM]:
    transformers = library("models")
    kind: type[AutoModel] | type[AutoModelForCausalLM] = (
        transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    )
    return kind


def _has_causal_head(config: object) -> bool:
    """Whether there is a causal language model for a configuration, used or not."""
    return type(config) in library("models").AutoModelForCausalLM._model_mapping
