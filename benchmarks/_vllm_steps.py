"""One engine of bench_vllm_steps.py in a process of its own: it answers as `_vllm_side.py` does.

An empty line has it time steps, ``profile PATH`` write where one step's time goes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _vllm_side import ENVIRONMENT, QUANTIZATION, answers, engine, prompts, sampling, synchronize

SETTLE = 3
"""Steps after all sequences have begun, before anything is timed."""

SPREAD, STRIDE = 61, 17
"""A prompt is up to so much longer than asked, by another amount each time."""


class Forward:
    """The model's own part of the last step that was not a graph.

    Attributes:
        host_ms: from the call of the model until it returned: all is launched.
        device_ms: from what it launches first until the last of it has run; None without a GPU.
    """

    def __init__(self, model: Any) -> None:
        self.host_ms, self.device_ms = 0.0, None
        self._start, self._events = 0.0, list[Any]()
        model.register_forward_pre_hook(self._begin)
        model.register_forward_hook(self._end)

    def settle(self) -> None:
        """Read the device's time, once the step is over."""
        synchronize()
        if len(self._events) == 2:
            first, last = self._events
            self.device_ms = first.elapsed_time(last)

    def _begin(self, *_: object) -> None:
        self._events = []
        self._mark()
        self._start = time.perf_counter()

    def _end(self, *_: object) -> None:
        self.host_ms = 1e3 * (time.perf_counter() - self._start)
        self._mark()

    def _mark(self) -> None:
        import torch

        if torch.cuda.is_available():
            cuda: Any = torch.cuda  # torch's own annotations are incomplete here
            event = cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)


def plans_built() -> int:
    """Return how many plans of cuSPARSELt this process has built."""
    if "sparseflow.runtime" not in sys.modules:
        return 0
    from sparseflow.runtime import gpu

    return gpu.stats().built


def mixed_step(llm: Any, forward: Forward, length: int) -> dict[str, Any]:
    """Time the step that reads a prompt beside whatever decodes; the prompt's sequence then ends."""
    ran, built = llm.llm_engine, plans_built()
    (prompt,) = prompts(1, length)
    ran.add_request(f"prompt-{time.perf_counter_ns()}", prompt, sampling(1))
    synchronize()
    steps, finished, start = 0, False, time.perf_counter()
    while not finished:
        finished, steps = any(out.finished for out in ran.step()), steps + 1
    ms = 1e3 * (time.perf_counter() - start)
    forward.settle()
    return {
        "prompt": length,
        "ms": ms,
        "steps": steps,
        "host_ms": forward.host_ms,
        "device_ms": forward.device_ms,
        "built": plans_built() - built,
    }


def begin_decoding(llm: Any, decodes: int, context: int, tokens: int) -> None:
    """Start sequences, and step until all decode."""
    ran, begun = llm.llm_engine, set[str]()
    for number, prompt in enumerate(prompts(decodes, context)):
        ran.add_request(f"{number}-{time.perf_counter_ns()}", prompt, sampling(tokens))
    while len(begun) < decodes:
        begun |= {out.request_id for out in ran.step() if out.outputs[0].token_ids}
    for _ in range(SETTLE if decodes else 0):
        ran.step()


def drain(llm: Any) -> None:
    """Step until every sequence has ended."""
    while llm.llm_engine.has_unfinished_requests():
        llm.llm_engine.step()


def case(args: argparse.Namespace, llm: Any, forward: Forward, length: int, decodes: int) -> dict[str, Any]:
    """Time steps that hold a prompt of about a length beside so many sequences that decode."""
    begin_decoding(llm, decodes, args.context, args.steps)
    found = []
    for number in range(args.repeats):
        found.append(mixed_step(llm, forward, length + number * STRIDE % SPREAD))
        if decodes:
            llm.llm_engine.step()
    drain(llm)
    return {"prompt": length, "decodes": decodes, "timed": found}


def profile(args: argparse.Namespace, llm: Any, forward: Forward, path: Path) -> dict[str, Any]:
    """Write tables of a step of the first case that decodes, and of one that only decodes."""
    length, decodes = next((pair for pair in args.cases if pair[1]), args.cases[0])
    begin_decoding(llm, decodes, args.context, args.steps)
    mixed = profiled(lambda: mixed_step(llm, forward, length))
    alone = profiled(llm.llm_engine.step) if decodes else []
    drain(llm)
    headings = [f"{args.side}: a prompt of {length} beside {decodes}", f"{args.side}: {decodes} alone"]
    parts = [
        text for heading, tables in zip(headings, (mixed, alone), strict=True) for text in (heading, *tables)
    ]
    path.write_text("\n\n".join(parts))
    return {"profile": path.name}


def profiled(call: Callable[[], object]) -> list[str]:
    """Return the profiler's tables of a call, by the host's time and by the device's."""
    import torch
    from torch.profiler import ProfilerActivity

    activities = {ProfilerActivity.CPU: "self_cpu_time_total"}
    if torch.cuda.is_available():
        activities[ProfilerActivity.CUDA] = "self_cuda_time_total"
    for _ in range(2):  # the first pays for the profiler's own start
        with torch.profiler.profile(activities=list(activities)) as profiler:
            call()
            synchronize()
    events = profiler.key_averages()
    return [
        events.table(sort_by=order, row_limit=45, max_name_column_width=90) for order in activities.values()
    ]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("options", type=json.loads, help="what bench_vllm_steps.py gives")
    args = argparse.Namespace(**parser.parse_args(argv).options)
    answer = answers()
    if args.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu
    os.environ.update(ENVIRONMENT, VLLM_CACHE_ROOT=str(Path(args.folder) / f"cache-{args.side}"))
    began, forwards = time.perf_counter(), list[Forward]()
    llm = engine(args, Path(args.folder))
    llm.apply_model(lambda model: forwards.append(Forward(model)))
    config = llm.llm_engine.vllm_config
    about: dict[str, Any] = {"start_s": time.perf_counter() - began, "built": plans_built()}
    if QUANTIZATION[args.side] == "sparseflow":
        about["layers"] = list(config.quant_config.layers.lines())
    answer(about)
    for line in sys.stdin:
        order, _, path = line.strip().partition(" ")
        if order == "profile":
            answer(profile(args, llm, forwards[0], Path(path)))
        else:
            answer({"cases": [case(args, llm, forwards[0], *pair) for pair in args.cases]})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
