"""Read configurations, models and tokenizers from folders; make models from configurations."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparseflow.errors import ArgumentError, CheckpointError, SparseFlowError
from sparseflow.integrations.transformers.versions import require_transformers
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerBase


def read_config(folder: Path) -> PreTrainedConfig:
    """Read the configuration in a folder.

    Raises:
        ArgumentError: transformers can't read it.
    """
    auto = require_transformers(f"model {folder}").AutoConfig
    with reading(folder):
        config: PreTrainedConfig = auto.from_pretrained(folder, local_files_only=True)
    return config


def make_config(kind: str, values: Mapping[str, object]) -> PreTrainedConfig:
    """Make a configuration of a class given by name."""
    config: PreTrainedConfig = getattr(require_transformers(kind), kind)(**values)
    return config


def from_config(model: object, config: PreTrainedConfig, **options: object) -> nn.Module:
    """Make a model in evaluation mode, with its language-model head if it has one.

    Args:
        model: the user's name for it, for errors.
        config: its configuration.
        options: of transformers' `from_config`, such as `dtype`.

    Raises:
        ArgumentError: transformers has no model for it.
    """
    # BERT and similar encoders have a causal head too, for their rare use as decoders.
    causal = _has_causal_head(config) and "bert" not in config.model_type
    with reading(model):
        built: nn.Module = _auto_model(causal).from_config(config, **options)
    return built.eval()


def from_folder(folder: Path, dtype: torch.dtype | None) -> nn.Module:
    """Load a model with its weights, as the class that was saved.

    Args:
        folder: written by ``save_pretrained``.
        dtype: of its weights; None keeps that of the files.

    Raises:
        ArgumentError: the folder can't be read.
        MissingDependencyError: transformers is missing.
        CheckpointError: a weight is missing, which transformers would initialise at random, has another
            shape, or belongs to another model.
    """
    config = read_config(folder)
    architectures = getattr(config, "architectures", None) or ["ForCausalLM"]
    # Encoders such as BERT have a causal head too, so the saved class decides.
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
            # Encoders are often saved with another head instead of their default pooler.
            model, found = kind.from_pretrained(folder, add_pooling_layer=False, **options)
    _require_whole(folder, model, found)
    loaded: nn.Module = model
    return loaded


def _require_whole(folder: Path, model: nn.Module, found: Document) -> None:
    """Refuse a folder whose weights aren't exactly those of the model; unused heads are allowed.

    An encoder is often saved with a head that the plain model doesn't have.
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
                "get a complete copy, or give the folder that save_pretrained wrote for this model",
            )


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """Read the tokenizer in a model's folder; None if there is none."""
    auto = require_transformers(f"model {folder}").AutoTokenizer
    try:
        return auto.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def own_tokenizer(model: nn.Module) -> PreTrainedTokenizerBase | None:
    """Read the tokenizer in the folder that a model was loaded from; None if it was loaded from none."""
    folder = getattr(getattr(model, "config", None), "_name_or_path", "")
    return read_tokenizer(Path(folder)) if folder and Path(folder).is_dir() else None


def is_causal(model: nn.Module) -> bool:
    """Return whether a model predicts next tokens."""
    from sparseflow.runtime.artifact import LoadedModel

    kind = model.name if isinstance(model, LoadedModel) else type(model).__name__
    return hasattr(model, "lm_head") or kind.endswith(("LMHeadModel", "ForCausalLM"))


def is_conv1d(module: nn.Module) -> bool:
    """Return whether a module is GPT-2's linear layer, which stores its weight as ``[K, N]``."""
    # A Conv1D can't exist without its import, so there is no need to import transformers here.
    found = sys.modules.get("transformers.pytorch_utils")
    return found is not None and isinstance(module, found.Conv1D)


@contextmanager
def reading(model: object) -> Iterator[None]:
    """Turn any error of transformers or safetensors about unreadable files into an ArgumentError.

    Raises:
        ArgumentError: with the message of the original error.
    """
    import torch

    try:
        yield
    except (torch.OutOfMemoryError, SparseFlowError):
        raise
    except Exception as error:  # validators and readers of files raise errors of many classes
        reason = " ".join(str(error).split())[:300]
        raise ArgumentError(
            f"model {model}", f"can't be read: {reason}", "give a folder that save_pretrained wrote"
        ) from None


def _auto_model(causal: bool) -> type[AutoModel] | type[AutoModelForCausalLM]:
    transformers = require_transformers("models")
    kind: type[AutoModel] | type[AutoModelForCausalLM] = (
        transformers.AutoModelForCausalLM if causal else transformers.AutoModel
    )
    return kind


def _has_causal_head(config: object) -> bool:
    """Return whether transformers has a causal language model for a configuration."""
    return type(config) in require_transformers("models").AutoModelForCausalLM._model_mapping
