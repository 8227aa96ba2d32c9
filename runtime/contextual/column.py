"""Complete the operator ``column_linear``: a linear layer that leaves out the inputs near zero.

M: the product of the leading dimensions of x, K: in features, N: out features. The weight is stored K
outermost, ``[K, N]``, so that an input that is left out saves reading a contiguous row. The method is TEAL's
(Liu et al., 2024, arXiv 2408.14690).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import epilogues, ops

MOST_ROWS = 32
"""The largest ``m_max``."""
SINKS = 4
"""Tokens at the beginning of a sequence of which every input is read: models park attention on them."""

column_linear = torch.ops.sparseflow.column_linear.default


def selects_inputs(x: Tensor, m_max: int) -> bool:
    """Return whether inputs of x ``[…, K]`` are left out, rather than all of them multiplied.

    They are for at most ``m_max`` rows, and not for ``[…, S, K]`` with S > 1: that is a sequence that is
    read at once, whose first tokens a model needs exactly (attention sinks).
    """
    return math.prod(x.shape[:-1]) <= m_max and (x.dim() < 3 or x.shape[-2] == 1)


def kept_inputs(x: Tensor, threshold: float) -> Tensor:
    """Return x with 0 for what is smaller in magnitude than the threshold; NaN and Inf stay."""
    return x.masked_fill(is_small(x, threshold), 0)


def without_small(x: Tensor, threshold: float) -> Tensor:
    """Return x ``[…, S, K]`` with 0 for what is smaller, the first `SINKS` of S tokens as they are."""
    small = is_small(x, threshold)
    small[..., :SINKS, :] = False
    return x.masked_fill(small, 0)


def is_small(x: Tensor, threshold: float | Tensor) -> Tensor:
    """Return where x is smaller in magnitude than the threshold, which isn't rounded to the dtype of x."""
    return x.abs().float() < threshold


def portable_column_linear(
    x: Tensor,
    weight: Tensor,
    threshold: float,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    m_max: int = 8,
    epilogue: str = "none",
) -> Tensor:
    """Implement ``sparseflow::column_linear`` in plain torch, which reads the whole weight.

    Args:
        x: ``[…, K]``.
        weight: ``[K, N]`` in the dtype of x, or int8, or on a GPU float8_e4m3fn; finite.
        threshold: at least 0, which leaves nothing out.
        bias: ``[N]`` in the dtype of x.
        residual: of the result's shape, in the dtype of x, added last.
        scale: ``[N]`` float32 beside a weight in 8 bits.
        m_max: the most rows of which inputs are left out.
        epilogue: as of `epilogues.finish`.
    """
    matrix = weight if scale is None else (weight.float() * scale).to(x.dtype)
    y = F.linear(kept_inputs(x, threshold) if selects_inputs(x, m_max) else x, matrix.t(), bias)
    if epilogue != "none":
        return epilogues.finish(y, None, epilogue, residual)
    return y if residual is None else y + residual


def _fake(
    x: Tensor,
    weight: Tensor,
    threshold: float,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    scale: Tensor | None = None,
    m_max: int = 8,
    epilogue: str = "none",
) -> Tensor:
    ops.check(
        x.dim() >= 1 and weight.dim() == 2 and x.shape[-1] == weight.shape[0],
        lambda: f"sparseflow::column_linear: x must be [..., {weight.shape[0]}], got {list(x.shape)}",
    )
    n, gated = weight.shape[1], epilogue.endswith("_gated")
    ops.check(
        not gated or n % 2 == 0, lambda: f"sparseflow::column_linear: {epilogue} needs an even N, got {n}"
    )
    ops.check(
        not gated or residual is None, lambda: f"sparseflow::column_linear: {epilogue} takes no residual"
    )
    return x.new_empty((*x.shape[:-1], n // 2 if gated else n))


ops.register_fake(column_linear, _fake)
ops.LIBRARY.impl("column_linear", portable_column_linear, "CompositeExplicitAutograd")
