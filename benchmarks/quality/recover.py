"""What recovery without data wins back: perplexity and answers of a small chat model, in every pattern.

For 2:4, 4:6, 6:8 and a mixture of them at the bytes of 4:6, and each method: one-shot, calibrated on text
that the model wrote, and after some seconds of sf.recover on the same text. The text is written once, and its
seconds are stated once.
Perplexity is over windows of 512 tokens of three texts of different kinds that nothing was calibrated on;
of the methods that --audit names also what the model still answers, and the page of an audit.

    python benchmarks/quality/recover.py prepare TEXTS.json [--windows 16]
    python benchmarks/quality/recover.py write MODEL OWN.pt [--seconds 60]
    python benchmarks/quality/recover.py run MODEL TEXTS.json [--own OWN.pt] [--deadline 520] [--results DIR]

`prepare` needs apt-get and no model; the others need no network. `write` lets the compiled model write what
several runs share, by SparseFlow's decode loop; without it each run writes its own. MODEL is a folder of
transformers, or a file of llama.cpp (.gguf). Recoveries share what the deadline leaves, so that everything
ends within it; what was left out for lack of time is printed and missing in the rows. Rows are written as
they are made; a run whose result is there adds to it what it lacks, and recoveries that are longer.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, meta, write
from chat_model import device_name, keep, kept, load, result_name, windows_of, written
from other_texts import WINDOW, parts_of_texts
from patterns import CHOICES, MIXED, PATTERNS, require_patterns

import sparseflow as sf
from sparseflow.evaluation.audit.answers import Answers
from sparseflow.finetune.objective import Objective
from sparseflow.reports.audit_page import audit_page
from sparseflow.reports.page_files import write as write_page

LEAST_SECONDS = 10.0
"""A recovery shorter than this is left out."""
RESERVE = 30.0
"""Seconds for what surrounds a recovery: pruning, measuring and writing."""
LONGER = 1.25
"""A recovery is made again only if it would be longer by this."""


def prepare(path: Path, windows: int) -> None:
    """Write parts of three texts, spread over each and long enough for a window, as JSON."""
    path.write_text(json.dumps(parts_of_texts(windows)))


def write_own(options: argparse.Namespace) -> None:
    """Let the model write text, and keep it in a file."""
    model, tokenizer = load(options.model, torch.bfloat16 if options.device == "cuda" else torch.float32)
    model.to(options.device)
    compiled = sf.compile(model, prune=None) if options.loop == "sparseflow" else None
    generate = None if compiled is None else compiled.generate
    asked = options.length, options.tokens, options.seconds, options.seed
    rows, about = written(model, tokenizer, *asked, generate, options.temperature)
    print(about, None if compiled is None else compiled.report.model["generate"], flush=True)
    keep(rows, {"loop": options.loop, "temperature": options.temperature, **about}, options.own)


@dataclass
class Run:
    """All measurements of one model."""

    options: argparse.Namespace
    started: float

    def __post_init__(self) -> None:
        self.device = torch.device(self.options.device)
        on_gpu = self.device.type == "cuda"
        dtype = getattr(torch, self.options.dtype or ("bfloat16" if on_gpu else "float32"))
        torch.set_float32_matmul_precision("high")
        self.dense, self.tokenizer = load(self.options.model, dtype)
        self.dense.to(self.device)
        self.windows = windows_of(self.options.texts, self.tokenizer, WINDOW, self.options.windows)
        self.perplexities = {name: self._perplexity(self.dense, w) for name, w in self.windows.items()}
        self.name = result_name(self.options.name, self.device)
        self.rows = self._earlier_rows()
        print(f"dense {self.perplexities}, {self._spent():.0f} s", flush=True)

    def write_text(self) -> None:
        """Let the dense model write what everything is calibrated and trained on."""
        options = self.options
        if options.own is not None:
            self.text, self.writing = kept(options.own)
        else:
            self.text, self.writing = written(
                self.dense, self.tokenizer, options.length, options.tokens, options.writing, options.seed
            )
        print(f"written {self.writing}, {self._spent():.0f} s", flush=True)

    def measure(self) -> None:
        """Prune and recover in every pattern by every method."""
        options = self.options
        cases = [(pattern, method) for method in options.methods for pattern in options.patterns]
        cases = [(pattern, method) for pattern, method in cases if pattern != MIXED or method != "magnitude"]
        for done, (pattern, method) in enumerate(cases):
            model, begun = copy.deepcopy(self.dense), time.monotonic()
            about = self._prune(model, pattern, method)
            if self._longest(pattern, method) is None:
                self._add(model, pattern, method, 0.0, time.monotonic() - begun, about)
            left = options.deadline - self._spent() - RESERVE * (len(cases) - done)
            seconds = min(options.seconds, left / (len(cases) - done))
            if seconds < LEAST_SECONDS:
                print(f"left out: {pattern} {method} recovered: {seconds:.0f} s are left", flush=True)
            elif seconds <= LONGER * (self._longest(pattern, method) or 0.0):
                print(f"{pattern} {method} recovered is there", flush=True)
            else:
                self._recovered(model, pattern, method, seconds, about)

    def _prune(self, model: nn.Module, pattern: str, method: Any) -> dict[str, Any]:
        """Prune a model in place; return what its rows say beside the case."""
        options = self.options
        batches = list(torch.split(torch.stack(self.text[: options.samples]), options.prune_batch))
        how: dict[str, Any] = {"pattern": pattern}
        if pattern == MIXED and options.mixed is not None:
            how = {"pattern": json.loads(options.mixed.read_text())}
        elif pattern == MIXED:
            how = {"max_bytes": "4:6", "patterns": CHOICES}
        given = None if method == "magnitude" else batches
        report = sf.prune(model, method, given, progress=False, **how)
        return {"layers": require_patterns(model, report)}

    def _longest(self, pattern: str, method: str) -> float | None:
        """Return how long this case was recovered at most; None if it wasn't measured at all."""
        same = {
            "pattern": pattern,
            "method": method,
            "seed": self.options.seed,
            "hidden": self.options.hidden,
        }
        found = [row["recovered_s"] for row in self.rows if same.items() <= row.items()]
        return max(found, default=None)

    def _recovered(
        self, model: nn.Module, pattern: str, method: str, seconds: float, about: dict[str, Any]
    ) -> None:
        options = self.options
        report = sf.recover(
            model,
            self.dense,
            seconds / 60,
            self.text,
            text_share=1.0,
            length=options.length,
            batch=options.batch,
            lr=options.lr,
            compile_layers=options.compile_layers,
            objective=Objective(kl=1.0, hidden=options.hidden),
            seed=options.seed,
            progress=False,
        )
        more = about | {
            "steps": report.steps,
            "tokens_trained": report.tokens_trained,
            "kl_before": round(report.before, 5),
            "kl_after": round(report.after, 5),
            "lr": report.lr,
            "stopped": report.stopped,
        }
        self._add(model, pattern, method, seconds, 60 * report.minutes, more)

    def _add(
        self,
        model: nn.Module,
        pattern: str,
        method: str,
        recovered: float,
        seconds: float,
        more: dict[str, Any],
    ) -> None:
        """Measure a model, add its rows, and write what there is."""
        case = {"pattern": pattern, "method": method, "recovered_s": round(recovered, 1)}
        case |= {"hidden": self.options.hidden, "seed": self.options.seed, "seconds": round(seconds, 1)}
        ratios = []
        for name, windows in self.windows.items():
            found, dense = self._perplexity(model, windows), self.perplexities[name]
            ratios.append(found / dense)
            self.rows.append(
                {**case, "text": name, "perplexity": round(found, 4), "dense": round(dense, 4)}
                | {"ratio": round(found / dense, 4)}
            )
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        answers = self._audit(model, case) if method in self.options.audit else {}
        self.rows.append({**case, "text": "mean", "ratio": round(mean, 4), **more, **answers})
        print(self.rows[-1], f"{self._spent():.0f} s", flush=True)
        head = meta(
            device_name(self.device),
            model=self.options.model.name,
            window=WINDOW,
            windows={name: len(windows) for name, windows in self.windows.items()},
            written=self.writing,
        )
        write(self.name, head, self.rows, self.options.results)

    def _earlier_rows(self) -> list[dict[str, Any]]:
        """Return the rows of an earlier run over the same windows."""
        path = self.options.results / f"{self.name}.json"
        if not path.exists():
            return []
        found = json.loads(path.read_text())
        if found["meta"]["windows"] != {name: len(windows) for name, windows in self.windows.items()}:
            raise SystemExit(f"{path} is of other windows: name another --results")
        rows: list[dict[str, Any]] = found["rows"]
        return rows

    def _audit(self, model: nn.Module, case: dict[str, Any]) -> dict[str, Any]:
        """Return what the model still answers; of a recovered one, also write the page."""
        options = sf.evaluation.AuditOptions(
            windows=4, batch=self.options.audit_batch, prompts=self.options.prompts, seed=self.options.seed
        )
        texts = {name: windows.flatten() for name, windows in self.windows.items()}
        report = sf.evaluation.audit(
            model, self.tokenizer, self.dense, texts=texts, options=options, about=case, progress=False
        )
        answers: Answers = report.answers
        if case["recovered_s"]:
            name = f"audit_{case['pattern'].replace(':', '_')}_{case['method']}.html"
            self.options.results.mkdir(exist_ok=True, parents=True)
            title = f"{self.options.model.name}, {case['pattern']} by {case['method']}, recovered"
            write_page(audit_page(title, report.to_dict()), self.options.results / name, "html")
        return {"answers": answers.summary(), "audit_minutes": round(sum(report.minutes.values()), 2)}

    def _perplexity(self, model: nn.Module, windows: Tensor) -> float:
        flat = windows.flatten()
        found = sf.evaluation.perplexity(model, flat, window=WINDOW, stride=WINDOW, batch=8, progress=False)
        return found.perplexity

    def _spent(self) -> float:
        return time.monotonic() - self.started


