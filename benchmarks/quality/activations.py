"""Perplexity of SmolLM2-135M-Instruct when its linear layers leave out the inputs near zero.

Thresholds are what sf.calibrate_activations makes of text that the model writes itself; beside them stand
equal shares for all layers. Perplexity is over windows of 512 tokens of three texts that nothing was
calibrated on, Debian packages which apt-get downloads: the Debian Administrator's Handbook, the tutorial of
Python's documentation, and fortunes. The first four tokens of a window are read in full and not scored, as
prompts are when the model is compiled.

    python benchmarks/quality/activations.py MODEL [--windows 4] [--tokens 4096] [--results FOLDER]
"""

from __future__ import annotations

import argparse
import html
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, cpu_name, meta, write

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds
from sparseflow.contextual.activations.calibrating import ChoiceOptions, ThresholdChoice
from sparseflow.contextual.activations.inputs import (
    SINKS,
    SharedInput,
    changing,
    shared_inputs,
    without_small,
)
from sparseflow.contextual.activations.magnitudes import Magnitudes
from sparseflow.integrations.transformers.models import from_folder, read_tokenizer
from sparseflow.integrations.transformers.own_text import own_tokens

WINDOW = 512
RATES = (0.4, 0.3, 0.5, 0.25)
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


def held_out(tokenizer: Any, windows: int) -> dict[str, Tensor]:
    """Return windows ``[windows, WINDOW]`` of each text, spread over it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (package, files) in PACKAGES.items():
            text = text_of(package, files, Path(folder))
            each = len(text) // windows
            parts = [text[i * each : i * each + 12 * WINDOW] for i in range(windows)]
            ids = [torch.tensor(tokenizer(part)["input_ids"][:WINDOW]) for part in parts]
            found[name] = torch.stack(ids)
    return found


@torch.no_grad()
def perplexity(model: nn.Module, windows: Tensor) -> float:
    """Return the perplexity over windows, from their fifth token on."""
    total, count = 0.0, 0
    for window in windows:
        logits = model(window[None]).logits[0, SINKS:-1].float()
        total += F.cross_entropy(logits, window[SINKS + 1 :], reduction="sum").item()
        count += len(logits)
    return math.exp(total / count)


def with_thresholds(
    model: nn.Module, inputs: Sequence[SharedInput], limits: dict[str, float], windows: Tensor
) -> float:
    """Return the perplexity of the model that leaves out the inputs below limits."""
    with changing(inputs, lambda shared, _, x: without_small(x, limits.get(shared.name, 0.0))):
        return perplexity(model, windows)


def magnitudes_of(
    model: nn.Module, inputs: Sequence[SharedInput], windows: Sequence[Tensor]
) -> dict[str, Magnitudes]:
    """Return the magnitudes of all inputs."""
    seen = {shared.name: Magnitudes(torch.device("cpu")) for shared in inputs}

    def see(shared: SharedInput, layer: Any, x: Tensor) -> None:
        if layer is shared.layers[0]:
            seen[shared.name].add(x[..., SINKS:, :])

    with torch.no_grad(), changing(inputs, see):
        for window in windows:
            model(window)
    return seen


def limits_of(inputs: Sequence[SharedInput], thresholds: ActivationThresholds) -> dict[str, float]:
    """Return the threshold of each input that has one."""
    return {shared.name: thresholds[shared.name].threshold for shared in inputs if shared.name in thresholds}


def main() -> int:
    """Measure every rate, and write quality_activations.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    parser.add_argument("--tokens", type=int, default=4096, help="to calibrate on")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    arguments = parser.parse_args()
    model, tokenizer = from_folder(arguments.model, torch.float32).eval(), read_tokenizer(arguments.model)
    texts = held_out(tokenizer, arguments.windows)
    dense = {name: perplexity(model, windows) for name, windows in texts.items()}
    print(dense, flush=True)
    head = meta(cpu_name(), model="SmolLM2-135M-Instruct", window=WINDOW, windows=arguments.windows)
    rows: list[dict[str, Any]] = []
    inputs = shared_inputs(model, sf.DEFAULT_SKIP, lambda: model(texts["handbook"][:1]))

    def add(method: str, rate: float, limits: dict[str, float], **more: Any) -> None:
        ratios = []
        for name, windows in texts.items():
            found = with_thresholds(model, inputs, limits, windows)
            ratios.append(found / dense[name])
            rows.append(
                {"method": method, "rate": rate, "text": name, "perplexity": round(found, 4)}
                | {"dense": round(dense[name], 4), "ratio": round(found / dense[name], 4), **more}
            )
        rows.append(
            {"method": method, "rate": rate, "text": "mean", "ratio": round(sum(ratios) / 3, 4), **more}
        )
        print(rows[-1], [round(ratio, 4) for ratio in ratios], flush=True)
        write("quality_activations", head, rows, arguments.results)

    own = own_tokens(model, tokenizer, arguments.tokens, WINDOW, seed=0)
    start = time.perf_counter()
    options = ChoiceOptions(None, None, arguments.tokens, WINDOW, sf.DEFAULT_SKIP, 0)
    choice = ThresholdChoice(model, own, options)
    choice.measure(lambda done: None)
    seconds = round(time.perf_counter() - start, 1)
    for rate in RATES:
        made = choice.thresholds(choice.saving(rate), "self")
        add("calibrated", rate, limits_of(inputs, made), saved=round(made.rate, 4), seconds=seconds)
    seen = magnitudes_of(model, inputs, own)
    for rate in RATES:
        same = {
            name: float(magnitudes.quantiles(torch.tensor([rate]))[0]) for name, magnitudes in seen.items()
        }
        add("equal shares", rate, same, saved=rate)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
