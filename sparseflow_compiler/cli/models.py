"""Reading transformers models and their texts for the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

DTYPES = ("float32", "bfloat16", "float16")


def meta_model(folder: Path) -> nn.Module:
    """The model of a transformers configuration, without any weights.

    Raises:
        ArgumentError: transformers is missing, or the folder holds no configuration that it knows.
    """
    transformers = _transformers(folder)
    import torch

    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.device("meta"):
            model: nn.Module = _kind(transformers, config).from_config(config)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error, "give --shape instead") from None
    return model.eval()


def load_model(folder: Path, dtype: str | None = None, device: str = "cpu") -> nn.Module:
    """A model with its weights, in evaluation mode.

    Args:
        folder: of a transformers model, as ``save_pretrained`` writes it.
        dtype: of its weights; None: as they are saved.
        device: to put it on.

    Raises:
        ArgumentError: transformers is missing, the folder can't be read, or dtype or device don't exist.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ArgumentError(f"--dtype {dtype}", f"must be one of {', '.join(DTYPES)}")
    transformers = _transformers(folder)
    where = _device(device)
    if not folder.is_dir():
        raise ArgumentError(f"model {folder}", "is no folder", "give the folder that save_pretrained wrote")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = _kind(transformers, config)
        model: nn.Module = kind.from_pretrained(folder, dtype=dtype or "auto", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise _unreadable(folder, error, "check its config.json and its weights") from None
    return model.to(where).eval()


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a model's folder, or None."""
    transformers = _transformers(folder)
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


def _transformers(folder: Path) -> Any:
    try:
        import transformers
    except ImportError:
        raise ArgumentError(
            f"model {folder}", "needs transformers to be read", "pip install transformers"
        ) from None
    return transformers


def _kind(transformers: Any, config: Any) -> Any:
    causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
    architectures = getattr(config, "architectures", None) or ["ForCausalLM"]
    # Encoders such as BERT have a causal head too; what was saved decides.
    causal = causal and any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in architectures)
    return transformers.AutoModelForCausalLM if causal else transformers.AutoModel


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"--device {name}", f"can't be used: {reason}", "try --device cpu") from None
    return device


def _unreadable(folder: Path, error: Exception, remedy: str) -> ArgumentError:
    return ArgumentError(f"model {folder}", f"can't be read: {str(error).splitlines()[0]}", remedy)
