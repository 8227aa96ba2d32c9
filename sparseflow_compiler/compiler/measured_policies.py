"""The measured policies of a module's sparse layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.linear import layer_format, product_dtype
from sparseflow.dialect.matchers import operations, weight_ref
from sparseflow.dialect.types import tensor_type
from sparseflow.errors import ArgumentError
from sparseflow.execution.inner import chosen_inner
from sparseflow.passes.apply_policy import policy_key
from sparseflow.passes.scaled_later import FP8, scaled_by_its_readers
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import find
from sparseflow.runtime.formats.tensors import TORCH_DTYPES
from sparseflow.runtime.products import which
from sparseflow.runtime.products.copies import Room
from sparseflow.support.progress import Step

Shape = tuple[int, int]
Found = tuple[dict[str, Policy], dict[str, str]]


def measured_policies(module: ir.Module, bank: WeightBank, options: CompileOptions, step: Step) -> Found:
    """Return the measured policy of every dtype and shape among the sparse layers.

    Args:
        module: in the ``sparse_gemm`` stage.
        bank: the model's weights. It keeps the result for all programs, because a later measurement might
            find less memory for dense copies, or other times.
        options: the options of the compilation.
        step: called while measuring.

    Returns:
        Policies by `policy_key`, and for other keys the reason why their layers are dense.
    """
    policies: dict[str, Policy] = {}
    dense: dict[str, str] = {}
    room = Room()
    for (format_, dtype, where), shapes in sparse_shapes(module, bank.device).items():
        known = bank.policies.setdefault((format_, dtype, where), {})
        missing = [shape for shape in shapes if shape not in known]
        if missing:
            later = scaled_later(module, options, where)
            known |= shape_policies(missing, TORCH_DTYPES[dtype], where, options, step, format_, room, later)
        for shape in dict.fromkeys(shapes):
            key, found = policy_key(dtype, *shape, find(format_)), known.get(shape, Policy())
            if isinstance(found, str):
                dense[key] = found
            elif found.ranges:
                policies[key] = found
    return policies, dense


def sparse_shapes(
    module: ir.Module, device: Callable[[str], torch.device]
) -> dict[tuple[str, str, torch.device], list[Shape]]:
    """Return the shape of each weight by format, dtype multiplied and device, all of one type of device."""
    weights: dict[tuple[str, str, torch.device], dict[object, Shape]] = {}
    for op in operations(module, ("sparse_gemm.linear",)):
        ref, type_, dtype = weight_ref(op.operands[1]), tensor_type(op.operands[1]), product_dtype(op)
        if ref is not None and type_ is not None and type_.shape is not None and dtype in TORCH_DTYPES:
            n, k = type_.shape
            if n is not None and k is not None:
                key = (layer_format(op).name, dtype, device(ref.names[0]))
                weights.setdefault(key, {})[ref.names, ref.transposed] = (n, k)
    shapes = {key: list(found.values()) for key, found in weights.items()}
    types = sorted({where.type for *_, where in shapes})
    if len(types) > 1:
        raise ArgumentError(
            "sf.compile(model)",
            f"its linear layers are on {' and '.join(types)}; what was measured holds for one of them",
            "move the model to one device, or compile its parts",
        )
    return shapes


def scaled_later(module: ir.Module, options: CompileOptions, device: torch.device) -> frozenset[Shape]:
    """Return the shapes in fp8 whose every result inductor's kernels scale while they read it."""
    if device.type != "cuda" or chosen_inner(options.inner, device) != "inductor":
        return frozenset()
    found: dict[Shape, bool] = {}
    for op in operations(module, ("sparse_gemm.linear",)):
        type_ = tensor_type(op.operands[1])
        if product_dtype(op) == FP8 and type_ is not None and type_.shape is not None:
            n, k = type_.shape
            if n is not None and k is not None:
                found[n, k] = found.get((n, k), True) and scaled_by_its_readers(op)
    return frozenset(shape for shape, fused in found.items() if fused)


def shape_policies(
    shapes: Sequence[Shape],
    dtype: torch.dtype,
    device: torch.device,
    options: CompileOptions,
    step: Step,
    format: str = "2:4",
    room: Room | None = None,
    later: frozenset[Shape] = frozenset(),
) -> dict[Shape, Policy | str]:
    """Return the policies of shapes, or why such layers are dense; nothing if they always run sparse.

    Args:
        shapes: (N, K) of every weight.
        dtype: the dtype that is multiplied.
        device: the weights' device.
        options: the options of the compilation.
        step: called while measuring.
        format: the weights' format.
        room: the memory for dense copies; by default a share of what is free now.
        later: shapes whose results in fp8 are scaled by the kernels that read them.
    """
    found = which.policies(
        shapes,
        dtype,
        device,
        mode=options.policy,
        memory=options.memory,
        format=format,
        tune=options.tune,
        progress=step,
        room=room,
        scaled_later=later,
    )
    return {shape: policy for shape, policy in found.items() if isinstance(policy, str) or policy.ranges}
