"""Train a Llama-shaped language model of 28M parameters on the tokens that corpus.py wrote.

Usage: lm_train.py FOLDER [--seed 0] [--out FOLDER/model-0] [--device cuda] [--deadline 200]
                   [--compile] [--results FOLDER] [--tiny]

AdamW, bf16 autocast, a linear warm-up and a cosine to zero over the steps, or over the deadline in seconds,
compiling included, where that comes first. Writes the model, and quality_lm_train_<device>.json with the loss
curve, training and held-out, after each look at the held-out tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lm import FULL, TINY, TRAINING, Corpus, Scale, batches, device_name, model_folder
from torch import Tensor

import sparseflow as sf
from sparseflow.finetune.distill import warmup_cosine

from _measure import RESULTS, gpu_name, meta, write  # isort: skip

LOOKS = 20
"""How often the held-out loss is measured."""


def optimizer_of(model: torch.nn.Module, scale: Scale, device: torch.device) -> torch.optim.AdamW:
    """AdamW; norms and embeddings don't decay."""
    decaying = [p for name, p in model.named_parameters() if p.dim() == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.dim() != 2 or "embed" in name]
    groups = [{"params": decaying, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=scale.lr, betas=(0.9, 0.95), fused=device.type == "cuda")


class Run:
    """One training."""

    def __init__(self, options: argparse.Namespace, scale: Scale) -> None:
        self.scale, self.options = scale, options
        self.device = torch.device(options.device)
        self.corpus = Corpus.load(options.folder, scale)
        torch.manual_seed(options.seed)
        torch.set_float32_matmul_precision("high")
        self.model = scale.model(self.corpus.vocabulary).to(self.device)
        self.optimizer = optimizer_of(self.model, scale, self.device)
        sequences = self.corpus.sequences(options.seed, scale.steps * scale.batch, scale.length)
        self.batches = batches(sequences.to(self.device), scale.batch)
        self.forward: Callable[..., Any] = torch.compile(self.model) if options.compile else self.model
        self.rows: list[dict[str, Any]] = []

    def train(self) -> None:
        """All steps, or until the deadline."""
        self.model.train()
        begun = time.perf_counter()
        self._warm_up()
        started, seen = time.perf_counter(), 0
        left = max(1.0, self.options.deadline - (started - begun))
        losses: list[Tensor] = []
        for step, batch in enumerate(self.batches):
            elapsed = time.perf_counter() - started
            progress = max(step / len(self.batches), elapsed / left)
            if progress >= 1:
                break
            losses.append(self._step(batch, warmup_cosine(progress)))
            seen += batch.numel()
            if progress * LOOKS >= len(self.rows) + 1:
                self._look(seen, losses, started)
                losses.clear()
        self._look(seen, losses, started)

    def _warm_up(self) -> None:
        """A step that changes nothing, its learning rate being zero: libraries load, the model compiles."""
        try:
            self._step(self.batches[0], 0.0)
        except Exception as error:
            if not self.options.compile:
                raise
            print(f"lm_train: not compiled: {type(error).__name__}: {error}", file=sys.stderr)
            self.forward = self.model
            self.optimizer.zero_grad(set_to_none=True)
            self._step(self.batches[0], 0.0)
        self.optimizer.state.clear()

    def _step(self, batch: Tensor, share: float) -> Tensor:
        for group in self.optimizer.param_groups:
            group["lr"] = self.scale.lr * share
        with torch.autocast(self.device.type, torch.bfloat16):
            loss: Tensor = self.forward(input_ids=batch, labels=batch).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _look(self, seen: int, losses: list[Tensor], started: float) -> None:
        """Measure the held-out loss and write what there is."""
        mean = float(torch.stack(losses).mean()) if losses else self.rows[-1]["train_nll"]
        self.model.eval()
        held = sf.evaluation.perplexity(
            self.model,
            self.corpus.heldout,
            window=self.scale.length,
            stride=self.scale.length,
            batch=64,
            autocast=torch.bfloat16,
        )
        self.model.train()
        seconds = time.perf_counter() - started
        row = {
            "seed": self.options.seed,
            "tokens": seen,
            "train_nll": mean,
            "heldout_nll": held.nll,
            "seconds": seconds,
        }
        print(
            f"{seen / 1e6:7.1f}M tokens, train {mean:.4f}, held out {held.nll:.4f}, {seconds:.0f} s",
            flush=True,
        )
        self.rows.append(row)
        self.write()

    def write(self) -> Path:
        """The result file."""
        scale, device = self.scale, device_name(self.device)
        head = meta(
            device,
            parameters=sum(p.numel() for p in self.model.parameters()),
            train_tokens=len(self.corpus.train),
            heldout_tokens=len(self.corpus.heldout),
            scale=vars(scale),
        )
        bench = "quality_lm_train"
        name = gpu_name(bench, device) if self.device.type == "cuda" else f"{bench}_cpu"
        return write(name, head, self.rows, self.options.results)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--deadline", type=float, default=200.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    run = Run(options, TINY if options.tiny else FULL)
    run.train()
    out = options.out or model_folder(options.folder, options.seed)
    run.model.eval().save_pretrained(out)
    (out / TRAINING).write_text(json.dumps({"tokens": run.rows[-1]["tokens"]}))
    print(run.write())
    return 0


if __name__ == "__main__":
    sys.exit(main())
