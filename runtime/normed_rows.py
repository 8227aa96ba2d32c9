"""Layer norms before products, with what is done to the stream before them and to their result after them.

    sum = x + gate * y
    out = (layer_norm(sum) * weight + bias) * factor + shift

``torch.ops.sparseflow.normed_rows`` computes both in one kernel that holds a row
(``csrc/cuda/rows/normed.cuh``), and where a layer in fp8 reads ``out`` quantises it too; y may be a product
in fp8 that is not scaled yet. Inductor's kernels go over rows of more than 1024 once for each reduction.
`execution/norms_held.py` forms the calls, for CUDA; the CPU computes the same for tests.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import fp8, ops

normed_rows = torch.ops.sparseflow.normed_rows.default
quantize_rows_fp8 = torch.ops.sparseflow.quantize_rows_fp8.default

LONGEST = 8192
"""Elements of a row that the kernel holds (csrc/cuda/rows/normed.h has the same number)."""


def _fake(
    x: Tensor,
    y: Tensor | None,
    y_scale: Tensor | None,
    w_scale: Tensor | None,
    y_bias: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    eps: float,
    quantized: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    ops.check(x.dim() >= 1, lambda: "sparseflow::normed_rows: x must have rows")
    total = x.new_empty(x.shape if y is not None else (0,))
    out = x.new_empty(x.shape, dtype=fp8.E4M3 if quantized else x.dtype)
    return total, out, x.new_empty((*x.shape[:-1], 1) if quantized else (0,), dtype=torch.float32)


def portable(
    x: Tensor,
    y: Tensor | None,
    y_scale: Tensor | None,
    w_scale: Tensor | None,
    y_bias: Tensor | None,
    gate: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    factor: Tensor | None,
    shift: Tensor | None,
    eps: float,
    quantized: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the same by plain operators, on any device."""
    total = x.float()
    if y is not None:
        added = y.float()
        for by in (w_scale, y_scale):
            added = added if by is None else added * by
        added = added if y_bias is None else added + y_bias
        total = (total + (added if gate is None else added * gate)).to(x.dtype).float()
    times, plus = (None if part is None else part.float() for part in (weight, bias))
    out = F.layer_norm(total, total.shape[-1:], times, plus, eps)
    out = out if factor is None else out * factor
    out = out if shift is None else out + shift
    rows, scale = fp8.quantize_rows(out) if quantized else (out.to(x.dtype), total.new_empty(0))
    return total.to(x.dtype) if y is not None else x.new_empty(0), rows, scale


def _register() -> None:
    ops.LIBRARY.impl("normed_rows", portable, "CPU")
    ops.LIBRARY.impl("quantize_rows_fp8", fp8.quantize_rows, "CompositeImplicitAutograd")
    torch.library.register_fake(normed_rows, _fake)


_register()
