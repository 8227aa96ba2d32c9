"""The small chat model that quality is measured on: loading it, what it writes, and texts that it didn't."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import cpu_name, gpu_name

from sparseflow.finetune.recovery_text import Rows, Sources
from sparseflow.integrations.transformers.models import from_folder, read_tokenizer


def load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return a model in evaluation mode, from a folder or a .gguf file, and its tokenizer."""
    if path.suffix != ".gguf":
        return from_folder(path, dtype).eval(), read_tokenizer(path)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model.eval(), AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def windows_of(path: Path, tokenizer: Any, window: int, count: int) -> dict[str, Tensor]:
    """Return at most `count` windows ``[count, window]`` of each text in a file of `recover.py prepare`."""
    found = {}
    for name, texts in json.loads(path.read_text()).items():
        ids = [torch.tensor(tokenizer(text)["input_ids"][:window]) for text in texts]
        found[name] = torch.stack([one for one in ids if len(one) == window][:count])
    return found


def written(
    model: nn.Module,
    tokenizer: Any,
    length: int,
    tokens: int | None,
    seconds: float,
    seed: int,
    generate: Any = None,
    temperature: float = 1.0,
) -> tuple[list[Tensor], dict[str, Any]]:
    """Return rows ``[length]`` that the model writes (by `generate` or its own), their tokens and seconds.

    With `generate` of a compiled model the seconds begin after the first round, in which it is compiled.
    """
    begun = time.monotonic()
    counted = None if generate is not None else begun

    def left() -> float:
        return math.inf if counted is None else seconds - (time.monotonic() - counted)

    def after_round(done: int, total: int, what: str = "") -> None:
        nonlocal counted
        counted = counted or time.monotonic()

    sources = Sources(model, tokenizer, None, 0.5, length, generate, temperature)
    torch.manual_seed(seed)
    found = sources.collect(tokens, left, after_round)
    assert isinstance(found, Rows)
    return found.rows, {"tokens": found.written, "seconds": round(time.monotonic() - begun, 1)}


def keep(rows: list[Tensor], writing: dict[str, Any], path: Path) -> None:
    """Write rows ``[length]`` of own text to a file, two bytes a token where the vocabulary permits."""
    stacked = torch.stack(rows)
    small = int(stacked.max()) < 1 << 16
    torch.save({"rows": stacked.to(torch.uint16 if small else torch.int32), "writing": writing}, path)


def kept(paths: Sequence[Path]) -> tuple[list[Tensor], dict[str, Any]]:
    """Return the rows of such files, and how they were written."""
    files = [torch.load(path) for path in paths]
    rows = [row for own in files for row in own["rows"].long().unbind()]
    return rows, {"files": [own["writing"] for own in files]}


def device_name(device: torch.device) -> str:
    """Return what the device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def result_name(bench: str, device: torch.device) -> str:
    """Return the name of a result file, which ends in the device's."""
    return gpu_name(bench, device_name(device)) if device.type == "cuda" else f"{bench}_cpu"
