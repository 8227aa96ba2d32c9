"""The policy of a layer, decided alike for programs, eager layers, pruning, benchmarks and validation."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch

from sparseflow.runtime import kernels
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch import fill_cpu_table
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import find
from sparseflow.runtime.kernels import Problem, sparse_kernels
from sparseflow.runtime.kernels.registry import kernels as all_kernels
from sparseflow.runtime.products.copies import Room, settle
from sparseflow.support.arguments import Memory, PolicyMode, Tune

Shape = tuple[int, int]
Progress = Callable[[int, int, str], None]

DENSE = Policy.parse("1:dense")


def policies(
    shapes: Iterable[Shape],
    dtype: torch.dtype,
    device: torch.device,
    *,
    mode: PolicyMode = "auto",
    memory: Memory = "auto",
    format: str | None = None,  # named as in all other functions
    tune: Tune = "quick",
    progress: Progress | None = None,
    packed: bool = False,
    room: Room | None = None,
    scaled_later: Collection[Shape] = (),
) -> dict[Shape, Policy | str]:
    """Return the policy of each layer shape, or why such layers stay dense.

    On a CPU, shapes that its table lacks are measured. On a GPU `tune` says what is measured, in a child
    process and within a bounded time unless it is ``"full"``; shapes that were never measured on this model
    of GPU stay dense.

    Args:
        shapes: (N, K) of every layer; a shape may repeat.
        dtype: the dtype that is multiplied. For float8_e4m3fn every speed-up is over the dense product in
            fp8.
        device: where the layers run.
        mode: ``"auto"`` decides by measurements. ``"sparse"`` runs sparse at every M: on a GPU by the best
            known candidates, or by cuSPARSELt's first algorithm if none is known.
        memory: whether packed layers keep their dense weight; ``"auto"`` keeps it if some M would lose
            without it and the speed-up is large enough, see `copies`.
        format: the name of the packed weights' format; by default the 2:4 format of the dtype.
        tune: ``"quick"`` measures the few most promising candidates of points that no table of the GPU has,
            ``"full"`` measures all candidates of points that weren't fully tuned, and ``"off"`` measures
            nothing, for callers that must not start processes.
        progress: called with (points done, points in all, text) while measuring.
        packed: whether the layers are packed in any case, so that dense ones would be unpacked in each call.
        room: the memory for the dense copies of mode ``"auto"``; by default a share of what is free now.
        scaled_later: shapes whose results in fp8 are scaled by the kernel that reads them.
    """
    count = Counter(shapes)
    wanted, name = list(count), dtype_name(dtype)
    format = format or ("2:4-fp8" if dtype == torch.float8_e4m3fn else "2:4")
    if has_one_way(format, device.type):
        return dict.fromkeys(wanted, Policy())
    problems = {shape: Problem(name, *shape, device=str(device), format=format) for shape in wanted}
    reasons = {shape: kernels.refusal(problem) for shape, problem in problems.items()}
    able = [shape for shape in wanted if reasons[shape] is None]
    found: dict[Shape, Policy | str] = {}
    if able and device.type == "cuda":
        from sparseflow.runtime.tuning.policies import tuned_policies  # here, because it imports the tuner

        found |= tuned_policies(
            able,
            dtype,
            device,
            memory=memory,
            tune=tune,
            mode=mode,
            progress=progress,
            pattern=find(format).pattern,
            scaled_later=scaled_later,
        )
    elif able:
        found |= _on_cpu(able, dtype, mode, memory, progress, format)
    if memory == "auto":
        found = settled(found, count, dtype, device, format, packed=packed, room=room)
    return {shape: reasons[shape] or found[shape] for shape in wanted}


def settled(
    found: Mapping[Shape, Policy | str],
    count: Mapping[Shape, int],
    dtype: torch.dtype,
    device: torch.device,
    format: str,
    *,
    packed: bool = False,
    room: Room | None = None,
) -> dict[Shape, Policy | str]:
    """Return policies of memory mode ``auto`` after deciding about dense copies, as in `policies`.

    Args:
        found: the policy of each shape, or why its layers are dense.
        count: the number of layers of each shape.
        dtype: the dtype that is multiplied.
        device: where the layers run.
        format: the name of the packed weights' format.
        packed: whether the layers are packed in any case.
        room: the memory for the copies; by default a share of what is free now.
    """
    # In a lossy format a dense layer would compute something else, and results must not depend on timings.
    lossy = find(format).lossy
    nbytes = {(n, k): count[n, k] * n * k * dtype.itemsize for n, k in found}
    return settle(found, nbytes, device, room or Room(), packed=packed or lossy)


def has_one_way(format: str, device_type: str) -> bool:
    """Return whether a format's operator is the only way to run it on a device, so that it needs no policy.

    On the meta device this is always so, because nothing runs there.
    """
    if device_type == "meta":
        return True
    found = sparse_kernels(device_type)
    if not found or any(format in kernel.formats for kernel in found):
        return False
    # Without rounding, a layer may be dense instead, as one that kernels of another device read must be here.
    return find(format).lossy or not any(format in kernel.formats for kernel in all_kernels())


def runnable(found: Policy | str, *, copied: bool = False) -> Policy:
    """Return the policy of a layer that is packed in any case; a reason gives the dense product at every M.

    Args:
        found: a result of `policies`.
        copied: whether a layer that is dense for a reason keeps the dense weight, instead of unpacking the
            weight in each call.
    """
    return dataclasses.replace(DENSE, keeps_dense=copied) if isinstance(found, str) else found


def _on_cpu(
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    mode: PolicyMode,
    memory: Memory,
    progress: Progress | None,
    format: str,
) -> dict[Shape, Policy]:
    if mode == "sparse":
        return dict.fromkeys(shapes, Policy())
    return fill_cpu_table.calibrate(shapes, dtype, progress=progress, memory=memory, format=format)
