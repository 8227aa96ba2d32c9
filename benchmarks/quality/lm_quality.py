"""Held-out perplexity of a model that lm_train.py trained: dense, pruned by every method, and finetuned.

Usage: lm_quality.py FOLDER [--seed 0] [--model FOLDER/model-0] [--methods wanda sparsegpt+layer …]
                     [--calibrations 0 1 2] [--deadline SECONDS] [--device cuda] [--results FOLDER] [--tiny]
       lm_quality.py --plot RESULTS.json FILE.png

The seed is that of the training. "sparsegpt+layer" is `sf.prune(method="sparsegpt", reconstruct="layer")`.
The calibration seeds choose the calibration sequences, all from the training tokens. With the first of them
the best method's model is then distilled from the dense one under its masks, on a tenth of all tokens that
training took (repeats counted), once by KL and once by KL and the text itself, and on a tenth of the training
file. No row is begun after the deadline. Writes quality_lm_<device>.json after each row; merge_results.py
joins those of several seeds.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lm import FULL, TINY, TRAINING, Corpus, Scale, batches, device_name, model_folder
from transformers import AutoModelForCausalLM

import sparseflow as sf
from sparseflow.evaluation import plots

from _measure import RESULTS, gpu_name, meta, write  # isort: skip

METHODS = ("magnitude", "wanda", "ria", "sparsegpt", "sparsegpt+layer")
SHARE = 0.1


@dataclass(frozen=True)
class Recipe:
    """A finetuning.

    Attributes:
        objective: what is minimised.
        of_file: whether its tokens are a tenth of the training file, instead of a tenth of all that training
            took, drawn from the whole file.
    """

    objective: sf.finetune.Objective
    of_file: bool = False

    @property
    def name(self) -> str:
        """In result files."""
        terms = {name: weight for name, weight in vars(self.objective).items() if name in ("kl", "task")}
        objective = " + ".join(f"{weight:g} {name}" for name, weight in terms.items() if weight)
        return f"{objective}, {SHARE:.0%} of the {'training file' if self.of_file else 'tokens trained on'}"


RECIPES = (
    Recipe(sf.finetune.Objective(kl=1.0)),
    Recipe(sf.finetune.Objective(kl=1.0), of_file=True),
    Recipe(sf.finetune.Objective(kl=0.5, task=0.5)),
)


class Run:
    """All rows of one trained model."""

    def __init__(self, options: argparse.Namespace, scale: Scale) -> None:
        self.options, self.scale = options, scale
        self.device = torch.device(options.device)
        self.autocast = torch.bfloat16 if self.device.type == "cuda" else None
        self.corpus = Corpus.load(options.folder, scale)
        path = options.model or model_folder(options.folder, options.seed)
        self.dense = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).to(self.device).eval()
        self.trained_tokens: int = json.loads((path / TRAINING).read_text())["tokens"]
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    @property
    def late(self) -> bool:
        """Whether the deadline has passed."""
        return bool(time.perf_counter() - self.started > self.options.deadline)

    def all_rows(self) -> None:
        """Dense, one-shot and finetuned, then one-shot from other calibration sequences."""
        self.score(self.dense, method="dense")
        first, *others = self.options.calibrations
        models = {name: self.prune(name, first) for name in self.options.methods}
        best = min(self.rows[1:], key=lambda row: float(row["perplexity"]))
        for recipe in RECIPES:
            if not self.late:
                self.finetune(best, models[best["method"]], recipe)
        for calibration, name in itertools.product(others, self.options.methods):
            if not self.late:
                self.prune(name, calibration)

    def prune(self, name: str, calibration: int) -> torch.nn.Module:
        """Prune a copy by one method and score it."""
        method, _, reconstruct = name.partition("+")
        options: dict[str, Any] = {"reconstruct": reconstruct} if reconstruct else {}
        model: torch.nn.Module = copy.deepcopy(self.dense)
        data = self.corpus.sequences(1000 + calibration, self.scale.calibration, self.scale.length)
        start = time.perf_counter()
        sf.prune(model, method, batches(data, 8), seed=calibration, **options)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        self.score(model, method=name, calibration_seed=calibration, prune_seconds=seconds)
        return model

    def finetune(self, before: dict[str, Any], model: torch.nn.Module, recipe: Recipe) -> None:
        """Distil a copy of the pruned model that the row `before` is about."""
        student = copy.deepcopy(model)
        size, length = self.scale.finetune_batch, self.scale.length
        tokens = len(self.corpus.train) if recipe.of_file else self.trained_tokens
        steps = int(SHARE * tokens) // (size * length)
        share = SHARE if recipe.of_file else 1.0
        data = self.corpus.sequences(2000 + self.options.seed, steps * size, length, share)
        report = sf.finetune.distill(
            student,
            self.dense,
            [{"input_ids": batch, "labels": batch} for batch in batches(data, size)],
            steps=steps,
            lr=self.scale.finetune_lr,
            objective=recipe.objective,
            autocast=self.autocast,
            seed=self.options.seed,
        )
        self.score(
            student,
            method=before["method"],
            calibration_seed=before["calibration_seed"],
            finetune=recipe.name,
            finetune_tokens=steps * size * length,
            finetune_seconds=report.seconds,
            loss_curve=report.losses[:: max(1, steps // 50)],
        )

    def score(self, model: torch.nn.Module, **row: Any) -> None:
        """Add a row and write all of them."""
        how: dict[str, Any] = {"window": self.scale.length, "batch": 32}
        found = sf.evaluation.perplexity(model, self.corpus.heldout, **how)
        close = sf.evaluation.agreement(model, self.dense, self.corpus.heldout, **how)
        row = {"seed": self.options.seed, **row, "perplexity": found.perplexity, "nll": found.nll}
        row |= {"top1_agreement": close.top1, "kl": close.kl, "scored_tokens": found.tokens}
        if "finetune" in row:
            for name in (row["method"], "magnitude"):
                row[f"perplexity_gap_closed_of_{name}"] = self.closed(name, row["perplexity"])
        self.rows.append(row)
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "loss_curve"}
        print(json.dumps(shown), flush=True)
        self.write()

    def closed(self, method: str, perplexity: float) -> float | None:
        """The share of a one-shot method's loss of perplexity that is made good; None where it lost none."""
        dense: float = self.rows[0]["perplexity"]
        lost = [row["perplexity"] - dense for row in self.rows if row["method"] == method]
        return 1 - (perplexity - dense) / lost[0] if lost and lost[0] > 0 else None

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
    found: dict[str, list[float]] = {}
    for row in json.loads(source.read_text())["rows"]:
        tuned = f", finetuned: {row['finetune']}" if "finetune" in row else ""
        found.setdefault(row["method"] + tuned, []).append(row["perplexity"])
    order = sorted(found, key=lambda name: statistics.mean(found[name]))
    return plots.by_method({name: found[name] for name in order}, path, "held-out perplexity")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--calibrations", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--deadline", type=float, default=math.inf)
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
