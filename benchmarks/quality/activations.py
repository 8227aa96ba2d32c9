"""A small chat model whose linear layers leave out inputs near zero: perplexity, answers, and both recovered.

Thresholds are what sf.calibrate_activations chooses on text that the model wrote; beside them stand equal
shares for all layers. Some are recovered: sf.recover(activations=…) on the same text, measured with
thresholds that are chosen anew and leave out the same share of each layer's inputs. Perplexity is over
windows of 512 tokens of three texts that nothing was calibrated on; the first four tokens of a window are
read in full and not scored. Answers are greedy, of prompts that are read in full, as when the model is
compiled. `saved` is the share of all linear layers' weights (lm_head left out) that a token doesn't read,
counted where perplexity and answers are measured.

    python benchmarks/quality/activations.py MODEL TEXTS.json [--deadline 280] [--results FOLDER]

MODEL is a folder of transformers, or a file of llama.cpp (.gguf). TEXTS.json is what `recover.py prepare`
wrote. It needs no network. Rows are written as they are made; recoveries share what the deadline leaves, so
that everything ends within it, and what was left out for lack of time is printed.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from _measure import RESULTS, meta, write
from chat_model import device_name, kept, load, result_name, windows_of, written
from leaving_out import leaving_out, sinks
from other_texts import WINDOW, perplexity
from same_answers import DenseAnswers

import sparseflow as sf
from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds
from sparseflow.contextual.activations.calibrating import ChoiceOptions, ThresholdChoice
from sparseflow.contextual.activations.inputs import changing
from sparseflow.contextual.activations.magnitudes import Magnitudes
from sparseflow.runtime.contextual.column import SINKS

CALIBRATED, EQUAL, RECOVERED = "calibrated", "equal shares", "recovered"
LEAST_SECONDS = 10.0
"""A recovery shorter than this is left out."""
RESERVE = 25.0
"""Seconds for measuring and writing after a recovery."""


@dataclass
class Run:
    """All measurements of one model."""

    options: argparse.Namespace
    started: float
    rows: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        options = self.options
        self.device = torch.device(options.device)
        torch.set_float32_matmul_precision("high")
        self.dense, self.tokenizer = load(options.model, getattr(torch, options.dtype))
        self.dense.to(self.device)
        windows = windows_of(options.texts, self.tokenizer, WINDOW, options.windows)
        self.windows = {name: ids.to(self.device) for name, ids in windows.items()}
        self.at_once = 8 if self.device.type == "cuda" else 1
        self.perplexities = {
            name: perplexity(self.dense, windows, self.at_once) for name, windows in self.windows.items()
        }
        self._say(f"dense {self.perplexities}")

    def prepare(self) -> None:
        """Let the dense model write and answer, and see its inputs."""
        options = self.options
        if options.own:
            self.text, self.writing = kept(options.own)
        else:
            self.text, self.writing = written(
                self.dense, self.tokenizer, options.length, None, options.writing, options.seed
            )
        self._say(f"written {self.writing}")
        self.asked = DenseAnswers.of(
            self.dense, self.tokenizer, options.prompts, options.new_tokens, options.answers_at_once
        )
        self._say(f"{len(self.asked.answers)} dense answers")
        begun = time.monotonic()
        self.choice = self._choice(self.dense)
        self.weights = int(self.choice.weights.sum())
        self.seconds = time.monotonic() - begun
        self._say(f"calibrated on {len(self.choice.windows)} rows in {self.seconds:.1f} s")

    def _choice(self, model: nn.Module) -> ThresholdChoice:
        """Return what is seen of a model's inputs on the text."""
        options = self.options
        rows = self.text[: -(-options.tokens // options.length)]
        choice = ChoiceOptions(None, None, options.tokens, options.length, sf.DEFAULT_SKIP, options.seed)
        found = ThresholdChoice(model, [row[None].to(self.device) for row in rows], choice)
        found.measure(lambda done: None)
        return found

    def measure(self) -> None:
        """Measure every rate, then recover."""
        for rate in self.options.rates:
            found = self.choice.thresholds(self.choice.saving(rate), "self")
            more = {"chosen": round(found.chosen.rate, 4) if found.chosen else None}
            more |= {"calibration_s": round(self.seconds, 1)}
            self._add(self.dense, CALIBRATED, rate, limits_of(found), more, answers=rate in self.options.ask)
        for rate in self.options.rates:
            self._add(self.dense, EQUAL, rate, self._equal(rate), {}, answers=False)
        for done, rate in enumerate(self.options.recover):
            cases = len(self.options.recover) - done
            seconds = min(self.options.seconds, (self.options.deadline - self._spent()) / cases - RESERVE)
            if seconds < LEAST_SECONDS:
                self._say(f"left out: recovery at {rate:.0%}, {seconds:.0f} s are left")
            else:
                self._recovered(rate, seconds)

    def _recovered(self, rate: float, seconds: float) -> None:
        """Recover a copy of the model at a rate, and measure it."""
        options = self.options
        thresholds = self.choice.thresholds(self.choice.saving(rate), "self")
        model = copy.deepcopy(self.dense)
        report = sf.recover(
            model,
            self.dense,
            seconds / 60,
            self.text,
            activations=thresholds,
            text_share=1.0,
            length=options.length,
            batch=options.batch,
            lr=options.lr,
            seed=options.seed,
            progress=False,
        )
        more = {
            "chosen": round(thresholds.chosen.rate, 4) if thresholds.chosen else None,
            "recovered_s": round(60 * report.minutes, 1),
            "steps": report.steps,
            "tokens_trained": report.tokens_trained,
            "kl_before": round(report.before, 5),
            "kl_after": round(report.after, 5),
            "lr": report.lr,
            "stopped": report.stopped,
        }
        choice = self._choice(model)
        renewed = choice.thresholds(choice.keeping(thresholds), "self")
        self._add(model, RECOVERED, rate, limits_of(renewed), more, answers=True)

    def _equal(self, rate: float) -> dict[str, float]:
        """Return the threshold of each layer below which this share of its inputs lies."""
        if not hasattr(self, "_seen"):
            self._seen = self._magnitudes()
        share = torch.tensor([rate])
        return {
            layer.name: float(self._seen[shared.name].quantiles(share)[0])
            for shared in self.choice.inputs
            for layer in shared.layers
        }

    @torch.no_grad()
    def _magnitudes(self) -> dict[str, Magnitudes]:
        seen = {shared.name: Magnitudes(self.device) for shared in self.choice.inputs}

        def see(shared: Any, layer: Any, x: torch.Tensor) -> None:
            if layer is shared.layers[0]:
                seen[shared.name].add(x[..., SINKS:, :])

        with changing(self.choice.inputs, see):
            for window in self.choice.windows:
                self.dense(window)
        return seen

    def _add(
        self,
        model: nn.Module,
        method: str,
        rate: float,
        limits: Mapping[str, float],
        more: dict[str, Any],
        *,
        answers: bool,
    ) -> None:
        """Measure a model, add its rows, and write what there is."""
        case = {"method": method, "rate": rate, "seed": self.options.seed}
        ratios, shares = [], []
        for name, windows in self.windows.items():
            with leaving_out(model, limits, sinks, self.weights) as saved:
                found = perplexity(model, windows, self.at_once)
            ratio = found / self.perplexities[name]
            ratios.append(ratio)
            shares.append(saved.share)
            self.rows.append(
                {**case, "text": name, "perplexity": round(found, 4), "saved": round(saved.share, 4)}
                | {"dense": round(self.perplexities[name], 4), "ratio": round(ratio, 4)}
            )
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        row = {**case, "text": "mean", "ratio": round(mean, 4), **more}
        row["saved"] = round(sum(shares) / len(shares), 4)
        if answers and self.asked.answers:
            row["answers"], texts = self.asked.beside(model, limits, self.weights)
            self.answers.append({**case, "texts": texts})
        self.rows.append(row)
        self._say(str(row))
        self._write()

    def _write(self) -> None:
        head = meta(
            device_name(self.device),
            model=self.options.model.name,
            window=WINDOW,
            windows={name: len(windows) for name, windows in self.windows.items()},
            written=self.writing,
        )
        folder = self.options.results
        write(result_name(self.options.name, self.device), head, self.rows, folder)
        texts = json.dumps(self.answers, indent=1, ensure_ascii=False)
        (folder / f"answers_{result_name(self.options.name, self.device)}.json").write_text(texts + "\n")

    def _spent(self) -> float:
        return time.monotonic() - self.started

    def _say(self, text: str) -> None:
        print(f"{self._spent():4.0f} s {text}", flush=True)


def limits_of(thresholds: ActivationThresholds) -> dict[str, float]:
    """Return the threshold of each layer."""
    return {name: layer.threshold for name, layer in thresholds.items()}


def main() -> int:
    """Measure, and write the result and the answers beside it."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path, help="folder or .gguf of the model")
    parser.add_argument("texts", type=Path, help="what `recover.py prepare` wrote")
    parser.add_argument("--name", default="quality_activations", help="of the result, the device's left out")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--deadline", type=float, default=280.0, help="seconds for everything")
    parser.add_argument("--writing", type=float, default=45.0, help="seconds in which text is written")
    parser.add_argument("--own", type=Path, nargs="+", help="what `recover.py write` wrote, instead")
    parser.add_argument("--seconds", type=float, default=600.0, help="of each recovery, at most")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.3, 0.4, 0.25, 0.5])
    parser.add_argument(
        "--ask", type=float, nargs="*", default=[0.3, 0.4], help="rates whose answers are read"
    )
    parser.add_argument("--recover", type=float, nargs="*", default=[0.4, 0.5], help="rates to recover at")
    parser.add_argument("--tokens", type=int, default=16384, help="to calibrate on")
    parser.add_argument("--length", type=int, default=WINDOW, help="tokens in a row of own text")
    parser.add_argument("--windows", type=int, default=16, help="of each text")
    parser.add_argument("--batch", type=int, help="rows a step of a recovery")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--prompts", type=int, default=200, help="of which answers are compared")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer, at most")
    parser.add_argument("--answers-at-once", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result")
    run = Run(parser.parse_args(), started)
    run.prepare()
    run.measure()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
