"""A model's linear layers replaced by sparse ones, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from sparseflow.nn.linear import SparseLinear
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.runtime import PackedWeight, checks, compress_2_4, is_24, prune_24
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.arguments import (
    Memory,
    PolicyMode,
    Prune,
    require_matches,
    require_one_of,
    require_patterns,
    with_defaults,
)
from sparseflow.support.hosts import HOSTS

LEAST = 16
"""Out and in features below which a layer stays dense, as in `sparseflow.compile`."""


def sparsify(
    model: nn.Module,
    *,
    prune: Prune | None = "magnitude",
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    policy: PolicyMode = "auto",
    memory: Memory = "auto",
) -> list[str]:
    """Replace a model's linear layers by `SparseLinear`, in place, one at a time.

    Only modules whose type is ``nn.Linear`` itself are replaced, with N and K from 16 on, K divisible by 4,
    in float32, bfloat16 or float16, and a weight that no other module shares. `sparseflow.compile` does more:
    it merges and fuses layers, and leaves dense those that never win.

    A transformers model's ``save_pretrained`` writes the packed layers, for `sparseflow` to load again.

    Args:
        model: its packed weights are frozen from now on; gradients flow through them, for adapters to train.
        prune: ``"magnitude"``: weights that aren't 2:4 lose all but the two largest of every four. ``None``:
            such layers stay dense.
        skip: fnmatch patterns over layer names that stay dense, besides those of `DEFAULT_SKIP`.
        skip_defaults: ``False`` leaves `DEFAULT_SKIP` out.
        policy: as `SparseLinear` has it.
        memory: as `SparseLinear` has it.

    Returns:
        The names of the replaced layers.

    Raises:
        ArgumentError: an option has a wrong value, or another quantizer of transformers has the model.
        WeightError: a weight holds NaN or Inf; layers before it are replaced by then.
    """
    require_one_of("nn.sparsify", "prune", prune, (*get_args(Prune), None))
    require_patterns("nn.sparsify", skip)
    require_matches("nn.sparsify", skip, model)
    require_uncompiled(model, "sf.nn.sparsify(model)")
    for host in HOSTS:
        host.before_packing(model)
    replaced = []
    for name in eligible(model, with_defaults(skip, skip_defaults)):
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear), "only those are eligible"
        weight = pack(linear.weight, prune, name)
        if weight is not None:
            put(model, name, SparseLinear(weight, linear.bias, policy=policy, memory=memory))
            replaced.append(name)
    options = {
        "prune": prune,
        "skip": skip,
        "skip_defaults": skip_defaults,
        "policy": policy,
        "memory": memory,
    }
    for host in HOSTS:
        host.after_packing(model, options)
    return replaced


def densify(model: nn.Module) -> list[str]:
    """Replace each `SparseLinear` of a model by an ``nn.Linear`` with the same weight, in place.

    Returns:
        The names of the replaced layers.
    """
    require_uncompiled(model, "sf.nn.densify(model)")
    found = [(name, m) for name, m in model.named_modules() if isinstance(m, SparseLinear)]
    for name, layer in found:
        put(model, name, densified(layer))
    for host in HOSTS:
        host.after_unpacking(model)
    return [name for name, _ in found]


def densified(layer: SparseLinear) -> nn.Linear:
    """A plain layer with the weight of a packed one, unpacked, and its very bias."""
    linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    linear.weight = nn.Parameter(layer.weight.unpack(), requires_grad=False)
    linear.bias = layer.bias  # type: ignore[assignment]  # torch has it as a Parameter
    return linear


def eligible(model: nn.Module, skip: Sequence[str]) -> list[str]:
    """The names of the layers that `sparsify` may replace; weights aren't looked at."""
    return [
        layer.name
        for layer in find_layers(model, skip)
        if layer.dense is None and type(layer.module) is nn.Linear and fits(layer.module)
    ]


def fits(linear: nn.Linear) -> bool:
    """Whether a layer's sizes and dtype can be packed and saved."""
    n, k = linear.out_features, linear.in_features
    return min(n, k) >= LEAST and k % 4 == 0 and linear.weight.dtype in checks.NATIVE_DTYPES


@torch.no_grad()
def pack(weight: Tensor, prune: Prune | None, name: str) -> PackedWeight | None:
    """A weight packed, pruned before if asked for; None where it isn't 2:4 and isn't to be pruned.

    Raises:
        WeightError: it holds NaN or Inf.
    """
    if prune is not None:
        weight = prune_24(weight, name=name)
    return compress_2_4(weight, name=name) if is_24(weight) else None


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of another."""
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
