"""The part of bench_host_gpu.py about whole programs: what a replayed call costs the host."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import _models
import torch

import sparseflow as sf
from sparseflow.execution.opponent import opponent

CALLS, TURNS, WARM = 8, 45, 6
"""Few calls a turn: a driver that holds as many launches as it may blocks the next one."""
LAYERS, CACHE, TOKENS = 4, 1024, 128
TARGET_US = 60.0
AHEAD = 20_000_000
"""Cycles of a waiting kernel, about 0.01 s, that keep the device out of the launches behind it."""

Call = Callable[[], object]


def call_us(call: Call, calls: int = CALLS, ahead: int = AHEAD) -> float:
    """Microseconds of host time of one call, while a kernel of `ahead` cycles keeps the device out of it."""
    torch.cuda.synchronize()
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    cuda._sleep(ahead)
    start = time.perf_counter()
    for _ in range(calls):
        call()
    spent = time.perf_counter() - start
    torch.cuda.synchronize()
    return spent / calls * 1e6


def decode_step(model: Any, run: Any) -> Call:
    """One token over a static cache that is half full."""
    return _models.Decoding(model, run, 1, CACHE)


def forward(model: Any, run: Any) -> Call:
    """One sequence through an encoder."""
    ids = _models.tokens(1, TOKENS, model.config.vocab_size, "cuda")
    return lambda: run(input_ids=ids)


def whole_programs() -> list[dict[str, Any]]:
    """A row for each model: ours as compiled by default, and torch.compile's with CUDA graphs."""
    place = _models.Place("cuda", torch.bfloat16)
    decoder = functools.partial(_models.llama, "8b", place, LAYERS)
    encoder = _models.small(place, tiny=False)["bert-base"][0]
    return [
        _row(f"decode step, Llama-3-8B shape of {LAYERS} layers", decoder, decode_step),
        _row(f"forward, BERT-base 1×{TOKENS}", encoder, forward),
    ]


def _row(name: str, make: Callable[[], Any], call_of: Callable[[Any, Any], Call]) -> dict[str, Any]:
    model = make()
    sf.prune(model, progress=False)
    compiled = sf.compile(model)
    _, theirs = opponent(model, torch.device("cuda", 0), mode="reduce-overhead")
    sides = {"ours": call_of(model, compiled), "torch_compile": call_of(model, theirs)}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for call in sides.values():
        for _ in range(WARM):
            call()
        call_us(call)
    for turn in range(TURNS):
        for side in sorted(sides, reverse=bool(turn % 2)):
            times[side].append(call_us(sides[side]))
    ours, dense = (statistics.median(times[side]) for side in ("ours", "torch_compile"))
    graphs = compiled.report.model["compilations"]["cuda_graphs"]
    return {
        "what": f"host time of a replayed call, {name}",
        "dtype": "bfloat16",
        "ours_us": round(ours, 1),
        "torch_compile_us": round(dense, 1),
        "decisions": graphs["decisions"],
        "replays": graphs["replays"],
        "value": round(ours, 1),
        "unit": "µs",
        "target": TARGET_US,
        "met": ours <= TARGET_US and graphs["replays"] > 0,
    }
