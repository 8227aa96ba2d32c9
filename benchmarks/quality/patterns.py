"""Perplexity of SmolLM2-135M-Instruct pruned in one shot to 2:4, 4:6, 6:8 and a mixture, by every method.

Methods are calibrated on text that the model writes itself. Perplexity is over windows of 512 tokens of three
texts that nothing was calibrated on, as in other_texts.py. Weights are checked to be in their pattern. A
mixture is sf.prune(max_bytes="4:6"): the pattern of each layer, dense included, by which the model loses
least within the bytes of 4:6.

    python benchmarks/quality/patterns.py MODEL [--texts TEXTS.json] [--device cuda] [--tokens 131072]
        [--windows 32] [--reconstruct none block] [--seeds 0 1 2] [--deadline 540] [--results FOLDER]

MODEL is a folder of transformers, or a file of llama.cpp (.gguf). Texts are what `recover.py prepare` wrote;
without them apt-get downloads them. The result is written after each case, beside it the patterns of each
mixture (mixed_<seed>.json). A run whose result is there goes on with the cases that it lacks; none is begun
that would not end before the deadline, by what others of its kind took.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, meta, write
from chat_model import device_name, kept, load, result_name, windows_of, written
from other_texts import WINDOW, held_out, perplexity

import sparseflow as sf

MIXED = "mixed"
PATTERNS = ("2:4", "4:6", "6:8", MIXED)
CHOICES = ("2:4", "4:6", "6:8", "dense")
"""What a layer of a mixture can be."""
METHODS = ("magnitude", "wanda", "ria", "sparsegpt")
KEY = ("pattern", "method", "reconstruct", "seed")
"""What tells one case from another."""


def require_patterns(model: nn.Module, report: sf.pruning.PruneReport) -> dict[str, int]:
    """Return how many layers have each pattern, each checked to be in it."""
    for layer in report.layers:
        if layer.pattern is not None:
            weight = model.get_parameter(f"{layer.name}.weight")
            assert sf.Pattern.of(layer.pattern).holds(weight), f"{layer.name} is not {layer.pattern}"
    return dict(Counter(layer.pattern or "dense" for layer in report.layers if layer.name != "lm_head"))


@dataclass
class Measuring:
    """All cases of one model, and what was measured of them so far."""

    options: argparse.Namespace
    started: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        self.device = torch.device(options.device)
        self.model, self.tokenizer = load(options.model, torch.float32)
        self.model.to(self.device)
        windows = options.windows
        texts = (
            windows_of(options.texts, self.tokenizer, WINDOW, windows)
            if options.texts
            else held_out(self.tokenizer, windows)
        )
        self.texts = {name: ids.to(self.device) for name, ids in texts.items()}
        self.dense = {name: perplexity(self.model, ids) for name, ids in self.texts.items()}
        self.took: dict[tuple[str, str], float] = {}
        self.name = result_name("quality_patterns", self.device)
        self.head = meta(
            device_name(self.device),
            model="SmolLM2-135M-Instruct",
            window=WINDOW,
            windows={name: len(ids) for name, ids in self.texts.items()},
            tokens=options.tokens,
            steps=options.steps,
        )
        self._resume()
        print(f"dense {self.dense}, {self._spent():.0f} s, {len(self.rows)} rows are there", flush=True)

    def run(self) -> None:
        """Measure every case that isn't there."""
        options = self.options
        done = {tuple(row[name] for name in KEY) for row in self.rows}
        for seed in options.seeds:
            cases = [
                (pattern, method, reconstruct)
                for reconstruct, method, pattern in itertools.product(
                    options.reconstruct, options.methods, options.patterns
                )
                if (pattern, method, reconstruct, seed) not in done
                and (pattern != MIXED or method == "sparsegpt")
            ]
            batches = self._written(seed) if cases else []
            for case in cases:
                if self._spent() + self.took.get(self._kind(*case), 0.0) > options.deadline:
                    print(f"left out for lack of time: {case}, seed {seed}", flush=True)
                    continue
                self._case(*case, batches, seed)

    def _case(self, pattern: str, method: Any, reconstruct: Any, batches: list[Tensor], seed: int) -> None:
        twin, begun = copy.deepcopy(self.model), time.perf_counter()
        given = None if method == "magnitude" and reconstruct == "none" else batches
        how: dict[str, Any] = {"pattern": pattern}
        patterns = self.options.results / f"mixed_{seed}.json"
        chosen = pattern == MIXED and (reconstruct == "none" or not patterns.exists())
        if chosen:
            how = {"max_bytes": "4:6", "patterns": CHOICES}
        elif pattern == MIXED:
            how = {"pattern": json.loads(patterns.read_text())}
        how |= {"reconstruct": None if reconstruct == "none" else reconstruct, "steps": self.options.steps}
        report = sf.prune(twin, method, given, seed=seed, progress=False, **how)
        seconds = time.perf_counter() - begun
        about = dict(zip(KEY, (pattern, method, reconstruct, seed), strict=True))
        about |= {"calibration": "self", "tokens": sum(batch.numel() for batch in given or ())}
        about |= {"layers": require_patterns(twin, report), "seconds": round(seconds, 1)}
        if chosen:
            about |= self._mixture(report, patterns)
        self.rows.extend(self._measured(twin, about))
        print(self.rows[-1], f"{self._spent():.0f} s", flush=True)
        write(self.name, self.head, self.rows, self.options.results)
        self.took[self._kind(pattern, method, reconstruct)] = time.perf_counter() - begun

    def _mixture(self, report: Any, path: Path) -> dict[str, Any]:
        """Keep the patterns of a mixture in a file, and return its bytes and losses in nats a token."""
        found = {layer.name: layer.pattern for layer in report.layers if layer.pattern}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        return {
            "bytes_over_dense": round(report.nbytes / report.bytes_dense, 4),
            "kl": round(report.loss, 5),
            "kl_all": {name: round(loss, 5) for name, loss in report.loss_all.items()},
            "frontier": [
                {"kl": round(one.loss, 5), "bytes_over_dense": round(one.nbytes / report.bytes_dense, 4)}
                for one in report.frontier
            ],
        }

    def _measured(self, model: nn.Module, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield a row for each text, and one for the geometric mean of the ratios."""
        logs = []
        for name, windows in self.texts.items():
            found = perplexity(model, windows)
            logs.append(math.log(found / self.dense[name]))
            yield {key: about[key] for key in KEY} | {
                "text": name,
                "perplexity": round(found, 4),
                "dense": round(self.dense[name], 4),
                "ratio": round(found / self.dense[name], 4),
            }
        yield about | {"text": "mean", "ratio": round(math.exp(sum(logs) / len(logs)), 4)}

    def _written(self, seed: int) -> list[Tensor]:
        """Return batches of text of the model's own; magnitude pruning alone needs none."""
        options = self.options
        if set(options.methods) == {"magnitude"} and options.reconstruct == ["none"]:
            return []
        length, seconds = options.length, options.writing
        if options.own:
            rows, about = kept(options.own)
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
            rows = [rows[place] for place in order]
        else:
            rows, about = written(self.model, self.tokenizer, length, options.tokens, seconds, seed)
        print(f"seed {seed}: written {about}, {self._spent():.0f} s", flush=True)
        chosen = torch.stack(rows[: max(1, options.tokens // length)])
        return list(torch.split(chosen, options.batch))

    def _kind(self, pattern: str, method: str, reconstruct: str) -> tuple[str, str]:
        """Return what decides how long a case takes."""
        return (MIXED if pattern == MIXED else method, reconstruct)

    def _resume(self) -> None:
        """Take over the rows of an earlier run over the same texts and tokens."""
        path = self.options.results / f"{self.name}.json"
        if not path.exists():
            return
        found = json.loads(path.read_text())
        same = all(found["meta"].get(name) == self.head[name] for name in ("windows", "tokens", "steps"))
        if not same:
            raise SystemExit(f"{path} is of other windows, tokens or steps: name another --results")
        self.rows = found["rows"]

    def _spent(self) -> float:
        return time.monotonic() - self.started


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder or .gguf of the model")
    parser.add_argument("--texts", type=Path, help="what recover.py prepare wrote")
    parser.add_argument(
        "--own", type=Path, nargs="+", help="what `recover.py write` wrote, of which each seed takes others"
    )
    parser.add_argument("--windows", type=int, default=4, help="of each text")
    parser.add_argument("--tokens", type=int, default=16384, help="to calibrate on")
    parser.add_argument("--length", type=int, default=WINDOW, help="tokens in a row of own text")
    parser.add_argument(
        "--writing", type=float, default=60.0, help="seconds to write a seed's text in, at most"
    )
    parser.add_argument("--batch", type=int, default=8, help="rows in a batch of calibration")
    parser.add_argument("--steps", type=int, default=300, help="of a block's reconstruction")
    parser.add_argument("--patterns", nargs="+", default=PATTERNS, choices=PATTERNS)
    parser.add_argument("--methods", nargs="+", default=["sparsegpt"], choices=METHODS)
    parser.add_argument("--reconstruct", nargs="+", default=["none"], choices=["none", "layer", "block"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="of the text and of training")
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds for everything")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    return parser.parse_args()


def main() -> int:
    """Measure, and write quality_patterns_<device>.json after each case."""
    Measuring(parse(), time.monotonic()).run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
