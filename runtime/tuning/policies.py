"""The policies of layers on a GPU, from the tuned tables and by tuning missing points."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch

from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.dispatch.thresholds import Timed, choose_by_thresholds
from sparseflow.runtime.kernels import Choice
from sparseflow.runtime.tuning import missing
from sparseflow.runtime.tuning.gpu_identity import GpuMachine
from sparseflow.runtime.tuning.gpu_table import lookup
from sparseflow.runtime.tuning.point import TunedPoint
from sparseflow.support.arguments import Memory, PolicyMode, Tune

Shape = tuple[int, int]
Progress = Callable[[int, int, str], None]

MARGIN = 0.3
"""Microseconds that a sparse kernel must save besides its share: on an H200 one that was tuned to win by 2%
of three microseconds lost 10% in another process."""

MANY = 512
"""From so many rows on it is bytes that scaling moves, which another kernel moves anyway. For fewer it is a
launch, and the kernel for few rows needs none, nor one that quantises."""


def tuned_policies(
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    device: torch.device,
    *,
    memory: Memory = "auto",
    tune: Tune = "quick",
    mode: PolicyMode = "auto",
    progress: Progress | None = None,
    pattern: str = "2:4",
    scaled_later: Collection[Shape] = (),
) -> dict[Shape, Policy | str]:
    """Return the measured policy of each layer shape on this GPU, or why such layers stay dense.

    Callers use `products.which.policies`, which knows the shapes that a device can run sparse at all.

    Args:
        shapes: (N, K) of shapes that can run sparse, each once.
        dtype: the packed weights' dtype. For float8_e4m3fn every speed-up is over the dense product in fp8.
        device: a CUDA device on which the kernels are usable.
        memory: whether packed layers keep their dense weight, as in `choose_by_thresholds`.
        tune: how to measure points that neither the user's table nor a shipped one has.
        mode: ``"sparse"`` runs every shape sparse at every M, by the best known candidate or by the first
            algorithm of cuSPARSELt, or of other patterns' kernel; it measures only with ``tune="full"``.
        progress: called with (points done, points in all, text) while tuning.
        pattern: the weights' pattern.
        scaled_later: shapes whose results in fp8 are scaled by the kernel that reads them, at no cost.

    Raises:
        TuningError: ``tune="full"`` can't keep the measuring process alive. For quick tuning that is the
            reason of the shapes instead.
    """
    machine, name = GpuMachine.here(device), dtype_name(dtype)
    left: Mapping[Shape, str] = {}
    if tune == "full":
        left = missing.measure_all(shapes, name, device, machine, progress, pattern)
    elif tune == "quick" and mode == "auto":
        left = missing.measure_quickly(shapes, name, device, machine, progress, pattern)
    points = {shape: lookup(name, *shape, machine, pattern=pattern) for shape in shapes}
    if mode == "sparse":
        usual = Choice("cusparselt" if pattern == "2:4" else "tiles")
        return {shape: _sparse_everywhere(found, usual) for shape, found in points.items()}
    return {
        shape: choose_by_thresholds([timed(p, scaled_later=shape in scaled_later) for p in found], memory)
        if found
        else _untuned(shape, name, machine, left.get(shape))
        for shape, found in points.items()
    }


def _untuned(shape: Shape, dtype: str, machine: GpuMachine, why: str | None) -> str:
    layer = f"{shape[0]}×{shape[1]} {dtype}"
    if why:
        return f"{layer} is not tuned on {machine.gpu} yet: {why}"
    return (
        f"no table has {layer} for {machine.gpu}; "
        "tune it: sf.compile(model), sf.nn.prepare(model) or `sparseflow tune`"
    )


def timed(point: TunedPoint, *, scaled_later: bool = False) -> Timed:
    """Convert a tuned point for `choose_by_thresholds`.

    Args:
        point: of the table.
        scaled_later: whether the kernel that reads a result in fp8 also scales it.
    """
    ways = {Choice(c.backend, c.algorithm, c.split_k): c.us for c in point.candidates}
    library = [way for way in ways if way.kernel == "cusparselt"]
    if scaled_later and point.m >= MANY and library and point.unscaled_us is not None:
        scaling = ways[library[0]] - point.unscaled_us  # the same of all
        ways |= {way: max(ways[way] - scaling, point.unscaled_us) for way in library}
    return Timed(point.m, point.dense_us, point.unpacked_us, ways, MARGIN)


def _sparse_everywhere(points: Sequence[TunedPoint], usual: Choice) -> Policy:
    by_m = {point.m: timed(point) for point in sorted(points, key=lambda point: point.m)}
    best = [(m, way[0]) for m, point in by_m.items() if (way := point.best())]
    first = best[0][1] if best else usual
    starts = [(1, first), *((m, choice) for m, choice in best if m > 1)]

    def speedup(m: int, choice: Choice) -> float:
        return by_m[m].dense / by_m[m].sparse[choice]

    return Policy.of(starts, [m for m, _ in best], speedup)
