"""Three texts that nothing was calibrated on, and the perplexity over them.

They are Debian packages that apt-get downloads: the Debian Administrator's Handbook, the tutorial of Python's
documentation, and fortunes.
"""

from __future__ import annotations

import html
import math
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.runtime.contextual.column import SINKS

WINDOW = 512
PACKAGES = {
    "handbook": ("debian-handbook", "usr/share/doc/debian-handbook/html/en-US/sect.*.html"),
    "tutorial": ("python3.11-doc", "usr/share/doc/python3.11/html/tutorial/*.html"),
    "fortunes": ("fortunes", "usr/share/games/fortunes/*"),
}
"""The package of each text, and its files."""

_TAGS = re.compile(r"<(script|style|head)\b.*?</\1>|<[^>]*>", re.DOTALL | re.IGNORECASE)
_BLANK = re.compile(r"\n\s*\n\s*")


def text_of(package: str, files: str, folder: Path) -> str:
    """Return the text of a Debian package's files, without markup."""
    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, capture_output=True)
    archive = next(folder.glob(f"{package}_*.deb"))
    subprocess.run(["dpkg", "-x", archive, folder / package], check=True)
    found = [path for path in sorted((folder / package).glob(files)) if path.suffix in ("", ".html")]
    parts = [path.read_text(encoding="utf-8", errors="ignore") for path in found if path.is_file()]
    return "\n".join(_BLANK.sub("\n\n", html.unescape(_TAGS.sub("", part))) for part in parts)


def parts_of_texts(windows: int) -> dict[str, list[str]]:
    """Return parts of each text, spread over it and long enough for a window."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (package, files) in PACKAGES.items():
            text = text_of(package, files, Path(folder))
            each = len(text) // windows
            found[name] = [text[i * each : i * each + 12 * WINDOW] for i in range(windows)]
    return found


def held_out(tokenizer: Any, windows: int) -> dict[str, Tensor]:
    """Return windows ``[windows, WINDOW]`` of each text, spread over it."""
    found = {}
    for name, parts in parts_of_texts(windows).items():
        ids = [torch.tensor(tokenizer(part)["input_ids"][:WINDOW]) for part in parts]
        found[name] = torch.stack(ids)
    return found


@torch.no_grad()
def perplexity(model: nn.Module, windows: Tensor, batch: int = 1) -> float:
    """Return the perplexity over windows, from their fifth token on, of some windows at a time."""
    total, count = 0.0, 0
    for some in torch.split(windows, batch):
        logits = model(some).logits[:, SINKS:-1].flatten(0, 1).float()
        total += F.cross_entropy(logits, some[:, SINKS + 1 :].flatten(), reduction="sum").item()
        count += len(logits)
    return math.exp(total / count)
