"""Held-out perplexity of the model that lm_train.py trained: dense, pruned by every method, and finetuned.

Usage: lm_quality.py FOLDER [--model FOLDER/model] [--methods wanda sparsegpt+layer …] [--device cuda]
                     [--tiny]
       lm_quality.py --plot RESULTS.json FILE.png

Three seeds choose the calibration sequences, all from the training tokens. "sparsegpt+layer" is
`sf.prune(method="sparsegpt", reconstruct="layer")`. The best method's model of each seed is then distilled
from the dense one under its masks, in one run on a tenth of the training file and in one on a tenth of all
tokens that training took (repeats counted; from the whole file). Writes quality_lm_<device>.json after each
row.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm import FULL, TINY, TRAINING, Corpus, Scale, batches, device_name
from transformers import AutoModelForCausalLM

import sparseflow as sf
from sparseflow.evaluation import plots

from _measure import RESULTS, gpu_name, meta, write  # isort: skip

SEEDS = (0, 1, 2)
METHODS = ("magnitude", "wanda", "ria", "sparsegpt", "sparsegpt+layer")
SHARE = 0.1


class Run:
    """All rows of one trained model."""

    def __init__(self, options: argparse.Namespace, scale: Scale) -> None:
        self.options, self.scale = options, scale
        self.device = torch.device(options.device)
        self.autocast = torch.bfloat16 if self.device.type == "cuda" else None
        self.corpus = Corpus.load(options.folder, scale)
        path = options.model or options.folder / "model"
        self.dense = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(self.device).eval()
        self.trained_tokens: int = json.loads((path / TRAINING).read_text())["tokens"]
        self.rows: list[dict[str, Any]] = []

    def all_rows(self) -> None:
        """Dense, one-shot and finetuned."""
        self.score("dense", 0, self.dense)
        best: dict[int, tuple[str, torch.nn.Module]] = {}
        for name in self.options.methods:
            for seed in SEEDS:
                model = self.prune(name, seed)
                if model is None:
                    break
                row = self.rows[-1]
                least = min(r["perplexity"] for r in self.rows[1:] if r["seed"] == seed)
                if row["perplexity"] == least:
                    best[seed] = (name, model)
        for seed in SEEDS:
            self.finetune(seed, *best[seed], "of the training file", len(self.corpus.train), SHARE)
        for seed in SEEDS:
            self.finetune(seed, *best[seed], "of the tokens trained on", self.trained_tokens, 1.0)

    def prune(self, name: str, seed: int) -> torch.nn.Module | None:
        """Prune a copy by one method and score it; None where `sf.prune` lacks the method."""
        method, _, reconstruct = name.partition("+")
        options: dict[str, Any] = {"reconstruct": reconstruct} if reconstruct else {}
        if reconstruct and "reconstruct" not in inspect.signature(sf.prune).parameters:
            print(f"{name}: left out, sf.prune has no option reconstruct", flush=True)
            return None
        model: torch.nn.Module = copy.deepcopy(self.dense)
        data = self.corpus.sequences(1000 + seed, self.scale.calibration, self.scale.length)
        start = time.perf_counter()
        try:
            sf.prune(model, method, batches(data, 8), **options)  # type: ignore[arg-type]
        except sf.SparseFlowError as error:
            print(f"{name}: left out: {error}", flush=True)
            return None
        self.score(name, seed, model, prune_seconds=time.perf_counter() - start)
        return model

    def finetune(
        self, seed: int, name: str, model: torch.nn.Module, what: str, tokens: int, share: float
    ) -> None:
        """Distil a copy of a pruned model on a tenth of so many tokens, from a share of the training file."""
        before = next(row for row in self.rows if (row["method"], row["seed"]) == (name, seed))
        student = copy.deepcopy(model)
        size, length = self.scale.finetune_batch, self.scale.length
        steps = int(SHARE * tokens) // (size * length)
        data = self.corpus.sequences(2000 + seed, steps * size, length, share)
        report = sf.finetune.distill(
            student,
            self.dense,
            batches(data, size),
            steps=steps,
            lr=self.scale.finetune_lr,
            objective=sf.finetune.Objective(kl=1.0),
            autocast=self.autocast,
            seed=seed,
        )
        tuned = steps * size * length
        self.score(
            f"{name}, finetuned on {SHARE:.0%} {what}",
            seed,
            student,
            before=before,
            finetune_tokens=tuned,
            of_training_file=tuned / len(self.corpus.train),
            of_tokens_trained_on=tuned / self.trained_tokens,
            finetune_seconds=report.seconds,
            loss_curve=report.losses[:: max(1, steps // 50)],
        )

    def score(
        self, name: str, seed: int, model: torch.nn.Module, before: dict[str, Any] | None = None, **more: Any
    ) -> None:
        """Add a row and write all of them."""
        how: dict[str, Any] = {"window": self.scale.length, "batch": 32, "autocast": self.autocast}
        found = sf.evaluation.perplexity(model, self.corpus.heldout, **how)
        close = sf.evaluation.agreement(model, self.dense, self.corpus.heldout, **how)
        row = {"method": name, "seed": seed, "perplexity": found.perplexity, "nll": found.nll}
        row |= {"top1_agreement": close.top1, "kl": close.kl, "scored_tokens": found.tokens, **more}
        if before is not None:
            dense = self.rows[0]
            for figure in ("perplexity", "nll"):
                gap = before[figure] - dense[figure]
                row[f"{figure}_gap_closed"] = 1 - (row[figure] - dense[figure]) / gap if gap > 0 else None
        self.rows.append(row)
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "loss_curve"}
        print(json.dumps(shown), flush=True)
        self.write()

    def write(self) -> Path:
        """The result file."""
        device = device_name(self.device)
        head = meta(
            device,
            parameters=sum(p.numel() for p in self.dense.parameters()),
            train_tokens=len(self.corpus.train),
            tokens_trained_on=self.trained_tokens,
            calibration_tokens=self.scale.calibration * self.scale.length,
            window=self.scale.length,
            stride=self.scale.length // 2,
        )
        name = gpu_name("quality_lm", device) if self.device.type == "cuda" else "quality_lm_cpu"
        return write(name, head, self.rows, self.options.results)


def plot(source: Path, path: Path) -> Path:
    """Draw the perplexities of a result file."""
    rows = json.loads(source.read_text())["rows"]
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["method"], []).append(row["perplexity"])
    order = sorted(found, key=lambda name: statistics.mean(found[name]))
    return plots.by_method({name: found[name] for name in order}, path, "held-out perplexity")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, nargs=2, metavar=("RESULTS", "FILE"))
    options = parser.parse_args()
    if options.plot:
        print(plot(*options.plot))
        return 0
    if options.folder is None:
        parser.error("needs a folder of corpus.py, or --plot")
    run = Run(options, TINY if options.tiny else FULL)
    run.all_rows()
    print(run.write())
    return 0


if __name__ == "__main__":
    sys.exit(main())
