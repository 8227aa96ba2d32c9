"""The parts of bench_default.py about whole models, compiled without any option."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _models
import torch
from _model_bench import Bench, Row, bound, by_torch, compared, first, llama_4

import sparseflow as sf

CACHES = {"SPARSEFLOW_CACHE_DIR": "tables", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
"""What makes a second start faster than the first one, and its folder."""

NEVER_SLOWER = 0.98
MOST_EXTRA_S = 20.0
FEWEST_SPARSE = 28
_CACHE = 1024
_SMALL_PROMPT = 128


def fresh_caches(folder: Path) -> None:
    """Let this process and its children start as on a machine that never ran SparseFlow."""
    os.environ.update({name: str(folder / part) for name, part in CACHES.items()})


def first_output(bench: Bench, **options: Any) -> float:
    """Seconds from `sf.compile` to the first output, in a process that has compiled nothing yet."""
    _, model = _llama(bench)
    sf.prune(model, progress=False)
    prompt = _prompt(bench, model)
    bench.synchronize()
    start = time.perf_counter()
    with torch.no_grad():
        sf.compile(model, **options)(**prompt)
    bench.synchronize()
    return time.perf_counter() - start


def llama(bench: Bench) -> None:
    """Prefill and decoding with 2:4 weights, and what comes before the first output."""
    extra = _extra_seconds(bench)
    name, model = _llama(bench)
    sf.prune(model, progress=False)
    _prefill(bench, name, model, extra)
    bench.release()
    _decode(bench, name, model)


def _extra_seconds(bench: Bench) -> float | None:
    """What choosing by measurements adds to the first output; a CPU measures whatever is asked."""
    if not bench.on_gpu:
        return None
    with tempfile.TemporaryDirectory() as folder:
        without = _first_output_apart("off", {name: f"{folder}/{part}" for name, part in CACHES.items()})
    return round(_first_output_apart("default", {}) - without, 2)


def _first_output_apart(tune: str, caches: dict[str, str]) -> float:
    """`first_output` in a process of its own; without caches of its own it fills this process's."""
    script = Path(__file__).with_name("bench_default.py")
    command = [sys.executable, str(script), "--first-output", tune]
    done = subprocess.run(command, env=os.environ | caches, stdout=subprocess.PIPE, text=True, check=True)
    return float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def _llama(bench: Bench) -> tuple[str, Any]:
    """Four layers of an 8B Llama on a GPU, a small decoder on a CPU."""
    if bench.on_gpu or bench.tiny:
        return llama_4(bench)
    return "Llama of 4 layers, hidden 1024", _models.llama("small", bench.place)


def _prompt(bench: Bench, model: Any) -> dict[str, Any]:
    length = 2048 if bench.on_gpu else 32 if bench.tiny else _SMALL_PROMPT
    ids = _models.tokens(1, length, model.config.vocab_size, bench.place.device)
    return {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}


def _prefill(bench: Bench, name: str, model: Any, extra: float | None) -> None:
    inputs, compiled = _prompt(bench, model), sf.compile(model)
    sides = bound({"dense": by_torch(bench, model, None), "ours": compiled}, inputs)
    error = compared(first(sides["dense"]()), first(sides["ours"]()))
    times = bench.in_turn(sides)
    row = _row(name, "prefill", 1, inputs["input_ids"].shape[1], times, compiled)
    bounds: Row = {}
    if bench.on_gpu:
        bounds = {
            "at_least": {"layers_sparse": FEWEST_SPARSE},
            "at_most": {"first_output_extra_s": MOST_EXTRA_S},
        }
    target = 1.35 if bench.on_gpu else 1.0
    bench.add({**row, "first_output_extra_s": extra, "rel_err": error, **bounds, **_asked(bench, target)})


def _decode(bench: Bench, name: str, model: Any) -> None:
    mode = "reduce-overhead" if bench.on_gpu else None
    length = _CACHE if bench.on_gpu else 64 if bench.tiny else 2 * _SMALL_PROMPT
    compiled = sf.compile(model, mode=mode)  # type: ignore[arg-type]  # one of its modes
    torch.manual_seed(1)
    theirs = _models.Decoding(model, by_torch(bench, model, mode), 1, length)
    torch.manual_seed(1)
    ours = _models.Decoding(model, compiled, 1, length)
    error = compared(first(theirs()), first(ours()))
    times = bench.in_turn({"dense": theirs, "ours": ours})
    row = _row(name, "decode", 1, length, times, compiled)
    bench.add({**row, "rel_err": error, **_asked(bench, 1.45 if bench.on_gpu else 1.25)})


def models(bench: Bench, names: Sequence[str], most_layers: int) -> None:
    """Small models, over the better of eager and torch.compile with CUDA graphs.

    On a CPU each call is warmed up first, which chooses between programs and dense model. On a GPU that would
    compile the dense model once more.
    """
    known = _models.small(bench.place, bench.tiny, most_layers)
    for name in names:
        _model(bench, name, *known[name])
        bench.release()


def _model(bench: Bench, name: str, make: Any, inputs: _models.Inputs) -> None:
    model = make()
    sf.prune(model, progress=False)
    compiled, opponents = sf.compile(model), {"eager": model}
    if bench.on_gpu:
        opponents["torch_compile_graphs"] = by_torch(bench, model, "reduce-overhead")
    layers = model.config.num_hidden_layers
    for batch in bench.batches:
        call = inputs(batch)
        if not bench.on_gpu:
            compiled.warmup(**call)
        sides = bound({**opponents, "ours": compiled}, call)
        error = compared(first(sides["eager"]()), first(sides["ours"]()))
        times = bench.in_turn(sides)
        best = min(opponents, key=times.__getitem__)
        row = _row(
            name, "forward", batch, _tokens(call), {"dense": times[best], "ours": times["ours"]}, compiled
        )
        theirs = {f"{side}_ms": round(times[side], 4) for side in opponents}
        dense = sum(one["runs_dense"] for one in compiled.report.model["measured"])
        bench.add({**row, "depth": layers, "dense_by": best, **theirs, "rel_err": error, "calls_dense": dense,
                   **_asked(bench, NEVER_SLOWER)})  # fmt: skip


def _tokens(call: dict[str, Any]) -> int | None:
    return int(call["input_ids"].shape[1]) if "input_ids" in call else None


def _row(
    model: str, phase: str, batch: int, seq: int | None, times: dict[str, float], compiled: sf.CompiledModel
) -> Row:
    layers = compiled.report.layers
    return {
        "model": model,
        "phase": phase,
        "batch": batch,
        "seq": seq,
        **{f"{side}_ms": round(ms, 4) for side, ms in times.items()},
        "speedup": round(times["dense"] / times["ours"], 3),
        "layers_sparse": sum(layer.decision == "sparse" for layer in layers),
        "layers": len(layers),
        "first_output_extra_s": None,
    }


def _asked(bench: Bench, target: float) -> Row:
    return {"target": None if bench.tiny else target}
