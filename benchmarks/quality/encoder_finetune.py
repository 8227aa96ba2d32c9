"""Quality of all-MiniLM-L6-v2 with 2:4 weights before and after masked distillation on unlabelled sentences.

Usage: encoder_finetune.py [--device cuda] [--steps 100 400 1600] [--seeds 3] [--reconstruct layer]

700 first lines of the standard library's docstrings are shuffled under a seed: 400 calibrate SparseGPT, 300
test. All linear layers are pruned but the pooler's, which embeddings don't use. The dense encoder then
teaches the pruned one on those paragraphs of the standard library's docstrings that hold no test sentence.
Writes quality_encoder_finetune_<device>.json after each row.
"""

from __future__ import annotations

import argparse
import ast
import copy
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lm import device_name
from torch import Tensor

import sparseflow as sf

sys.path.insert(0, str(Path(__file__).parents[2] / "demo"))

from _measure import RESULTS, gpu_name, meta, write  # isort: skip
from models import Encoder, load_encoder  # isort: skip
from sentences import docstring_sentences  # isort: skip

CALIBRATION, TEST = 400, 300
BATCH = 64
LR = 5e-4
OBJECTIVE = sf.finetune.Objective(hidden=1.0, cosine=1.0)


def split(seed: int) -> tuple[list[str], list[str]]:
    """Sentences to calibrate on and to test on."""
    sentences = docstring_sentences(CALIBRATION + TEST)
    order = torch.randperm(len(sentences), generator=torch.Generator().manual_seed(seed)).tolist()
    return [sentences[i] for i in order[:CALIBRATION]], [sentences[i] for i in order[CALIBRATION:]]


def paragraphs() -> list[str]:
    """Distinct paragraphs of docstrings, 40 to 300 characters, in order of file name."""
    found: dict[str, None] = {}
    for text in _docstrings():
        for paragraph in text.split("\n\n"):
            line = " ".join(paragraph.split())
            if 40 <= len(line) <= 300:
                found.setdefault(line)
    return list(found)


def _docstrings() -> Iterator[str]:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8", errors="replace"))
        except (SyntaxError, ValueError):
            continue  # some test files are wrong on purpose
        for node in ast.walk(tree):
            if isinstance(node, documented) and (text := ast.get_docstring(node)):
                yield text


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
        self.encoder = load_encoder()
        self.dense: torch.nn.Module = self.encoder.model.to(self.device)
        self.sentences = paragraphs()
        self.rows: list[dict[str, Any]] = []

    def seed(self, seed: int) -> None:
        """One-shot and finetuned rows of one split."""
        calibration, test = split(seed)
        taught = [text for text in self.sentences if not any(known in text for known in test)]
        data = batches(self.encoder, taught)
        tests = batches(self.encoder, test)
        expected = sf.evaluation.embed(self.dense, tests)
        pruned = copy.deepcopy(self.dense)
        more = {"reconstruct": self.options.reconstruct} if self.options.reconstruct else {}
        sf.prune(pruned, "sparsegpt", batches(self.encoder, calibration), skip=("*pooler*",), **more)
        self.add(pruned, tests, expected, seed=seed, steps=0, seconds=0.0, sentences=0)
        for steps in self.options.steps:
            student = copy.deepcopy(pruned)
            start = time.perf_counter()
            sf.finetune.distill(student, self.dense, data, steps=steps, lr=LR, objective=OBJECTIVE, seed=seed)
            seconds = time.perf_counter() - start
            self.add(student, tests, expected, seed=seed, steps=steps, seconds=seconds, sentences=len(taught))

    def add(self, model: torch.nn.Module, tests: list[dict[str, Tensor]], dense: Tensor, **row: Any) -> None:
        """Score a model, and write what there is."""
        scores = sf.evaluation.compare_embeddings(sf.evaluation.embed(model, tests), dense)
        self.rows.append({"reconstruct": self.options.reconstruct, **row, **scores.to_dict()})
        print(self.rows[-1], flush=True)
        device = device_name(self.device)
        bench = "quality_encoder_finetune"
        head = meta(device, lr=LR, batch=BATCH, objective=vars(OBJECTIVE), calibration=CALIBRATION)
        name = gpu_name(bench, device) if self.device.type == "cuda" else f"{bench}_cpu"
        write(name, head, self.rows, self.options.results)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--reconstruct", help="as sf.prune's, before the distillation")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = Run(options)
    for seed in range(options.seeds):
        run.seed(seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
