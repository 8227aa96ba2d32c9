"""Which policy a layer gets: one answer for programs, eager layers, pruning, benchmarks and checks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from sparseflow.runtime import kernels
from sparseflow.runtime.checks import dtype_name
from sparseflow.runtime.dispatch import fill_cpu_table
from sparseflow.runtime.dispatch.policy import Policy
from sparseflow.runtime.formats import find
from sparseflow.runtime.kernels import Problem, sparse_kernels
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
    format: str | None = None,  # the word for it everywhere
    tune: Tune = "quick",
    progress: Progress | None = None,
    packed: bool = False,
    room: Room | None = None,
) -> dict[Shape, Policy | str]:
    """Return what to run for each layer shape, or why such layers are dense.

    A CPU is measured where its table lacks a shape, a GPU as `tune` says: by a child process, within a
    bounded time unless it is ``"full"``. What was not measured on the GPU itself is dense there.

    Args:
        shapes: (N, K) of every layer; those of one shape are answered together.
        dtype: that is multiplied; in float8_e4m3fn every figure is over the dense product in fp8.
        device: where the layers run.
        mode: ``"auto"``: as measured. ``"sparse"``: sparse at every M, on a GPU by the best candidates that
            are known and cuSPARSELt's first algorithm where none is.
        memory: whether packed layers keep their dense weight; ``"auto"``: where some M would lose without and
            the copy buys enough, see `copies`.
        format: of the packed weights; by default the 2:4 one of the dtype.
        tune: ``"quick"`` measures the few most promising candidates of what no table of the GPU has;
            ``"full"`` all candidates of what was not tuned so; ``"off"`` nothing, for callers that must
            not start processes.
        progress: called with (points done, points in all, text) while measuring.
        packed: whether the layers are packed in any case, so that what stays dense would unpack.
        room: for the dense copies of mode ``auto``; by default what is free now.
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
        from sparseflow.runtime.tuning.policies import tuned_policies  # which starts processes

        found |= tuned_policies(able, dtype, device, memory=memory, tune=tune, mode=mode, progress=progress)
    elif able:
        found |= _on_cpu(able, dtype, mode, memory, progress)
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
    """Return policies of mode ``auto`` with the dense copies decided about, as `policies` has it.

    Args:
        found: by shape.
        count: how many layers have each shape.
        dtype: that is multiplied.
        device: where the layers run.
        format: of the packed weights.
        packed: whether the layers are packed in any case.
        room: for the copies; by default what is free now.
    """
    lossy = find(format).lossy  # what a layer computes doesn't depend on what was measured
    nbytes = {(n, k): count[n, k] * n * k * dtype.itemsize for n, k in found}
    return settle(found, nbytes, device, room or Room(), packed=packed or lossy)


def has_one_way(format: str, device_type: str) -> bool:
    """Return whether no kernel of a device reads a format: then its operator has one way, and no policy.

    On the meta device nothing runs, so nothing is to choose.
    """
    if device_type == "meta":
        return True
    found = sparse_kernels(device_type)
    return bool(found) and not any(format in kernel.formats for kernel in found)


def runnable(found: Policy | str, *, copied: bool = False) -> Policy:
    """Return the policy of a layer that is packed in any case: dense where there is a reason.

    Args:
        found: what `policies` returned.
        copied: whether what is dense for a reason keeps the dense weight, so as not to unpack in each call.
    """
    return dataclasses.replace(DENSE, keeps_dense=copied) if isinstance(found, str) else found


def _on_cpu(
    shapes: Sequence[Shape], dtype: torch.dtype, mode: PolicyMode, memory: Memory, progress: Progress | None
) -> dict[Shape, Policy]:
    if mode == "sparse":
        return dict.fromkeys(shapes, Policy())
    return fill_cpu_table.calibrate(shapes, dtype, progress=progress, memory=memory)
