"""Benchmark `generate`: tokens a second and time to the first token, beside the time that the bytes need."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sparseflow.api.compile import compile as sparseflow_compile
from sparseflow.bench.floor import Floor
from sparseflow.integrations.transformers.argument_names import example_input
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.checks import dtype_name

if TYPE_CHECKING:
    from sparseflow.execution.generation import Generator
    from sparseflow.reports.report import Report
    from sparseflow.support.progress import Step

Generate = Callable[..., Tensor]
GREEDY: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def generate_rows(
    name: str,
    model: nn.Module,
    calls: Sequence[tuple[int, int]],
    new_tokens: int,
    repeats: int,
    progress: Step,
    *,
    torch_compile: bool = True,
    turn: Callable[[], AbstractContextManager[object]] = nullcontext,
    **options: Any,
) -> list[dict[str, Any]]:
    """Time greedy decoding by the original model, by torch.compile and compiled, in turns.

    Args:
        name: the model's name in the rows.
        model: a causal language model of transformers, already pruned.
        calls: sequences and tokens of each prompt.
        new_tokens: the number of decoded tokens, at least 2.
        repeats: the number of turns, of which each row has the medians.
        progress: called for each call.
        torch_compile: whether to measure transformers' loop with torch.compile and a static cache too.
        turn: returns what is held while sides are timed, such as a lock on the device.
        options: options of `sparseflow.compile`.

    Returns:
        A row for each call. `floor_ms` is the time of reading the stored weights, without the share that
        thresholds leave out, and the cache, `device_ms` that of a step, and `host_us` what `generate` takes
        for a token beyond it.

    Raises:
        SparseFlowError: the model can't be compiled.
    """
    compiled = sparseflow_compile(model, **options)
    sides: dict[str, Generate] = {"ours": compiled.generate, "dense": model.generate}  # type: ignore[dict-item]
    if torch_compile:
        sides["torch_compile"] = _by_torch_compile(model)
    rows: list[dict[str, Any]] = []
    for batch, context in calls:
        progress(len(rows), len(calls), f"batch {batch}, context {context}")
        ids = example_input("input_ids", model.config, batch, context, torch.float32, device_of(model))
        found = {side: _Side(run, ids, new_tokens) for side, run in sides.items()}
        steps = _Steps(compiled.generator, context, new_tokens)
        with turn():
            for _ in range(repeats):
                for side in found.values():
                    side.measure()
                steps.measure(_weight_bytes(compiled.report) + compiled.generator.cache_bytes(context))
        rows.append({"model": name, **_row(model, options, batch, context, found, steps)})
    return rows


def _row(
    model: nn.Module,
    options: dict[str, Any],
    batch: int,
    context: int,
    sides: dict[str, _Side],
    steps: _Steps,
) -> dict[str, Any]:
    ours, step, floor = sides["ours"], statistics.median(steps.times), statistics.median(steps.floors)
    row = {
        "layers": getattr(model.config, "num_hidden_layers", 0),
        "format": "activations" if options.get("contextual") else options.get("format", "2:4"),
        "dtype": dtype_name(next(model.parameters()).dtype),
        "batch": batch,
        "context": context,
        "floor_ms": round(floor * 1e3, 3),
        "device_ms": round(step * 1e3, 3),
        "of_floor": round(step / floor, 3),
        "host_us": round((ours.token - step) * 1e6, 1),
        "dense_ms": round(sides["dense"].token * 1e3, 3),
    }
    for side, name in (("ours", ""), ("dense", "dense_"), ("torch_compile", "torch_compile_")):
        if side in sides:
            row[f"{name}tokens_s"] = round(batch / sides[side].token, 2)
            row[f"{name}first_ms"] = round(sides[side].first * 1e3, 2)
    return row


class _Side:
    """Greedy decoding of one prompt by one of the sides.

    Args:
        run: the function that generates.
        ids: the prompt.
        tokens: the number of tokens to decode.
    """

    def __init__(self, run: Generate, ids: Tensor, tokens: int) -> None:
        self._run, self._ids, self._tokens = run, ids, tokens
        self._firsts: list[float] = []
        self._alls: list[float] = []
        for count in (tokens, 1, tokens):
            self._timed(count)

    def measure(self) -> None:
        """Measure another pair of times: to the first token, and to the last."""
        self._firsts.append(self._timed(1))
        self._alls.append(self._timed(self._tokens))

    @property
    def first(self) -> float:
        """The seconds to the first token."""
        return statistics.median(self._firsts)

    @property
    def token(self) -> float:
        """The seconds for each further token."""
        return (statistics.median(self._alls) - self.first) / (self._tokens - 1)

    def _timed(self, count: int) -> float:
        start = time.perf_counter()
        self._run(self._ids, attention_mask=torch.ones_like(self._ids), max_new_tokens=count, **GREEDY)[
            0
        ].tolist()
        return time.perf_counter() - start


class _Steps:
    """Decoding steps back to back, and a read of as many bytes."""

    def __init__(self, generator: Generator, context: int, tokens: int) -> None:
        self._generator, self._context, self._tokens = generator, context, tokens
        self._floor = Floor(generator.device)
        self.times: list[float] = []
        self.floors: list[float] = []

    def measure(self, size: int) -> None:
        """Time both once more."""
        self.floors.append(self._floor.seconds(size))
        repeat = self._generator.again(self._context)
        start = time.perf_counter()
        for _ in range(self._tokens - 1):
            repeat()
        _wait(self._generator.device)
        self.times.append((time.perf_counter() - start) / (self._tokens - 1))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _weight_bytes(report: Report) -> int:
    """Return the bytes of weights that a step reads: the stored ones, less what thresholds leave out."""
    thresholds = (report.model["activations"] or {"layers": {}})["layers"]
    left_out = sum(
        layer.bytes * thresholds[layer.name]["rate"]
        for layer in report.layers
        if layer.decision == "contextual" and layer.name in thresholds
    )
    return int(report.model["bytes"] - left_out)


def _by_torch_compile(model: Any) -> Generate:
    """Return transformers' loop over a static cache, with forward compiled by torch.compile.

    On a GPU transformers compiles the step itself, with CUDA graphs; elsewhere it doesn't.
    """
    twin = copy.copy(model)
    by_transformers = device_of(model).type == "cuda"
    if not by_transformers:
        twin.forward = torch.compile(model.forward, dynamic=False)

    def run(*args: Any, **kwargs: Any) -> Any:
        torch._dynamo.config.cache_size_limit = 64
        options = {"cache_implementation": "static", "disable_compile": not by_transformers}
        return twin.generate(*args, **options, **kwargs)

    return run