def main() -> int:
    """Prepare texts, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("prepare")
    making.add_argument("texts", type=Path)
    making.add_argument("--windows", type=int, default=16, help="of each text")
    running = commands.add_parser("run")
    writing = commands.add_parser("write")
    writing.add_argument("model", type=Path)
    writing.add_argument("own", type=Path)
    writing.add_argument("--device", default="cuda")
    writing.add_argument("--loop", choices=["sparseflow", "transformers"], default="sparseflow")
    writing.add_argument("--seconds", type=float, default=60.0, help="in which text is written")
    writing.add_argument("--tokens", type=int, help="to write; as many as the seconds allow")
    writing.add_argument("--length", type=int, default=512, help="tokens in a row")
    writing.add_argument("--temperature", type=float, default=1.0)
    writing.add_argument("--seed", type=int, default=0)
    running.add_argument("model", type=Path)
    running.add_argument("texts", type=Path, help="what prepare wrote")
    running.add_argument("--own", type=Path, nargs="+", help="what write wrote")
    running.add_argument("--name", default="quality_smollm2", help="of the result, the device's left out")
    running.add_argument("--device", default="cuda")
    running.add_argument("--dtype", help="bfloat16 on a GPU, float32 on a CPU")
    running.add_argument("--patterns", nargs="+", default=PATTERNS, choices=PATTERNS)
    running.add_argument("--methods", nargs="+", default=["sparsegpt"])
    running.add_argument("--seconds", type=float, default=90.0, help="of each recovery, at most")
    running.add_argument("--writing", type=float, default=75.0, help="seconds in which text is written")
    running.add_argument("--tokens", type=int, help="to write; as many as the seconds allow")
    running.add_argument("--deadline", type=float, default=520.0, help="seconds for everything")
    running.add_argument("--length", type=int, default=512, help="tokens in a row of own text")
    running.add_argument("--samples", type=int, default=128, help="rows to calibrate on")
    running.add_argument("--prune-batch", type=int, default=8, help="rows in a batch of calibration")
    running.add_argument("--mixed", type=Path, help="patterns that patterns.py chose, instead of choosing")
    running.add_argument("--windows", type=int, default=16, help="of each text")
    running.add_argument("--batch", type=int, help="rows a step")
    running.add_argument("--lr", type=float)
    running.add_argument("--compile-layers", action="store_true", default=None)
    running.add_argument("--hidden", type=float, default=0.0, help="weight of the hidden states")
    running.add_argument("--audit", nargs="*", default=["sparsegpt"], help="methods whose answers are read")
    running.add_argument("--audit-batch", type=int, default=100)
    running.add_argument("--prompts", type=int, default=200)
    running.add_argument("--seed", type=int, default=0)
    running.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "prepare":
        prepare(options.texts, options.windows)
        return 0
    if options.command == "write":
        write_own(options)
        return 0
    run = Run(options, time.monotonic())
    run.write_text()
    run.measure()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
