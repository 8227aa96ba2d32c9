"""Perplexity of SmolLM2-135M-Instruct pruned in one shot to 2:4, 4:6 and 6:8, by every method.

Methods are calibrated on text that the model writes itself. Perplexity is over windows of 512 tokens of three
texts that nothing was calibrated on, as in activations.py. Weights are checked to be in their pattern.

    python benchmarks/quality/patterns.py MODEL [--device cuda] [--tokens 131072] [--windows 32]
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, cpu_name, meta, write
from activations import WINDOW, held_out, perplexity

import sparseflow as sf
from sparseflow.integrations.transformers.models import from_folder, read_tokenizer
from sparseflow.integrations.transformers.own_text import own_tokens

PATTERNS = ("2:4", "4:6", "6:8")
METHODS = ("magnitude", "wanda", "ria", "sparsegpt")


def require_pattern(model: nn.Module, report: sf.pruning.PruneReport) -> int:
    """Return the number of pruned layers, each checked to be in the pattern."""
    pattern = sf.Pattern.of(report.pattern)
    pruned = [layer.name for layer in report.layers if layer.method is not None]
    for name in pruned:
        weight = model.get_parameter(f"{name}.weight")
        assert pattern.holds(weight), f"{name} is not {pattern}"
    return len(pruned)


def pruned(
    model: nn.Module, pattern: str, method: Any, reconstruct: Any, batches: list[Tensor], seed: int
) -> tuple[nn.Module, dict[str, Any]]:
    """Return a pruned copy of a model, and what the row says of it."""
    twin, start = copy.deepcopy(model), time.perf_counter()
    calibration = None if method == "magnitude" and reconstruct is None else batches
    report = sf.prune(
        twin, method, calibration, pattern=pattern, reconstruct=reconstruct, seed=seed, progress=False
    )
    seconds = round(time.perf_counter() - start, 1)
    tokens = sum(batch.numel() for batch in calibration or ())
    about = {"pattern": pattern, "method": method, "reconstruct": reconstruct, "seed": seed}
    layers = require_pattern(twin, report)
    return twin, about | {"calibration": "self", "tokens": tokens, "layers": layers, "seconds": seconds}


def rows_of(
    model: nn.Module, about: dict[str, Any], texts: dict[str, Tensor], dense: dict[str, float]
) -> Iterable[dict[str, Any]]:
    """Yield a row for each text, and one for the mean of the ratios."""
    ratios = []
    for name, windows in texts.items():
        found = perplexity(model, windows)
        ratios.append(found / dense[name])
        yield about | {
            "text": name,
            "perplexity": round(found, 4),
            "dense": round(dense[name], 4),
            "ratio": round(ratios[-1], 4),
        }
    yield about | {"text": "mean", "ratio": round(sum(ratios) / len(ratios), 4)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    parser.add_argument("--tokens", type=int, default=16384, help="to calibrate on")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, choices=PATTERNS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--reconstruct", nargs="+", default=["none"], choices=["none", "layer", "block"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the text and of training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    return parser.parse_args()


def main() -> int:
    """Measure every pattern and method, and write quality_smollm2.json after each."""
    arguments = parse()
    device = torch.device(arguments.device)
    model = from_folder(arguments.model, torch.float32).eval().to(device)
    tokenizer = read_tokenizer(arguments.model)
    texts = {name: ids.to(device) for name, ids in held_out(tokenizer, arguments.windows).items()}
    dense = {name: perplexity(model, windows) for name, windows in texts.items()}
    print("dense", dense, flush=True)
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    head = meta(named, model="SmolLM2-135M-Instruct", window=WINDOW, windows=arguments.windows)
    rows: list[dict[str, Any]] = []
    needs_text = set(arguments.methods) != {"magnitude"} or arguments.reconstruct != ["none"]
    for seed in arguments.seeds:
        own = own_tokens(model, tokenizer, arguments.tokens, WINDOW, seed=seed) if needs_text else []
        runs = itertools.product(arguments.patterns, arguments.methods, arguments.reconstruct)
        for pattern, method, reconstruct in runs:
            wanted = None if reconstruct == "none" else reconstruct
            twin, about = pruned(model, pattern, method, wanted, own, seed)
            rows.extend(rows_of(twin, about, texts, dense))
            print(rows[-1], flush=True)
            write("quality_smollm2", head, rows, arguments.results)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
