"""`sparseflow.profile`."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from sparseflow.api.compile import compile as sparseflow_compile
from sparseflow.errors import ArgumentError
from sparseflow.execution.opponent import opponent
from sparseflow.profiling.kernels import Kernel, kernels
from sparseflow.profiling.profile_result import Profile, Side
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.timing import once

Run = Callable[[], object]
_TURNS = 7


def profile(
    model: nn.Module,
    args: Sequence[object] = (),
    kwargs: Mapping[str, object] | None = None,
    *,
    calls: int = 10,
    seconds: float = 2.0,
    before: Callable[[], object] | None = None,
    meta: Mapping[str, object] | None = None,
    **options: Any,
) -> Profile:
    """Profile a model dense and compiled: kernel time by kind, GEMM speed-up, its ceiling, actual speed-up.

    Both sides run on the same inputs; the model as it is by what runs the compiled graphs too: eager, or
    inductor, in the same mode.

    Args:
        model: in evaluation mode.
        args: positional inputs.
        kwargs: inputs by keyword.
        calls: the number of calls to profile.
        seconds: about how long to time both sides, in turns and without profiler.
        before: called before each such run of calls, outside of what is measured: to reset a cache, say.
        meta: what to say about the run; by default the model's class, device and dtype.
        options: of `sparseflow.compile`.

    Raises:
        ArgumentError: an argument or option has a wrong value.
        InferenceOnlyError: the model is in training mode.
        ProfileError: the profiler saw no kernel.
        SparseFlowError: the model can't be compiled.
    """
    _check(model, calls, seconds)
    compiled = sparseflow_compile(model, **options)
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    title, by_torch = opponent(model, device, **options)
    sides: dict[str, Callable[..., object]] = {title: by_torch, "compiled": compiled}
    bench = Bench(device, before or (lambda: None))
    runs = {title: call(side, args, kwargs or {}) for title, side in sides.items()}
    for run in runs.values():
        bench.warm_up(run)
    clocked = bench.medians(list(runs.values()), seconds)
    dense, sparse = (
        Side(title, took, bench.kernels(run, calls))
        for (title, run), took in zip(runs.items(), clocked, strict=True)
    )
    return Profile(dense, sparse, dict(meta) if meta else _describe(model, device))


@dataclass(frozen=True)
class Bench:
    """Measure calls on a device, each after a reset.

    Attributes:
        device: where the calls run.
        reset: called before each measurement, outside of it.
    """

    device: torch.device
    reset: Callable[[], object]

    def warm_up(self, run: Run) -> None:
        """Run twice: the first call compiles, the second may compile again for other shapes."""
        for _ in range(2):
            self.reset()
            run()
        self.wait()

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def kernels(self, run: Run, calls: int) -> tuple[Kernel, ...]:
        """Profile several calls and return the kernels of one."""
        return kernels(run, self.device, calls, self._reset_and_wait)

    def _reset_and_wait(self) -> None:
        self.reset()
        self.wait()

    def medians(self, runs: Sequence[Run], seconds: float) -> list[float]:
        """Return the median seconds of each call, measured in turns."""
        times: list[list[float]] = [[] for _ in runs]
        end = time.perf_counter() + seconds
        while len(times[0]) < _TURNS or time.perf_counter() < end:
            turn = list(zip(runs, times, strict=True))
            for run, taken in turn if len(times[0]) % 2 else reversed(turn):
                self.reset()
                self.wait()
                taken.append(once(functools.partial(self._complete, run)))
        return [statistics.median(taken) for taken in times]

    def _complete(self, run: Run) -> None:
        run()
        self.wait()


def call(side: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]) -> Run:
    """Return a call of a model for inference."""

    def run() -> object:
        with torch.no_grad():
            return side(*args, **kwargs)

    return run


def _check(model: object, calls: int, seconds: float) -> None:
    require_uncompiled(model, "sf.profile(model)")
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            "sf.profile(model)",
            f"model must be a torch.nn.Module, not {type(model).__name__}",
            "wrap it in one",
        )
    if calls < 1 or seconds < 0:
        raise ArgumentError(
            f"sf.profile(calls={calls}, seconds={seconds})",
            "calls must be at least 1, seconds not negative",
            "leave them out",
        )


def _describe(model: nn.Module, device: torch.device) -> dict[str, object]:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()}
    return {"model": type(model).__name__, "dtype": "+".join(sorted(dtypes)), "device": device_name(device)}


def device_name(device: torch.device) -> str:
    """Return the GPU's name, or "CPU" with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)
