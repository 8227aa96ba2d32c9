"""Quality of all-MiniLM-L6-v2 with 2:4 weights, recovered on sentences that a language model made up.

    python benchmarks/quality/encoder_recover.py PACKED OWN.pt WRITER [--device cuda] [--seconds 300]
        [--lr 1e-3] [--seeds 0 1 2] [--deadline SECONDS] [--results FOLDER]

PACKED is a folder of `encoder_pack.py --all-words`; OWN.pt is what `recover.py write` wrote, WRITER the
folder of the model that wrote it, of which the tokenizer is read. Nothing else is learned from: 400 of those
sentences calibrate SparseGPT, with layers reconstructed, and sf.recover trains on the others. All linear
layers are pruned but the pooler's, which embeddings don't use. Tested on 300 first lines of docstrings, as
encoder.py has them. No row is begun after the deadline. Writes quality_encoder_recover_<device>.json after
each row.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from chat_model import device_name, kept, result_name
from encoder import CALIBRATION, by_length, split
from encoder_finetune import OBJECTIVE
from encoder_pack import unpack
from models import Encoder
from torch import Tensor

import sparseflow as sf
from sparseflow.integrations.transformers.models import read_tokenizer

from _measure import RESULTS, meta, write  # isort: skip

BATCH, LENGTH = 64, 64
"""Sentences of a batch, and tokens that each is padded or cut to: batches of one shape make one recording."""
SHORTEST, LONGEST = 20, 300
_ENDS = re.compile(r"(?<=[.!?:])\s+|\n+")


def sentences_of(texts: Sequence[str]) -> Iterator[str]:
    """Yield the sentences of texts, those that are cut at either end left out."""
    for text in texts:
        for part in _ENDS.split(text)[1:-1]:
            sentence = " ".join(part.split())
            if SHORTEST <= len(sentence) <= LONGEST:
                yield sentence


def batches(encoder: Encoder, sentences: Sequence[str]) -> list[dict[str, Tensor]]:
    """Return whole batches of sentences, `[BATCH, LENGTH]` each."""
    how = {"padding": "max_length", "truncation": True, "max_length": LENGTH, "return_tensors": "pt"}
    whole = len(sentences) // BATCH * BATCH
    return [dict(encoder.tokenizer(list(sentences[at : at + BATCH]), **how)) for at in range(0, whole, BATCH)]


class Run:
    """All rows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.started = time.monotonic()
        torch.set_float32_matmul_precision("high")
        self.encoder, self.tests, _ = unpack(options.packed)
        self.dense: Any = self.encoder.model.to(self.device)
        rows, self.writing = kept(options.own)
        tokenizer = read_tokenizer(options.writer)
        if tokenizer is None:
            raise SystemExit(f"encoder_recover: {options.writer} has no tokenizer")
        texts = tokenizer.batch_decode(torch.stack(rows), skip_special_tokens=True)
        found = list(dict.fromkeys(sentences_of(texts)))
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0)).tolist()
        self.made = [found[place] for place in order]
        self.data = batches(self.encoder, self.made[CALIBRATION:])
        self.rows: list[dict[str, Any]] = []
        print(f"{len(self.made)} sentences, {self._spent():.0f} s", flush=True)

    def seed(self, seed: int) -> None:
        """Measure one-shot and recovered models on the test sentences of a seed."""
        options = self.options
        _, test = split(seed, self.tests)
        tests = self.encoder.batches(test)
        expected = sf.evaluation.embed(self.dense, tests)
        pruned = copy.deepcopy(self.dense)
        given = by_length(self.encoder, self.made[:CALIBRATION])
        sf.prune(pruned, "sparsegpt", given, skip=("*pooler*",), reconstruct="layer", seed=seed)
        self._add(pruned, tests, expected, seed=seed, seconds=0.0)
        for seconds in options.seconds:
            if self._spent() > options.deadline:
                return
            student = copy.deepcopy(pruned)
            report = sf.recover(
                student,
                self.dense,
                seconds / 60,
                self.data,
                lr=options.lr,
                objective=OBJECTIVE,
                seed=seed,
                progress=False,
            )
            about = {
                "steps": report.steps,
                "before": round(report.before, 5),
                "after": round(report.after, 5),
            }
            self._add(student, tests, expected, seed=seed, seconds=seconds, lr=report.lr, **about)

    def _add(self, model: Any, tests: list[dict[str, Tensor]], expected: Tensor, **row: Any) -> None:
        """Score a model, and write what there is."""
        scores = sf.evaluation.compare_embeddings(sf.evaluation.embed(model, tests), expected)
        self.rows.append({**row, **scores.to_dict()})
        print(self.rows[-1], f"{self._spent():.0f} s", flush=True)
        head = meta(
            device_name(self.device),
            batch=BATCH,
            length=LENGTH,
            objective=vars(OBJECTIVE),
            calibration=CALIBRATION,
            sentences=len(self.made),
            written=self.writing,
            weights="float16",
        )
        write(result_name("quality_encoder_recover", self.device), head, self.rows, self.options.results)

    def _spent(self) -> float:
        return time.monotonic() - self.started


def main() -> int:
    """Measure, for every seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path)
    parser.add_argument("own", type=Path, nargs="+", help="what recover.py write wrote")
    parser.add_argument("writer", type=Path, help="folder of the model that wrote it")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, nargs="+", default=[300.0], help="of each recovery")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--deadline", type=float, default=math.inf, help="seconds after which no row begins")
    parser.add_argument("--results", type=Path, default=RESULTS)
    run = Run(parser.parse_args())
    for seed in run.options.seeds:
        run.seed(seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
