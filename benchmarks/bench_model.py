"""Whole models beside torch.compile in the same mode: `python benchmarks/bench_model.py`.

Both sides run in one process, in turn, over the same 2:4 weights. Every row is written as it is measured, so
that a run that is stopped keeps what it has. A part that runs out of its time is left, the next begins.
`--tiny` runs all parts with small models on the CPU, as a test of the script.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import functools
import gc
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import _ceiling
import _measure
import _models
import torch
from _model_bench import Bench, Call, Row
from torch import nn

import sparseflow as sf

LIMITS = {"prefill": 90, "decode": 120, "small": 180, "full8b": 100, "full70b": 300}
PREFILL = {(1, 2048): 1.25, (4, 2048): 1.25}
DECODE = {1: 1.3, 16: 1.12, 64: None}
SMALL_BATCHES = (1, 8, 64)
CACHE = 1024
_CUDA: Any = torch.cuda  # torch's own annotations are incomplete here


def pair(bench: Bench, model: nn.Module, mode: str | None) -> tuple[Any, sf.CompiledModel]:
    """The model with 2:4 weights through torch.compile, and through SparseFlow."""
    sf.prune(model, progress=False)
    compiled = sf.compile(model, mode=mode, progress=False)  # type: ignore[arg-type]  # checked there
    backend = "inductor" if bench.on_gpu else "eager"
    return torch.compile(model, mode=mode if bench.on_gpu else None, backend=backend), compiled


def bound(sides: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Call]:
    """The sides as calls without arguments."""
    return {name: functools.partial(side, **inputs) for name, side in sides.items()}


def compared(dense: torch.Tensor, ours: torch.Tensor) -> float:
    """The relative difference of two outputs."""
    one, other = dense.float(), ours.float()
    return float(f"{float((one - other).norm() / one.norm()):.2g}")


def first(output: Any) -> torch.Tensor:
    """The logits, or what an encoder gives."""
    found: torch.Tensor = output[0]
    return found.clone()


def row_of(sides: Mapping[str, float], ceiling: float | None, target: float | None) -> Row:
    """The measured columns of a row."""
    dense, ours = sides["dense"], sides["ours"]
    reached = None if ceiling is None else round(ceiling / ours, 3)
    return {
        **{f"{name}_ms": round(ms, 4) for name, ms in sides.items()},
        "speedup": round(dense / ours, 3),
        "ceiling_ms": None if ceiling is None else round(ceiling, 4),
        "ceiling_speedup": None if ceiling is None else round(dense / ceiling, 3),
        "of_ceiling": reached,
        "target": target,
    }


def ceiling(bench: Bench, compiled: Any, dense_ms: float, m: int) -> float | None:
    """See `_ceiling`; None without a GPU."""
    if not bench.on_gpu:
        return None
    return _ceiling.ceiling_ms(compiled._programs[-1], dense_ms, m, bench.place.dtype)


def llama_4(bench: Bench) -> tuple[str, Any]:
    if bench.tiny:
        return "llama-tiny", _models.llama("tiny", bench.place)
    return "llama3-8b, 4 layers, vocabulary 16032", _models.llama("8b", bench.place, 4)


def prefill(bench: Bench) -> None:
    """One forward over a prompt, logits of the last token."""
    name, model = llama_4(bench)
    dense, compiled = pair(bench, model, None)
    shapes: dict[tuple[int, int], float] = {(1, 32): 0.0, (2, 32): 0.0} if bench.tiny else PREFILL
    for batch, seq in shapes:
        ids = _models.tokens(batch, seq, model.config.vocab_size, bench.place.device)
        options = {"input_ids": ids, "use_cache": False, "logits_to_keep": 1}
        sides = bound({"dense": dense, "ours": compiled}, options)
        error = compared(first(sides["dense"]()), first(sides["ours"]()))
        if bench.on_gpu and (batch, seq) == (1, 2048):
            sides |= bound({"torch_2_4": semi_structured(model)}, options)
        times = bench.in_turn(sides)
        row = row_of(times, ceiling(bench, compiled, times["dense"], batch * seq), shapes[batch, seq])
        theirs = times.get("torch_2_4")
        more = {} if theirs is None else {"over_torch_2_4": round(theirs / times["ours"], 2), "asked_over": 4}
        bench.add({"model": name, "phase": "prefill", "batch": batch, "seq": seq, "mode": None, **row, **more,
                   "rel_err": error, "compilations": compiled.report.model["compilations"]})  # fmt: skip


def semi_structured(model: nn.Module) -> nn.Module:
    """A copy that runs PyTorch's own 2:4 weights, eager."""
    twin = copy.deepcopy(model)
    for name, module in twin.named_modules():
        if isinstance(module, nn.Linear) and "lm_head" not in name:
            sparse: Any = torch.sparse.to_sparse_semi_structured(module.weight.detach())
            module.weight = nn.Parameter(sparse, requires_grad=False)
    return twin


