"""The format ``2:4-fp8``: the kept values of a weight in e4m3, their positions, and a scale for each row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sparseflow.runtime.formats.two_of_four import TwoOfFour

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from sparseflow.runtime.formats.base import Tensors

TILE = 64
"""N and K must be multiples: the fp8 kernels take no padded weights."""

REPLACED_DTYPES = ("f16", "bf16")
"""Element types of the layers whose products may run in fp8."""


@dataclass(frozen=True)
class Sparse24Fp8(TwoOfFour):
    """Each row scaled as loses least (`runtime.fp8.quantize_weight`); ``linear_fp8`` scales the rows of x."""

    name: ClassVar[str] = "2:4-fp8"
    operator: ClassVar[str] = "linear_fp8"
    part_names: ClassVar[tuple[str, ...]] = ("values", "positions", "scales")
    lossy: ClassVar[bool] = True

    def value_type(self, dtype: str) -> str:
        """Return e4m3, whatever the weight's element type."""
        return "f8E4M3FN"

    def row_parts(self) -> tuple[tuple[str, str], ...]:
        """Return the scales, in f32."""
        return (("scales", "f32"),)

    def multiplied(self, dtype: str) -> str:
        """Return e4m3: its speed-ups are measured against the dense product in fp8."""
        return "f8E4M3FN"

    def why_not(self, n: int, k: int, dtype: str, epilogue: str = "none") -> str | None:
        """Return why the kernels can't run a layer: its element type, or sizes that need padding."""
        if dtype not in REPLACED_DTYPES:
            return f"it is {dtype}; fp8 replaces {', '.join(REPLACED_DTYPES)}"
        if n % TILE or k % TILE:
            return f"N and K must be multiples of {TILE}, got N={n}, K={k}"
        return None

    def load(self) -> None:
        """Import the Python module that registers the operator."""
        import sparseflow.runtime.fp8  # noqa: F401  registers linear_fp8

    def traced_op(
        self, device_type: str, policy: Sequence[int], *, normed: bool = False
    ) -> Callable[..., Tensor]:
        """Return ``linear_fp8_fused`` on CUDA if the policy has an own kernel: for few or for many rows.

        The one takes rows in 16 bits, the other scales its result. After a norm inductor makes them in both
        forms. Without such kernels the scaling of rows is better left to inductor, which fuses it with the
        layers around.
        """
        from sparseflow.runtime import fp8

        own = any(code & 255 in (fp8.SKINNY, fp8.WIDE) for code in policy[1::2])
        if not own or device_type != "cuda":
            return fp8.linear_fp8
        return fp8.linear_fp8_after_norm if normed else fp8.linear_fp8_fused

    def pack(self, weight: Tensor) -> Tensors:
        """Pack, then quantise each row; N and K are at least 1."""
        import torch

        from sparseflow.runtime import fp8, ops
        from sparseflow.runtime.checks import row_chunks

        values, positions = ops.pack_2_4(weight)
        # In chunks of rows: the whole weight in float32 would take twice the memory of the dense one.
        pieces = [fp8.quantize_weight(rows) for _, rows in row_chunks(values)]
        quantized, scales = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        return quantized, positions, scales.squeeze(1)

    def unpack(self, tensors: Tensors, in_features: int) -> Tensor:
        """Return the dense form times the scales."""
        return self.dense(tensors, in_features).float() * tensors[2][:, None]
