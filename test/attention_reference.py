"""Attention over a cache by its definition, which our operators and kernels are compared with."""

from __future__ import annotations

import torch
from torch import Tensor


def expected(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    keep: Tensor | None,
    scale: float,
    window: int = 0,
) -> Tensor:
    """In fp64; what isn't seen is replaced by zeros, so that NaN there doesn't matter."""
    group, queries, length = q.shape[1] // k.shape[1], q.shape[2], k.shape[2]
    places = torch.arange(length, device=q.device)
    seen = torch.ones(q.shape[0], 1, queries, length, dtype=torch.bool, device=q.device)
    if position is not None:
        last = position.reshape(1, 1) + torch.arange(queries, device=q.device)[:, None]
        seen &= places <= last
        if window:
            seen &= places > last - window
    if keep is not None:
        seen &= keep[:, None, None, :length]
    k, v = (
        t.double().nan_to_num().expand(q.shape[0], -1, -1, -1).repeat_interleave(group, 1) for t in (k, v)
    )
    scores = (q.double() @ k.transpose(2, 3) * scale).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1).nan_to_num() @ v
