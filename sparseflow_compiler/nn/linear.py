"""`SparseLinear`: a linear layer over a packed weight with a measured policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch.utils._python_dispatch import _disable_current_modes

from sparseflow.errors import ArgumentError
from sparseflow.nn.gradient import differentiable
from sparseflow.runtime import PackedWeight, Policy
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.kernels import sparse_kernels
from sparseflow.runtime.products import which
from sparseflow.runtime.products.copies import Room
from sparseflow.support.arguments import MEMORY_MODES, Memory, PolicyMode, Tune, require_one_of
from sparseflow.support.progress import Step, progress_bars

VALUES = "weight"
"""The name in checkpoints of the first part of a packed weight, its values.

It is the name of the dense weight on purpose: a reader that doesn't know packed weights finds a matrix of
half the width and fails. Under another name the weight would be missing, and transformers initialises missing
weights at random.
"""


class SparseLinear(nn.Module):
    """``y = x · Wᵀ + bias`` with a packed weight, of any format, in place of an ``nn.Linear``.

    x is ``[…, K]``, y ``[…, N]``, both in the weight's dtype. The weight is frozen. Gradients flow to x, and
    to the bias if it requires them, so that other parts of a model, such as adapters, can be trained.
    `prepare` sets the policy: when it is called, or in the first call on a device.

    Args:
        weight: W, ``[N, K]``.
        bias: ``[N]``, of the weight's dtype and device, or None.
        policy: ``"auto"`` runs every M by the path that was measured to be faster, as in
            `sparseflow.compile`. The weight is packed in any case: a dense product unpacks it in each call
            unless the dense weight is kept, and `reason` says why it is dense. ``"sparse"`` always runs
            sparse.
        memory: ``"auto"`` keeps the dense weight beside the packed one where some M would lose without, as
            far as copies fit into half of the free memory; ``"compressed"`` never; ``"fast"`` wherever dense
            is faster for some M.

    Raises:
        ArgumentError: an argument has a wrong type, shape or value.
    """

    weight: PackedWeight
    bias: nn.Parameter | None

    def __init__(
        self,
        weight: PackedWeight,
        bias: Tensor | None = None,
        *,
        policy: PolicyMode = "auto",
        memory: Memory = "auto",
    ) -> None:
        super().__init__()
        _require_options(policy, memory)
        if not isinstance(weight, PackedWeight):
            raise ArgumentError(
                "SparseLinear(weight)",
                f"expected a PackedWeight, got {type(weight).__name__}",
                "pack it: sparseflow.compress_2_4(w)",
            )
        if bias is not None and tuple(bias.shape) != (weight.out_features,):
            raise ArgumentError(
                "SparseLinear(bias)", f"expected shape [{weight.out_features}], got {list(bias.shape)}"
            )
        self.weight, self.policy, self.memory = weight, policy, memory
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        self.is_loading = False
        """Whether tensors are being loaded one by one; the state dict then has the module's own names."""
        self.reason = ""
        """Why the layer is dense at every M, such as a shape that isn't in the GPU's table; else empty."""
        self._codes: list[int] | None = None

    @property
    def in_features(self) -> int:
        """K."""
        return self.weight.in_features

    @property
    def out_features(self) -> int:
        """N."""
        return self.weight.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x · Wᵀ + bias``, ``[…, N]``."""
        codes = self._codes
        if codes is None:
            traced = detect_fake_mode((x, *self.weight.tensors)) is not None
            codes = _traced_codes(self) if traced else _prepared_codes(self)
        weight, bias = self.weight, self.bias
        if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
            return differentiable(x, weight, bias, codes)
        y: Tensor = weight.format.op(
            x, *weight.tensors, bias, None, weight.in_features, "none", codes, weight.dense
        )
        return y

    def set_policy(self, found: Policy | str) -> None:
        """Use a policy from now on, on this device; a text says why the layer is dense."""
        self.reason = found if isinstance(found, str) else ""
        self.weight.dense = None
        policy = which.runnable(found, copied=isinstance(found, str) and self._may_keep_dense())
        self._codes = policy.to_ints()
        if policy.keeps_dense:
            self.weight.keep_dense()

    def _may_keep_dense(self) -> bool:
        """Return whether a layer that is dense for a reason keeps its dense weight."""
        weight = self.weight
        return self.memory == "fast" or (
            self.memory == "auto" and Room().take(weight.device, weight.dense_nbytes)
        )

    @property
    def prepared(self) -> bool:
        """Whether the layer has a policy for its current device."""
        return self._codes is not None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseLinear:
        before = self.weight.device, self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before != (self.weight.device, self.weight.dtype):
            self._codes = None
        return self

    def state_dict(  # type: ignore[override]  # torch has overloads
        self, *args: Any, prefix: str = "", **kwargs: Any
    ) -> dict[str, object]:
        """Return the portable form, with the values named ``weight`` as in checkpoints."""
        found: dict[str, object] = super().state_dict(*args, prefix=prefix, **kwargs)
        return self._rename(found, prefix + self.values_name, prefix + VALUES)

    def _load_from_state_dict(self, state_dict: dict[str, object], prefix: str, *rest: object) -> None:
        self._rename(state_dict, prefix + VALUES, prefix + self.values_name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def values_name(self) -> str:
        """The name in the module of the part that is called `VALUES` in checkpoints."""
        return f"{VALUES}.{self.weight.format.part_names[0]}"

    def _rename(self, state: dict[str, object], name: str, new: str) -> dict[str, object]:
        if name in state and not self.is_loading:
            state[new] = state.pop(name)
        return state

    def extra_repr(self) -> str:
        """Return what ``repr`` shows between the parentheses."""
        options = f"{self.out_features}×{self.in_features}, policy={self.policy!r}, memory={self.memory!r}"
        return f"{options}, dense: {self.reason}" if self.reason else options


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _prepared_codes(layer: SparseLinear) -> list[int]:
    prepare(layer, tune="off")  # a call of a layer starts no processes
    assert layer._codes is not None, "prepare set it"
    return layer._codes


def _traced_codes(layer: SparseLinear) -> list[int]:
    """Return the policy of a layer that is traced before its first call, without storing it in the layer."""
    weight, shape = layer.weight, (layer.out_features, layer.in_features)
    with _disable_current_modes():  # measuring needs real tensors
        found = _policies(
            [shape],
            weight.device,
            weight.multiplied,
            weight.format.name,
            layer.policy,
            "compressed",  # what is traced has no dense weight
            "off",
            lambda *_: None,
        )
    return which.runnable(found[shape]).to_ints()


def prepare(
    model: nn.Module,
    *,
    policy: PolicyMode | None = None,
    memory: Memory | None = None,
    tune: Tune = "quick",
    progress: bool | None = None,
) -> int:
    """Set the policy of each `SparseLinear` of a model before its first call.

    A CPU is measured (seconds for each shape, cached for all processes); a GPU's tables are read, and what
    they lack is measured. A layer that wasn't prepared is prepared in its first call, by tables alone.

    Args:
        model: the model, on its final device.
        policy: replaces that of every layer, if given.
        memory: replaces that of every layer, if given.
        tune: what is measured of shapes that no table has for the GPU, as in `sparseflow.compile`.
        progress: show a progress bar on stderr while measuring; ``None``: only on a terminal.

    Returns:
        The number of layers.

    Raises:
        ArgumentError: an option has a wrong value, or a layer is on a device without 2:4 kernels.
    """
    require_uncompiled(model, "sf.nn.prepare(model)", parts=False)
    _require_options(policy or "auto", memory or "auto")
    require_one_of("nn.prepare", "tune", tune, get_args(Tune))
    layers = [module for module in model.modules() if isinstance(module, SparseLinear)]
    for layer in layers:
        layer.policy, layer.memory = policy or layer.policy, memory or layer.memory
    groups: dict[tuple[torch.device, torch.dtype, str, PolicyMode, Memory], list[SparseLinear]] = {}
    for layer in layers:
        weight = layer.weight
        key = (weight.device, weight.multiplied, weight.format.name, layer.policy, layer.memory)
        groups.setdefault(key, []).append(layer)
    with progress_bars(progress) as bars:
        for key, alike in groups.items():
            shapes = [(layer.out_features, layer.in_features) for layer in alike]
            found = _policies(shapes, *key, tune, bars.stage("measure"))
            for layer in alike:
                layer.set_policy(found[layer.out_features, layer.in_features])
    return len(layers)


def _policies(
    shapes: Iterable[tuple[int, int]],
    device: torch.device,
    dtype: torch.dtype,
    format: str,
    mode: PolicyMode,
    memory: Memory,
    tune: Tune,
    step: Step,
) -> dict[tuple[int, int], Policy | str]:
    if not sparse_kernels(device.type):
        raise ArgumentError(
            "SparseLinear",
            f"there are no 2:4 kernels for device {device}",
            "move the layer to a CPU or NVIDIA GPU",
        )
    return which.policies(
        shapes,
        dtype,
        device,
        mode=mode,
        memory=memory,
        format=format,
        tune=tune,
        progress=step,
        packed=True,
    )


def _require_options(policy: object, memory: object) -> None:
    require_one_of("nn.SparseLinear", "policy", policy, get_args(PolicyMode))
    require_one_of("nn.SparseLinear", "memory", memory, MEMORY_MODES)
