"""The parts of bench_model.py that run models of all layers: compiling, memory, tokens a second."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import _models
import torch
from _model_bench import Bench, Row
from _model_parts import CACHE

import sparseflow as sf

FIRST_OUTPUT = 20
"""Seconds from compile to first output that 32 layers may take, inductor left out."""


@dataclass
class _Full:
    """A model of all layers, compiled in place and without inductor."""

    bench: Bench
    name: str
    model: Any
    compiled: sf.CompiledModel
    dense_bytes: int
    asked_seconds: float | None

    def row(self, phase: str, seq: int, started: float, inputs: dict[str, Any], call: Any) -> Row:
        """Capture for these inputs, call, and measure the calls that follow."""
        bench, compiled = self.bench, self.compiled
        compiled.capture(**inputs)
        compile_seconds, peak = time.perf_counter() - started, _allocated(bench, peak=True)
        call()
        bench.synchronize()
        first_output = time.perf_counter() - started
        linears = [layer for layer in compiled.report.layers if "lm_head" not in layer.name]
        ms = bench.in_turn({"ours": call})["ours"]
        tokens = 1 if phase == "decode" else seq
        return {
            "model": self.name, "phase": phase, "batch": 1, "seq": seq, "mode": "reduce-overhead, eager",
            "compile_seconds": round(compile_seconds, 2), "first_output_seconds": round(first_output, 2),
            "stages": compiled.report.model["compilations"]["seconds"],
            "dense_bytes": self.dense_bytes, "peak_of_dense": peak and round(peak / self.dense_bytes, 3),
            "now_bytes": _allocated(bench, peak=False),
            "linears_of_dense": round(sum(x.bytes for x in linears) / sum(x.bytes_dense for x in linears), 3),
            "ours_ms": round(ms, 3), "tokens_per_second": round(tokens / ms * 1e3, 1),
            "target": None,
            "at_most": {} if bench.tiny else {"peak_of_dense": 1.1, "linears_of_dense": 0.6}
            | ({"first_output_seconds": self.asked_seconds} if self.asked_seconds else {}),
        }  # fmt: skip


def full(bench: Bench, size: str) -> None:
    """All layers, compiled in place: what compiling takes, what remains, and how many tokens a second."""
    model = _models.llama("tiny" if bench.tiny else size, bench.place)
    dense_bytes = sum(parameter.nbytes for parameter in model.parameters())
    prompt = _models.tokens(1, 32 if bench.tiny else 2048, model.config.vocab_size, bench.place.device)
    options = {"input_ids": prompt, "use_cache": False, "logits_to_keep": 1}
    if bench.on_gpu:
        bench.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    compiled = sf.compile(model, inplace=True, inner="eager", mode="reduce-overhead", **bench.options)
    run = _Full(
        bench,
        "llama-tiny" if bench.tiny else f"llama3-{size}",
        model,
        compiled,
        dense_bytes,
        FIRST_OUTPUT if size == "8b" and not bench.tiny else None,
    )
    bench.add(run.row("prefill", prompt.shape[1], start, options, lambda: compiled(**options)))
    decoding = _models.Decoding(model, compiled, 1, 64 if bench.tiny else CACHE)
    start = time.perf_counter()
    bench.add(run.row("decode", decoding.length, start, decoding.inputs, decoding))


def _allocated(bench: Bench, *, peak: bool) -> int | None:
    """Bytes that torch's allocator holds or held at most; None without a GPU."""
    if not bench.on_gpu:
        return None
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()
