"""Quality of all-MiniLM-L6-v2 with 2:4 weights before and after masked distillation on unlabelled sentences.

Usage: encoder_finetune.py PACKED [--device cuda] [--steps 4000 1000] [--lr 5e-4 1e-3] [--seeds 0 1 2]
                           [--reconstruct layer] [--deadline SECONDS] [--results FOLDER]

PACKED is a folder of encoder_pack.py. 700 first lines of the standard library's docstrings are shuffled under
a seed: 400 calibrate SparseGPT, 300 test. All linear layers are pruned but the pooler's, which embeddings
don't use. The dense encoder then teaches the pruned one on those packed paragraphs that hold no test
sentence. No row is begun after the deadline. Writes quality_encoder_finetune_<device>.json after each row.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
import time
from pathlib import Path
from typing import Any

import torch
from encoder import CALIBRATION, by_length, split
from encoder_pack import unpack
from lm import device_name
from models import Encoder
from torch import Tensor

import sparseflow as sf

from _measure import RESULTS, gpu_name, meta, write  # isort: skip

BATCH = 64
OBJECTIVE = sf.finetune.Objective(hidden=1.0, cosine=5.0)


def batches(encoder: Encoder, sentences: list[str], size: int = BATCH) -> list[dict[str, Tensor]]:
    """Sentences of about equal length together: little padding."""
    ordered = sorted(sentences, key=len)
    return [encoder.tokenize(ordered[at : at + size]) for at in range(0, len(ordered), size)]


class Run:
    """All rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        torch.set_float32_matmul_precision("high")
        self.encoder, self.sentences, self.paragraphs = unpack(options.packed)
        self.dense: torch.nn.Module = self.encoder.model.to(self.device)
        self.rows: list[dict[str, Any]] = []
        self.started = time.perf_counter()

    def seed(self, seed: int) -> None:
        """One-shot and finetuned rows of one split."""
        calibration, test = split(seed, self.sentences)
        held = set(test)
        taught = [text for text in self.paragraphs if not any(known in text for known in held)]
        data = batches(self.encoder, taught)
        tests = batches(self.encoder, test)
        expected = sf.evaluation.embed(self.dense, tests)
        pruned = copy.deepcopy(self.dense)
        sf.prune(
            pruned,
            "sparsegpt",
            by_length(self.encoder, calibration),
            skip=("*pooler*",),
            reconstruct=self.options.reconstruct,
            seed=seed,
        )
        self.add(pruned, tests, expected, seed=seed, steps=0)
        for lr, steps in itertools.product(self.options.lr, self.options.steps):
            if time.perf_counter() - self.started > self.options.deadline:
                return
            student = copy.deepcopy(pruned)
            report = sf.finetune.distill(
                student, self.dense, data, steps=steps, lr=lr, objective=OBJECTIVE, seed=seed
            )
            more = {"seconds": report.seconds, "paragraphs": len(taught), "last_loss": report.losses[-1]}
            self.add(student, tests, expected, seed=seed, steps=steps, lr=lr, **more)

    def add(self, model: torch.nn.Module, tests: list[dict[str, Tensor]], dense: Tensor, **row: Any) -> None:
        """Score a model, and write what there is."""
        scores = sf.evaluation.compare_embeddings(sf.evaluation.embed(model, tests), dense)
        self.rows.append({"reconstruct": self.options.reconstruct, **row, **scores.to_dict()})
        print(self.rows[-1], flush=True)
        device = device_name(self.device)
        bench = "quality_encoder_finetune"
        head = meta(
            device, batch=BATCH, objective=vars(OBJECTIVE), calibration=CALIBRATION, weights="float16"
        )
        name = gpu_name(bench, device) if self.device.type == "cuda" else f"{bench}_cpu"
        write(name, head, self.rows, self.options.results)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, nargs="+", default=[4000, 1000])
    parser.add_argument("--lr", type=float, nargs="+", default=[5e-4, 1e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--reconstruct", default="layer", help="as sf.prune's, before the distillation")
    parser.add_argument("--deadline", type=float, default=math.inf)
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = Run(options)
    for seed in options.seeds:
        run.seed(seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
