"""Replace a model's linear layers by sparse ones, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from sparseflow.nn.linear import SparseLinear, prepare
from sparseflow.nn.sparsify_report import SparsifiedLayer, SparsifyReport, warn_of_format
from sparseflow.pruning.linear_layers import Layer, find_layers
from sparseflow.runtime import PackedWeight, checks, packed
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.formats import find, sparse_names
from sparseflow.runtime.formats.tensors import ELEMENT_TYPES
from sparseflow.runtime.pattern import Pattern, pattern_of
from sparseflow.support.arguments import (
    Memory,
    PolicyMode,
    Prune,
    Tune,
    require_matches,
    require_one_of,
    require_patterns,
    with_defaults,
)
from sparseflow.support.hosts import HOSTS

MIN_FEATURES = 16
"""The fewest out and in features of a layer that becomes sparse, as in `sparseflow.compile`."""


def sparsify(
    model: nn.Module,
    *,
    prune: Prune | None = "magnitude",
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    policy: PolicyMode = "auto",
    memory: Memory = "auto",
    tune: Tune = "quick",
    format: str = "2:4",
) -> SparsifyReport:
    """Replace a model's linear layers by `SparseLinear`, in place, one at a time.

    A module is replaced if its type is ``nn.Linear`` itself, N and K are at least 16, K is divisible by 4,
    the dtype is float32, bfloat16 or float16, no other module shares the weight, and the format can store it.
    Nothing is trained: `sparseflow.sparsify`, another thing, chooses, prunes and recovers a dense model.
    `sparseflow.compile` also merges and fuses layers, and leaves layers dense that are never faster sparse.

    ``save_pretrained`` of a transformers model writes layers in ``"2:4"``, which SparseFlow can load again.

    Args:
        model: its packed weights are frozen afterwards; gradients still flow through them to adapters.
        prune: ``"magnitude"`` prunes weights to the format's pattern, two of every four entries in
            ``"2:4"``. With ``None`` weights stay as they are: layers whose weight is 4:6 or 6:8 are packed in
            the format of that name, and those without a pattern stay dense.
        skip: fnmatch patterns of layer names that stay dense, in addition to `DEFAULT_SKIP`.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        policy: as in `SparseLinear`.
        memory: as in `SparseLinear`.
        tune: what is measured of the replaced layers that are on a GPU, where no table has their shapes, as
            in `sparseflow.compile`. Layers that move there later are prepared by `prepare`, or by tables
            alone in their first call.
        format: how weights are stored and multiplied, as in `sparseflow.compile`; layers that can't have it
            stay dense, and a ``FormatWarning`` names them.

    Returns:
        The replaced layers, and for every other linear layer the reason why it stays dense.

    Raises:
        ArgumentError: an option has a wrong value, or the model was loaded by another transformers quantizer.
        WeightError: a weight holds NaN or Inf; the layers before it are replaced already.
    """
    require_one_of("nn.sparsify", "prune", prune, (*get_args(Prune), None))
    require_one_of("nn.sparsify", "tune", tune, get_args(Tune))
    require_one_of("nn.sparsify", "format", format, sparse_names())
    require_patterns("nn.sparsify", skip)
    require_matches("nn.sparsify", skip, model)
    require_uncompiled(model, "sf.nn.sparsify(model)")
    for host in HOSTS:
        host.before_packing(model)
    outcomes = []
    for layer, reason in choices(model, with_defaults(skip, skip_defaults), format):
        weight: PackedWeight | None = None
        if reason is None:
            assert isinstance(layer.module, nn.Linear), "no other layer is eligible"
            weight = pack(layer.module.weight, prune, layer.name, format)
            if weight is None:
                reason = f"its weight is not {find(format).pattern}, and prune=None"
            else:
                sparse = SparseLinear(weight, layer.module.bias, policy=policy, memory=memory)
                replace_module(model, layer.name, sparse)
        stored = None if weight is None else weight.format.name
        outcomes.append(SparsifiedLayer(layer.name, *layer.shape, stored, reason or ""))
    report = SparsifyReport(tuple(outcomes))
    if tune != "off":
        _prepare_on_gpus([model.get_submodule(name) for name in report.replaced], tune)
    options = {
        "prune": prune,
        "skip": skip,
        "skip_defaults": skip_defaults,
        "policy": policy,
        "memory": memory,
        # What is packed in the format of its own pattern isn't what a checkpoint in 2:4 holds.
        "format": next((o.format for o in outcomes if o.format not in (None, "2:4")), format),
    }
    for host in HOSTS:
        host.after_packing(model, options)
    return report


def _prepare_on_gpus(layers: Sequence[nn.Module], tune: Tune) -> None:
    there = [
        layer for layer in layers if isinstance(layer, SparseLinear) and layer.weight.device.type == "cuda"
    ]
    if there:
        prepare(nn.ModuleList(there), tune=tune)


def densify(model: nn.Module) -> list[str]:
    """Replace each `SparseLinear` of a model by an ``nn.Linear`` with the same weight, in place.

    Returns:
        The names of the replaced layers.
    """
    require_uncompiled(model, "sf.nn.densify(model)")
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, SparseLinear)]
    for name, layer in found:
        replace_module(model, name, densified(layer))
    for host in HOSTS:
        host.after_unpacking(model)
    return [name for name, _ in found]


def densified(layer: SparseLinear) -> nn.Linear:
    """Return an ``nn.Linear`` with the unpacked weight of a sparse layer and the same bias object."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(layer.weight.unpack(), requires_grad=False)
    linear.bias = layer.bias  # type: ignore[assignment]  # torch has it as a Parameter
    return linear


