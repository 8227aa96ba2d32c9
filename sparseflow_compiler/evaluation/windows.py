"""Token streams, and the windows in which a model reads them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase

_FILES = {".npy": "a numpy array", ".pt": "a torch tensor", ".safetensors": "one tensor"}


@dataclass(frozen=True)
class Window:
    """Tokens `start` … `end` − 1 of a stream, of which those from `scored` on are scored."""

    start: int
    end: int
    scored: int


def windows(count: int, window: int, stride: int) -> list[Window]:
    """Return the windows over a stream of `count` tokens.

    Window i begins at token i·stride and holds `window` tokens, or what is left. A token is predicted from
    those before it in its window. Scored is each token once: in the first window that holds it and a token
    before it. So token 0 never is; with stride = window the first token of every window has no context and
    isn't either. With stride < window every scored token but the first window's has at least
    window − stride tokens of context. The last window is the first that reaches the end.

    Raises:
        ArgumentError: fewer than two tokens, a window below 2, or a stride not in 1 … window.
    """
    if window < 2 or not 1 <= stride <= window:
        rule = f"needs window ≥ 2 and 1 ≤ stride ≤ window, not window={window}, stride={stride}"
        raise ArgumentError("evaluation", rule, "try window=1024, stride=512")
    if count < 2:
        raise ArgumentError("evaluation", f"needs at least two tokens, not {count}", "give more text")
    found = [Window(0, min(window, count), 1)]
    while found[-1].end < count:
        start = found[-1].start + stride
        end = min(start + window, count)
        found.append(Window(start, end, max(found[-1].end, start + 1)))
    return [part for part in found if part.scored < part.end]


def as_tokens(tokens: object) -> Tensor:
    """Convert token ids from a tensor, an array or a sequence to ``[tokens]`` int64.

    Raises:
        ArgumentError: it is something else.
    """
    try:
        array = tokens.numpy(force=True) if isinstance(tokens, Tensor) else np.asarray(tokens)
    except (ValueError, TypeError, RuntimeError):
        array = np.empty((0, 0))
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and int(array.min()) < 0):
        raise ArgumentError(
            "tokens",
            f"must be a 1-d stream of token ids, not {array.dtype} of shape {list(array.shape)}",
            "concatenate the documents' ids",
        )
    return torch.from_numpy(array.astype(np.int64))


def read_tokens(path: Path, tokenizer: PreTrainedTokenizerBase | None = None) -> tuple[Tensor, int]:
    """Read the tokens of a file; also return a text's size in UTF-8 bytes, 0 for token files.

    Args:
        path: .npy, .pt or .safetensors with token ids; any other file is text in UTF-8.
        tokenizer: of transformers; for text. No special tokens are added.

    Returns:
        Token ids ``[tokens]`` int64, and the bytes.

    Raises:
        ArgumentError: the file can't be read, or is text and there is no tokenizer.
    """
    try:
        if path.suffix in _FILES:
            return as_tokens(_load(path)), 0
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ArgumentError(str(path), f"is not text in UTF-8: {error.reason}", "convert it") from None
    except (OSError, ValueError, EOFError) as error:
        kind = _FILES.get(path.suffix, "text")
        raise ArgumentError(str(path), f"can't be read as {kind}: {error}", "check the file") from None
    if tokenizer is None:
        raise ArgumentError(
            str(path), "is text, and the model's folder holds no tokenizer", "give tokens, .npy"
        )
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return as_tokens(ids), len(text.encode())


def _load(path: Path) -> object:
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if path.suffix == ".pt":
        return torch.load(path, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    tensors = list(load_file(path).values())
    if len(tensors) != 1:
        raise ValueError(f"it holds {len(tensors)} tensors, not one")
    return tensors[0]
