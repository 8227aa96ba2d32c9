"""The weights of a contextual MLP: two or three rows for each neuron, read together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.checks import NATIVE_DTYPES, dtype_name, require_dtype, require_matrix
from sparseflow.runtime.contextual import ops, portable, quantize


@dataclasses.dataclass(frozen=True, eq=False)
class ContextualWeights:
    """The tensors of ``y = (act(x · gateᵀ + gate_bias) ⊙ (x · upᵀ + up_bias)) · down_t + down_bias``.

    Without a gate it is ``y = act(x · upᵀ + up_bias) · down_t + down_bias``.

    Attributes:
        gate, up, down_t: ``[I, H]`` of one dtype: float32, bfloat16, float16, or int8 with scales. No gate in
            plain MLPs.
        gate_scale, up_scale, down_scale: ``[I]`` float32 beside int8, else None.
        gate_bias, up_bias: ``[I]``, and down_bias: ``[H]``, in the dtype of x, or None.
        activation: silu, gelu, gelu_tanh, relu or relu2.

    Raises:
        ArgumentError: a shape, dtype or device doesn't fit, or the activation is unknown.
    """

    gate: Tensor | None
    up: Tensor
    down_t: Tensor
    gate_scale: Tensor | None = None
    up_scale: Tensor | None = None
    down_scale: Tensor | None = None
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None
    activation: str = "silu"

    def __post_init__(self) -> None:
        if self.activation not in portable.ACTIVATIONS:
            known = ", ".join(portable.ACTIVATIONS)
            raise ArgumentError("activation", f"expected one of {known}, got {self.activation!r}")
        require_matrix(self.up, "up")
        require_dtype(self.up, (*NATIVE_DTYPES, torch.int8), "up")
        for name in ("gate", "down_t"):
            if getattr(self, name) is not None:
                self._require(name, (self.intermediate, self.hidden), self.up.dtype)
        for name in ("gate", "up", "down"):
            self._require_scale(name)
        for name in ("gate_bias", "up_bias", "down_bias"):
            bias = getattr(self, name)
            if bias is not None:
                wanted = bias.dtype if self.is_quantized else self.up.dtype
                self._require(name, (self.hidden if name == "down_bias" else self.intermediate,), wanted)

    def _require(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        tensor: Tensor = getattr(self, name)
        if tensor.shape != shape or tensor.dtype != dtype or tensor.device != self.up.device:
            raise ArgumentError(
                name,
                f"expected {dtype_name(dtype)} {list(shape)} on {self.up.device}, "
                f"got {dtype_name(tensor.dtype)} {list(tensor.shape)} on {tensor.device}",
            )

    def _require_scale(self, name: str) -> None:
        scale, absent = getattr(self, f"{name}_scale"), name == "gate" and self.gate is None
        if (scale is not None) != (self.is_quantized and not absent):
            raise ArgumentError(f"{name}_scale", "int8 weights have scales, other weights none")
        if scale is not None:
            self._require(f"{name}_scale", (self.intermediate,), torch.float32)

    @classmethod
    def of(
        cls,
        gate: Tensor | None,
        up: Tensor,
        down: Tensor,
        *,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        activation: str = "silu",
    ) -> ContextualWeights:
        """Make it from the weights of an MLP's linear layers; ``down`` is copied, transposed.

        Args:
            gate: ``[I, H]``, or None for a plain MLP.
            up: ``[I, H]``.
            down: ``[H, I]``.
            gate_bias: ``[I]`` or None.
            up_bias: ``[I]`` or None.
            down_bias: ``[H]`` or None.
            activation: silu, gelu, gelu_tanh, relu or relu2.

        Raises:
            ArgumentError: what the class raises.
        """
        down_t = require_matrix(down, "down").T
        biases = {"gate_bias": gate_bias, "up_bias": up_bias, "down_bias": down_bias}
        given = {"gate": gate, "up": up, "down_t": down_t, **biases}
        tensors: dict[str, Any] = {
            name: None if t is None else t.detach().contiguous() for name, t in given.items()
        }
        return cls(**tensors, activation=activation)

    @property
    def intermediate(self) -> int:
        """Neurons, I."""
        return self.up.shape[0]

    @property
    def hidden(self) -> int:
        """Hidden features, H."""
        return self.up.shape[1]

    @property
    def is_quantized(self) -> bool:
        """Whether the weights are int8."""
        return self.up.dtype == torch.int8

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """The operators' arguments after x: gate, up, down_t, their scales, the biases."""
        names = [field.name for field in dataclasses.fields(self)][:-1]
        return tuple(getattr(self, name) for name in names)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.operands if tensor is not None)

    def quantized(self, dtype: str = "int8") -> ContextualWeights:
        """Return the weights in int8 with a scale for each row; biases stay as they are.

        Raises:
            ArgumentError: another dtype than int8, or weights that are quantised already.
            WeightError: a weight is NaN or Inf.
        """
        if self.is_quantized:
            raise ArgumentError("weights", "expected floating weights, got int8")
        parts: dict[str, Any] = {}
        for name in ("gate", "up", "down_t"):
            weight = getattr(self, name)
            if weight is not None:
                parts[name], parts[f"{name.removesuffix('_t')}_scale"] = quantize.rows(weight, dtype, name)
        return dataclasses.replace(self, **parts)

    def to(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> ContextualWeights:
        """Move to a device, or cast to a floating dtype; int8 weights and their scales keep theirs."""
        kept = ("gate_scale", "up_scale", "down_scale")
        moved: dict[str, Any] = {}
        for field in dataclasses.fields(self)[:-1]:
            tensor: Tensor | None = getattr(self, field.name)
            if tensor is not None:
                cast = dtype if tensor.is_floating_point() and field.name not in kept else None
                moved[field.name] = tensor.to(device=device, dtype=cast or tensor.dtype)
        return dataclasses.replace(self, **moved)

    def run(self, x: Tensor, neurons: Tensor, count: Tensor) -> Tensor:
        """Compute the MLP over the listed neurons: ``[…, H]`` in the dtype of x.

        Args:
            x: ``[…, H]``.
            neurons: ``[I]`` int32, ascending; or ``[M, I]``, a list for each row of x.
            count: ``[1]`` or ``[M]`` int32, how many of them are read.
        """
        result: Tensor = ops.contextual_mlp(x, *self.operands, neurons, count, self.activation)
        return result

    def dense(self, x: Tensor) -> Tensor:
        """Compute the MLP with every neuron by torch: ``[…, H]``."""
        dense: Callable[..., Tensor] = portable.dense
        return dense(x, *self.operands, activation=self.activation)
