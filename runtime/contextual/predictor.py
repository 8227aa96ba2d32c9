"""Predict the neurons that a token needs by low-rank scores."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.runtime.checks import NATIVE_DTYPES, require_dtype, require_matrix
from sparseflow.runtime.contextual import ops, portable, quantize
from sparseflow.runtime.contextual.mlp_weights import ContextualWeights


@dataclasses.dataclass(frozen=True, eq=False)
class Predictor:
    """``scores = (x · aᵀ) · bᵀ + bias`` ``[M, I]``, and the rule by which they select neurons.

    Attributes:
        a: ``[r, H]``, b: ``[I, r]``: each float32, bfloat16, float16, or int8 with scales.
        bias: ``[I]`` float32, or None.
        rule: "threshold": score > parameter. "top_k": the ``parameter`` largest of each row, ties to the
            lower neuron. "statistical": score > mean + parameter · standard deviation of its row. A NaN is
            selected.
        parameter: finite; of top_k a whole number, not negative.
        a_scale: ``[r]``, b_scale: ``[I]``: float32 beside int8, else None.

    Raises:
        ArgumentError: a shape, dtype or device doesn't fit, or the rule is unknown.
    """

    a: Tensor
    b: Tensor
    bias: Tensor | None
    rule: str
    parameter: float
    a_scale: Tensor | None = None
    b_scale: Tensor | None = None

    def __post_init__(self) -> None:
        for name, matrix in (("a", self.a), ("b", self.b)):
            require_matrix(matrix, name)
            require_dtype(matrix, (*NATIVE_DTYPES, torch.int8), name)
            self._require_scale(name, matrix)
        if self.b.shape[1] != self.a.shape[0] or self.b.device != self.a.device:
            raise ArgumentError(
                "b",
                f"expected [I, {self.rank}] on {self.a.device}, got {list(self.b.shape)} on {self.b.device}",
            )
        if self.bias is not None:
            self._require_vector("bias", self.bias, self.b.shape[0])
        require_rule(self.rule, self.parameter)

    def _require_vector(self, name: str, vector: Tensor, length: int) -> None:
        if vector.shape != (length,) or vector.dtype != torch.float32 or vector.device != self.a.device:
            raise ArgumentError(
                name,
                f"expected float32 [{length}] on {self.a.device}, "
                f"got {vector.dtype} {list(vector.shape)} on {vector.device}",
            )

    def _require_scale(self, name: str, matrix: Tensor) -> None:
        scale: Tensor | None = getattr(self, f"{name}_scale")
        if (scale is not None) != (matrix.dtype == torch.int8):
            raise ArgumentError(f"{name}_scale", "int8 weights have scales, other weights none")
        if scale is not None:
            self._require_vector(f"{name}_scale", scale, matrix.shape[0])

    @property
    def rank(self) -> int:
        """The rank r."""
        return self.a.shape[0]

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """The operators' arguments: a, b, bias, a_scale, b_scale."""
        return self.a, self.b, self.bias, self.a_scale, self.b_scale

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.operands if tensor is not None)

    def quantized(self, dtype: str = "int8") -> Predictor:
        """Return the predictor with a and b in int8, with a scale for each row.

        Raises:
            ArgumentError: another dtype than int8, or it is quantised already. WeightError: NaN or Inf.
        """
        if torch.int8 in (self.a.dtype, self.b.dtype):
            raise ArgumentError("predictor", "expected floating weights, got int8")
        a, a_scale = quantize.rows(self.a, dtype, "a")
        b, b_scale = quantize.rows(self.b, dtype, "b")
        return dataclasses.replace(self, a=a, b=b, a_scale=a_scale, b_scale=b_scale)

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Predictor:
        """Move to a device, or cast a and b to a floating dtype; int8 stays."""
        moved: dict[str, Any] = {}
        for name in ("a", "b", "bias", "a_scale", "b_scale"):
            tensor: Tensor | None = getattr(self, name)
            if tensor is not None:
                cast = dtype if name in ("a", "b") and tensor.is_floating_point() else None
                moved[name] = tensor.to(device=device, dtype=cast or tensor.dtype)
        return dataclasses.replace(self, **moved)

    def scores(self, x: Tensor) -> Tensor:
        """Return the scores ``[M, I]`` float32 for x ``[…, H]``."""
        result: Tensor = ops.contextual_scores(x, *self.operands)
        return result

    def select(self, x: Tensor, per_row: bool = False) -> tuple[Tensor, Tensor]:
        """Return the neurons that the rows of x ``[…, H]`` need, as `ContextualWeights.run` takes them.

        Args:
            x: the hidden states, M rows.
            per_row: a list for each row, ``[M, I]`` and ``[M]``, instead of one for their union,
                ``[I]`` and ``[1]``.
        """
        neurons, count = ops.contextual_select(self.scores(x), self.rule, self.parameter, per_row)
        return neurons, count

    def run(self, x: Tensor, weights: ContextualWeights, per_row: bool = False) -> Tensor:
        """Predict, select and compute the MLP, ``[…, H]``, in one call."""
        result: Tensor = ops.contextual_mlp_predicted(
            x, *weights.operands, *self.operands, self.rule, self.parameter, weights.activation, per_row
        )
        return result


def require_rule(rule: str, parameter: float) -> None:
    """Refuse an unknown rule or an invalid parameter.

    Raises:
        ArgumentError: either.
    """
    if rule not in portable.RULES:
        raise ArgumentError("rule", f"expected one of {', '.join(portable.RULES)}, got {rule!r}")
    if not abs(parameter) < float("inf"):
        raise ArgumentError("parameter", f"expected a finite number, got {parameter}")
    if rule == "top_k" and (parameter < 0 or parameter != int(parameter)):
        raise ArgumentError(
            "parameter", f"top_k takes a whole number of neurons, not negative, got {parameter}"
        )