def eligible(model: nn.Module, skip: Sequence[str], format: str = "2:4") -> list[str]:
    """Return the names of the layers that `sparsify` may replace, whatever the weights' values.

    Layers that only the format excludes are named by a ``FormatWarning``.
    """
    return [layer.name for layer, reason in choices(model, skip, format) if reason is None]


def choices(model: nn.Module, skip: Sequence[str], format: str) -> list[tuple[Layer, str | None]]:
    """Return every linear layer with the reason why it stays dense, None if `sparsify` may replace it.

    Layers that only the format excludes are named by a ``FormatWarning``.
    """
    found: list[tuple[Layer, str | None]] = []
    refused: list[tuple[str, str]] = []
    for layer in find_layers(model, skip):
        reason = layer.dense or _why_not_packable(layer.module)
        if reason is None and (refusal := _why_not_in(format, layer.weight)):
            refused.append((layer.name, refusal))
            reason = f"not in {format}: {refusal}"
        found.append((layer, reason))
    warn_of_format(format, refused)
    return found


def is_packable(module: nn.Module) -> bool:
    """Return whether a module is a layer whose weight can be packed and saved in ``"2:4"``."""
    return _why_not_packable(module) is None


def _why_not_packable(module: nn.Module) -> str | None:
    """Return what excludes a layer from every format, or None."""
    if type(module) is not nn.Linear:
        return f"it is a {type(module).__name__}, not an nn.Linear itself"
    n, k, dtype = module.out_features, module.in_features, module.weight.dtype
    if min(n, k) < MIN_FEATURES:
        return f"N and K must be at least {MIN_FEATURES}, got N={n}, K={k}"
    if k % 4:
        return f"K must be a multiple of 4, got {k}"
    if dtype not in checks.NATIVE_DTYPES:
        return f"its weight's dtype is {checks.dtype_name(dtype)}"
    return None


def _why_not_in(format: str, weight: Tensor) -> str | None:
    n, k = weight.shape
    return find(format).why_not(n, k, ELEMENT_TYPES[weight.dtype])


@torch.no_grad()
def pack(weight: Tensor, prune: Prune | None, name: str, format: str = "2:4") -> PackedWeight | None:
    """Prune a weight if `prune` says so, and pack it in a format, or in the exact one of its own pattern.

    Returns:
        The packed weight, or None if it has no pattern and isn't pruned.

    Raises:
        WeightError: it holds NaN or Inf.
    """
    pattern = Pattern.of(find(format).pattern)
    if prune is not None:
        weight = pattern.prune(weight, name=name)
    elif not pattern.holds(weight):
        found = pattern_of(weight)
        if found is None:
            return None
        format = found.name
    return packed.pack(weight, format, name=name)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule of a name by another module."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
