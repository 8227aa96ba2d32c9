"""Two layers in fp8, one after the other, whose rows go from product to product in e4m3.

    y8, y_scale = linear_fp8_to_rows(x, …)
    z = linear_fp8_of_rows(y8, y_scale, …)

is ``linear_fp8(linear_fp8(x, …), …)`` for many rows on CUDA: scales, bias, activation and gate of the first
and the quantising of the second are one kernel that holds a row, ``csrc/cuda/rows/requantize.cuh``.
Inductor's goes over long rows twice, or computes GELU by more instructions than the memory leaves time for.
`execution/rows_between.py` forms them; both decompose while torch.compile traces. The CPU computes the same,
for tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseflow.runtime import fp8, ops

linear_fp8_to_rows = torch.ops.sparseflow.linear_fp8_to_rows.default
linear_fp8_of_rows = torch.ops.sparseflow.linear_fp8_of_rows.default
linear_fp8_requantized = torch.ops.sparseflow.linear_fp8_requantized.default


def _to_rows(
    x: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    in_features: int,
    epilogue: str,
    policy: list[int],
    dense: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    fp8.require_no_gradients(x, bias)
    weight, rows = (values, positions, scales, bias), fp8.quantize_rows(x)
    y8, y_scale = linear_fp8_requantized(*rows, *weight, in_features, epilogue, x.dtype, policy, dense)
    return y8, y_scale


def _of_rows(x8: Tensor, x_scale: Tensor, *layer: Any) -> Tensor:
    bias, residual = layer[3:5]
    fp8.require_no_gradients(bias, residual)
    return fp8.after_quantizing(x8, x_scale, *layer)


def _portable(
    x: Tensor,
    x_scale: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    in_features: int,
    epilogue: str,
    out_dtype: torch.dtype,
    policy: list[int],
    dense: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    layer = (values, positions, scales, bias, None, in_features, epilogue, out_dtype, policy, dense)
    return fp8.quantize_rows(fp8.after_quantizing(x, x_scale, *layer))


def _fake_requantized(
    x: Tensor,
    x_scale: Tensor,
    values: Tensor,
    positions: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    in_features: int,
    epilogue: str,
    out_dtype: torch.dtype,
    policy: list[int],
    dense: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    ops.check(
        x.dim() >= 1 and x.shape[-1] == in_features and x.dtype == fp8.E4M3,
        lambda: (
            f"sparseflow::linear_fp8_requantized: x must be {fp8.E4M3} [..., {in_features}], "
            f"got {x.dtype} {list(x.shape)}"
        ),
    )
    n, rows = values.shape[0], x.shape[:-1]
    fp8.check_epilogue(epilogue, n, None)
    y8 = x.new_empty((*rows, n // 2 if epilogue.endswith("_gated") else n))
    return y8, x.new_empty((*rows, 1), dtype=torch.float32)


def _register() -> None:
    ops.LIBRARY.impl("linear_fp8_to_rows", _to_rows, "CompositeImplicitAutograd")
    ops.LIBRARY.impl("linear_fp8_of_rows", _of_rows, "CompositeImplicitAutograd")
    ops.LIBRARY.impl("linear_fp8_requantized", _portable, "CPU")
    torch.library.register_fake(linear_fp8_requantized, _fake_requantized)


_register()
