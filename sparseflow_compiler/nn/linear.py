"""`SparseLinear`: a linear layer over a packed weight, run by what was measured for each M."""

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
from sparseflow.support.arguments import MEMORY_MODES, Memory, PolicyMode, require_one_of
from sparseflow.support.progress import Step, progress_bars

VALUES = "weight"
"""The first part of a packed layer's weight, the values, in checkpoints.

They are half as wide as the weight whose name they have, on purpose: who doesn't know the form finds a matrix
of a wrong shape. Under another name the weight would be missing, and transformers makes missing weights up.
"""


class SparseLinear(nn.Module):
    """``y = x · Wᵀ + bias`` with a packed weight, of any format, in place of an ``nn.Linear``.

    x is ``[…, K]``, y ``[…, N]``, both in the weight's dtype. The weight is frozen; gradients flow to x, and
    to the bias where it requires them, so that what is around the layer, such as an adapter, can be trained.
    What runs for which M is settled by `prepare`, at the latest in the first call on a device.

    Args:
        weight: W, ``[N, K]``.
        bias: ``[N]``, of the weight's dtype and device, or None.
        policy: ``"auto"`` runs every M by the path that was measured to be faster, as `sparseflow.compile`
            has it; the weight is packed in any case, so what is dense unpacks it in each call unless the
            dense weight is kept; `reason` says why. ``"sparse"`` always runs sparse.
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
        self.awaited = False
        """Whether its tensors are being put in one by one: its state dict has the module's own names then."""
        self.reason = ""
        """Why the layer is dense at every M, such as that no table of the GPU has its shape."""
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
        """``x · Wᵀ + bias``, ``[…, N]``."""
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

    def settle(self, found: Policy | str) -> None:
        """Run by this policy from now on, on this device; densely where it is a reason for that."""
        self.reason = found if isinstance(found, str) else ""
        self.weight.dense = None
        policy = which.runnable(found, copied=isinstance(found, str) and self._may_keep_dense())
        self._codes = policy.to_ints()
        if policy.keeps_dense:
            self.weight.keep_dense()

    def _may_keep_dense(self) -> bool:
        """Whether a layer that is dense for a reason keeps its dense weight."""
        weight = self.weight
        return self.memory == "fast" or (
            self.memory == "auto" and Room().take(weight.device, weight.dense_nbytes)
        )

    @property
    def prepared(self) -> bool:
        """Whether a policy was settled for the device that the layer is on."""
        return self._codes is not None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseLinear:
        before = self.weight.device, self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if before != (self.weight.device, self.weight.dtype):
            self._codes = None
        return self

    def state_dict(  # type: ignore[override]  # torch has overloads
        self, *args: object, prefix: str = "", **kwargs: Any
    ) -> dict[str, object]:
        """The portable form, the values under the name ``weight`` as checkpoints have them."""
        found: dict[str, object] = super().state_dict(*args, prefix=prefix, **kwargs)
        return self._renamed(found, prefix + self.in_module, prefix + VALUES)

    def _load_from_state_dict(self, state_dict: dict[str, object], prefix: str, *rest: object) -> None:
        self._renamed(state_dict, prefix + VALUES, prefix + self.in_module)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def in_module(self) -> str:
        """What the module itself calls the part that is `VALUES` in checkpoints."""
        return f"{VALUES}.{self.weight.format.part_names[0]}"

    def _renamed(self, state: dict[str, object], name: str, new: str) -> dict[str, object]:
        if name in state and not self.awaited:
            state[new] = state.pop(name)
        return state

    def extra_repr(self) -> str:
        """What ``repr`` shows between the parentheses."""
        options = f"{self.out_features}×{self.in_features}, policy={self.policy!r}, memory={self.memory!r}"
        return f"{options}, dense: {self.reason}" if self.reason else options


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _prepared_codes(layer: SparseLinear) -> list[int]:
    prepare(layer)
    assert layer._codes is not None, "prepare settled it"
    return layer._codes


def _traced_codes(layer: SparseLinear) -> list[int]:
    """The policy of a layer that is traced before its first call; nothing of the trace stays in the layer."""
    weight, shape = layer.weight, (layer.out_features, layer.in_features)
    with _disable_current_modes():  # what is measured is real
        found = _policies(
            [shape],
            weight.device,
            weight.multiplied,
            weight.format.name,
            layer.policy,
            "compressed",  # what is traced has no dense weight
            lambda *_: None,
        )
    return which.runnable(found[shape]).to_ints()


def prepare(
    model: nn.Module,
    *,
    policy: PolicyMode | None = None,
    memory: Memory | None = None,
    progress: bool | None = None,
) -> int:
    """Settle what each `SparseLinear` of a model runs, before its first call.

    A CPU is measured (seconds a shape, cached for all processes), a GPU's tables are read.

    Args:
        model: with its weights in place.
        policy: replaces that of every layer.
        memory: replaces that of every layer.
        progress: a progress bar on stderr while measuring; ``None``: only on a terminal.

    Returns:
        How many layers there are.

    Raises:
        ArgumentError: an option has a wrong value, or a layer is on a device that has no 2:4 kernels.
    """
    require_uncompiled(model, "sf.nn.prepare(model)", parts=False)
    _require_options(policy or "auto", memory or "auto")
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
            found = _policies(shapes, *key, bars.stage("measure"))
            for layer in alike:
                layer.settle(found[layer.out_features, layer.in_features])
    return len(layers)


def _policies(
    shapes: Iterable[tuple[int, int]],
    device: torch.device,
    dtype: torch.dtype,
    format: str,
    mode: PolicyMode,
    memory: Memory,
    step: Step,
) -> dict[tuple[int, int], Policy | str]:
    if not sparse_kernels(device.type):
        raise ArgumentError(
            "SparseLinear",
            f"there are no 2:4 kernels for device {device}",
            "move the layer to a CPU or NVIDIA GPU",
        )
    return which.policies(
        shapes, dtype, device, mode=mode, memory=memory, format=format, progress=step, packed=True
    )


def _require_options(policy: object, memory: object) -> None:
    require_one_of("nn.SparseLinear", "policy", policy, get_args(PolicyMode))
    require_one_of("nn.SparseLinear", "memory", memory, MEMORY_MODES)
