"""Saved transformers models, their tokenizers and texts, for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.cli import options
from sparseflow.cli.models import read_config, reading, require_transformers
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from torch import Tensor, nn


def load_model(folder: Path, dtype: str | None = None, device: str = "cpu") -> nn.Module:
    """A model with its weights, in evaluation mode.

    Args:
        folder: of a transformers model, as ``save_pretrained`` writes it.
        dtype: of its weights; None: as they are saved.
        device: to put it on.

    Raises:
        ArgumentError: transformers is missing, the folder can't be read, or dtype or device don't exist.
    """
    kind = None if dtype is None else options.dtype(dtype)
    where = options.device(device)
    if not folder.is_dir():
        raise ArgumentError(f"model {folder}", "is no folder", "give the folder that save_pretrained wrote")
    config = read_config(folder)
    with reading(folder):
        model: nn.Module = _kind(config).from_pretrained(folder, dtype=kind or "auto", local_files_only=True)
    return model.to(where).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder, or None."""
    require_transformers(folder)
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        return None


def is_causal(model: nn.Module) -> bool:
    """Whether it predicts next tokens."""
    return hasattr(model, "lm_head") or "ForCausalLM" in type(model).__name__


def text_batches(lines: list[str], tokenizer: Any, size: int = 32) -> list[dict[str, Tensor]]:
    """Texts in padded batches, for an encoder.

    Raises:
        ArgumentError: there is no tokenizer, or no line.
    """
    if tokenizer is None:
        raise ArgumentError("the model's folder", "holds no tokenizer for the text", "save it there")
    if not lines:
        raise ArgumentError("the text", "holds no line", "give one text a line")
    return [
        dict(tokenizer(lines[at : at + size], padding=True, truncation=True, return_tensors="pt"))
        for at in range(0, len(lines), size)
    ]


def read_lines(path: Path, most: int | None = None) -> list[str]:
    """The first lines of a text that are not blank.

    Raises:
        ArgumentError: the file can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(str(path), f"can't be read as text: {error}", "check the file") from None
    return [line.strip() for line in lines if line.strip()][:most]


def _kind(config: Any) -> Any:
    import transformers

    causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
    architectures = getattr(config, "architectures", None) or ["ForCausalLM"]
    # Encoders such as BERT have a causal head too; what was saved decides.
    causal = causal and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    return transformers.AutoModelForCausalLM if causal else transformers.AutoModel
