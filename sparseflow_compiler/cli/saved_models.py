"""Saved transformers models, their tokenizers and texts, for the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sparseflow.cli import option_values
from sparseflow.errors import ArgumentError
from sparseflow.integrations.transformers.models import from_folder

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase


def load_model(
    folder: Path, dtype: str | None = None, device: str = "cpu", *, compiled: bool = False
) -> nn.Module:
    """Load a model with its weights, in evaluation mode.

    Args:
        folder: of a transformers model, as ``save_pretrained`` writes it.
        dtype: of its weights; None: as saved.
        device: to put it on.
        compiled: whether it may be one that `sparseflow compile` wrote.

    Raises:
        ArgumentError: the folder can't be read, or dtype or device don't exist.
        CheckpointError: its weights are quantised in a way that isn't read.
        MissingDependencyError: transformers is missing.
    """
    kind = None if dtype is None else option_values.dtype(dtype)
    where = option_values.device(device)
    if not folder.is_dir():
        raise ArgumentError(f"model {folder}", "is no folder", "give the folder that save_pretrained wrote")
    from sparseflow.runtime.artifact import manifest

    if not (folder / manifest.NAME).is_file():
        return _loaded(folder, kind).to(where).eval()
    if not compiled or kind is not None:
        rule = "is compiled already" if not compiled else f"is compiled: its weights can't become {dtype}"
        raise ArgumentError(f"model {folder}", rule, "name the folder that save_pretrained wrote")
    import sparseflow as sf

    return sf.load(folder, device=where)


def _loaded(folder: Path, dtype: torch.dtype | None) -> nn.Module:
    """Load a folder with its weights; those in fp8 dequantised, through a copy in the temporary folder."""
    from sparseflow.checkpoints import convert_checkpoint, is_fp8

    if not is_fp8(folder):
        return from_folder(folder, dtype)
    with TemporaryDirectory() as work:
        dense = Path(work) / "dense"
        convert_checkpoint(folder, dense, "dense")
        return from_folder(dense, dtype)


def require_new(folder: Path) -> None:
    """Refuse a folder to write that isn't new or empty.

    Raises:
        ArgumentError: it holds something.
    """
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise ArgumentError(str(folder), "exists and is not an empty folder", "name a new folder")


def save_model(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    out: Path,
    reports: Mapping[str, Mapping[str, object]],
) -> None:
    """Write a model's folder in one step: safetensors, tokenizer, and reports as JSON, by their files' names.

    Raises:
        ArgumentError: it can't be written.
    """
    from sparseflow.runtime.artifact.replacing import replacing

    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as new:
            model.save_pretrained(new)  # type: ignore[operator]
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
            for name, report in reports.items():
                (new / name).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ArgumentError(str(out), f"can't be written: {error}", "name a folder that can") from None


def text_batches(
    lines: list[str], tokenizer: PreTrainedTokenizerBase | None, size: int = 32
) -> list[dict[str, Tensor]]:
    """Tokenise texts in padded batches, for an encoder.

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
    """Read the first non-blank lines of a text.

    Raises:
        ArgumentError: the file can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ArgumentError(str(path), f"can't be read as text: {error}", "check the file") from None
    return [line.strip() for line in lines if line.strip()][:most]