class Decoding:
    """Steps of one token over a static cache that is half full."""

    def __init__(self, model: Any, run: Any, batch: int, length: int) -> None:
        self._run, self._length = run, length
        self._cache = _models.static_cache(model, batch, length)
        self._ids = _models.tokens(batch, 1, model.config.vocab_size, model.device.type)
        self._generator = torch.Generator(model.device).manual_seed(0)
        for layer in self._cache.layers:
            layer.keys.normal_(generator=self._generator)
            layer.values.normal_(generator=self._generator)
        self._steps = 0

    def __call__(self) -> Any:
        """One step; what it costs doesn't depend on where in the cache it writes."""
        if self._steps % (self._length // 2) == 0:
            for layer in self._cache.layers:
                layer.cumulative_length.fill_(self._length // 2)
        self._steps += 1
        return self._run(input_ids=self._ids, past_key_values=self._cache, use_cache=True)


def decode(bench: Bench) -> None:
    """One token over 1024 tokens of static cache, with CUDA graphs."""
    name, model = llama_4(bench)
    mode = "reduce-overhead"
    dense, compiled = pair(bench, model, mode)
    targets: dict[int, float | None] = {1: None, 2: None} if bench.tiny else DECODE
    length = 64 if bench.tiny else CACHE
    for batch in targets:
        torch.manual_seed(batch)
        theirs = Decoding(model, dense, batch, length)
        torch.manual_seed(batch)
        ours = Decoding(model, compiled, batch, length)
        error = compared(first(theirs()), first(ours()))
        times = bench.in_turn({"dense": theirs, "ours": ours})
        row = row_of(times, ceiling(bench, compiled, times["dense"], batch), targets[batch])
        bench.add({"model": name, "phase": "decode", "batch": batch, "seq": length, "mode": mode, **row,
                   "rel_err": error, "compilations": compiled.report.model["compilations"]})  # fmt: skip


def small(bench: Bench) -> None:
    """Encoders and small decoders, where sparse layers rarely pay: never slower."""
    for name, (make, inputs) in _models.small(bench.place, bench.tiny).items():
        small_rows(bench, name, make(), inputs)
        release(bench)


def small_rows(bench: Bench, name: str, model: Any, inputs: _models.Inputs) -> None:
    mode = "reduce-overhead"
    dense, compiled = pair(bench, model, mode)
    for batch in (1, 2) if bench.tiny else SMALL_BATCHES:
        sides = bound({"dense": dense, "ours": compiled}, inputs(batch))
        error = compared(first(sides["dense"]()), first(sides["ours"]()))
        row = row_of(bench.in_turn(sides), None, None if bench.tiny else 0.98)
        sparse = sum(layer.decision == "sparse" for layer in compiled.report.layers)
        bench.add({"model": name, "phase": "forward", "batch": batch, "mode": mode, **row,
                   "rel_err": error, "sparse_layers": sparse})  # fmt: skip


def full(bench: Bench, size: str) -> None:
    """All layers, compiled in place: what compiling takes, what remains, and how many tokens a second."""
    model = _models.llama("tiny" if bench.tiny else size, bench.place)
    dense_bytes = sum(parameter.nbytes for parameter in model.parameters())
    compiled = sf.compile(model, inplace=True, inner="eager", mode="reduce-overhead", progress=False)
    prompt = _models.tokens(1, 32 if bench.tiny else 2048, model.config.vocab_size, bench.place.device)
    options = {"input_ids": prompt, "use_cache": False, "logits_to_keep": 1}
    if bench.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    compiled.capture(**options)
    compile_seconds, peak = time.perf_counter() - start, allocated(bench, peak=True)
    first(compiled(**options))
    bench.synchronize()
    first_output = time.perf_counter() - start
    reported = compiled.report
    linears = [layer for layer in reported.layers if "lm_head" not in layer.name]
    common = {
        "model": "llama-tiny" if bench.tiny else f"llama3-{size}",
        "batch": 1, "mode": "reduce-overhead, without inductor",
        "compile_seconds": round(compile_seconds, 2), "first_output_seconds": round(first_output, 2),
        "dense_bytes": dense_bytes, "peak_of_dense": peak and round(peak / dense_bytes, 3),
        "now_bytes": allocated(bench, peak=False),
        "linears_of_dense": round(sum(x.bytes for x in linears) / sum(x.bytes_dense for x in linears), 3),
        "target": None,
    }  # fmt: skip
    ms = bench.in_turn({"ours": lambda: compiled(**options)})["ours"]
    rate = round(prompt.shape[1] / ms * 1e3, 1)
    bench.add({**common, "phase": "prefill", "seq": prompt.shape[1], "ours_ms": round(ms, 3),
               "tokens_per_second": rate})  # fmt: skip
    length = 64 if bench.tiny else CACHE
    ms = bench.in_turn({"ours": Decoding(model, compiled, 1, length)})["ours"]
    bench.add({**common, "phase": "decode", "seq": length, "ours_ms": round(ms, 3),
               "tokens_per_second": round(1e3 / ms, 1)})  # fmt: skip


def allocated(bench: Bench, *, peak: bool) -> int | None:
    """Bytes that torch's allocator holds or held at most; None without a GPU."""
    if not bench.on_gpu:
        return None
    return torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()


def release(bench: Bench) -> None:
    """Free what the last model took."""
    torch._dynamo.reset()
    gc.collect()
    if bench.on_gpu:
        torch.cuda.empty_cache()


PARTS: dict[str, Callable[[Bench], None]] = {
    "prefill": prefill,
    "decode": decode,
    "small": small,
    "full8b": lambda bench: full(bench, "8b"),
    "full70b": lambda bench: full(bench, "70b"),
}


class OutOfTime(BaseException):
    """No Exception: torch would wrap it."""


@contextlib.contextmanager
def limited(seconds: int, part: str) -> Iterator[None]:
    """Leave the block when the time is up."""

    def stop(*_: Any) -> None:
        raise OutOfTime

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    except OutOfTime:
        print(f"bench_model: {part} stopped after {seconds} s", file=sys.stderr, flush=True)
    finally:
        signal.alarm(0)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    known = ",".join(PARTS)
    parser.add_argument("--parts", default="prefill,decode,small", help=f"of {known}")
    parser.add_argument("--full", action="store_true", help="the whole 8B and 70B shapes too")
    parser.add_argument("--limit", type=int, help="seconds for each part, instead of each part's own")
    parser.add_argument("--seconds", type=float, default=1.5, help="of measuring for each row")
    parser.add_argument("--tiny", action="store_true", help="all parts with small models on the CPU")
    parser.add_argument("--results", type=Path, default=_measure.RESULTS, help="folder for the JSON file")
    args = parser.parse_args(argv)
    parts = list(PARTS) if args.tiny else args.parts.split(",") + (["full8b", "full70b"] if args.full else [])
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--parts: {unknown.pop()!r} is none of {known}")
    args.parts = list(dict.fromkeys(parts))
    return args


def prepared(args: argparse.Namespace) -> Bench:
    """The run that the arguments ask for."""
    torch.manual_seed(0)
    if args.tiny:
        place = _models.Place("cpu", torch.float32)
        return Bench(place, True, 0.1, "model_tiny", _measure.meta("cpu"), args.results)
    from sparseflow.runtime import gpu
    from sparseflow.runtime.tuning import GpuMachine

    gpu.require()
    machine = GpuMachine.here(0)
    head = _measure.meta(machine.gpu, machine=vars(machine))
    place = _models.Place("cuda", torch.bfloat16)
    return Bench(place, False, args.seconds, _measure.gpu_name("model", machine.gpu), head, args.results)


def main(argv: list[str]) -> int:
    args = parse(argv)
    bench = prepared(args)
    failed = False
    for part in args.parts:
        start = time.perf_counter()
        try:
            with torch.no_grad(), limited(args.limit or LIMITS[part], part):
                PARTS[part](bench)
        except Exception:  # what the other parts measure is worth having
            failed = True
            traceback.print_exc()
        release(bench)
        print(f"{part}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    missed = [row for row in bench.rows if not row["met"]]
    print(f"{len(bench.rows)} rows, {len(missed)} miss their target")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
