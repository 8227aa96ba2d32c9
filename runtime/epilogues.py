"""The epilogues of linear layers in plain torch, for kernels that compute the product only."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def gelu_tanh(y: Tensor) -> Tensor:
    """Return ``F.gelu(y, approximate="tanh")`` by the sigmoid that it equals.

    inductor's tanh takes several times the instructions of its sigmoid, which a kernel that quantises what
    follows waits for.
    """
    return y * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (y + 0.044715 * y * y * y))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "silu": F.silu,
}

_GATED = "_gated"


def finish(y: Tensor, bias: Tensor | None, epilogue: str, residual: Tensor | None) -> Tensor:
    """Return ``act(y + bias) (+ residual)``, computed in float32 and rounded once.

    Args:
        y: ``[…, N]``, the product.
        bias: ``[N]``, or None.
        epilogue: ``"none"``, a name in `ACTIVATIONS`, or a gated one such as ``"silu_gated"``: then the
            result is ``act(g) * u``, ``[…, N/2]``, for the halves g and u of ``y + bias``.
        residual: of the result's shape, or None.
    """
    wide = y.float() if bias is None else y.float() + bias
    if epilogue.endswith(_GATED):
        gate, up = wide.chunk(2, dim=-1)
        wide = ACTIVATIONS[epilogue.removesuffix(_GATED)](gate) * up
    elif epilogue != "none":
        wide = ACTIVATIONS[epilogue](wide)
    return (wide if residual is None else wide + residual).to(y.dtype)
