"""Attention of few queries over a cache of keys and values: `torch.ops.sparseflow.decode_attention`.

Our kernels read the position themselves: no mask is made, and nothing beyond the filled part is used. On a
CPU threads share stretches of the keys (`csrc/cpu/attention.cpp`); on a GPU a cluster of blocks does
(`csrc/cuda/attention`). Where there is none torch's attention runs, which sees the query heads of a group as
several queries of one head, so that nothing is repeated.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime import ops

MOST_ROWS = 16
"""Queries of a head of keys that the kernel takes: those of its group of heads, times the positions."""

WIDTHS = (64, 96, 128, 256)
"""Widths of a head that it takes."""


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    keep: Tensor | None,
    scale: float,
    window: int = 0,
) -> Tensor:
    """Compute ``softmax(q · kᵀ · scale) · v`` over the keys that each query sees, ``[B, H, Q, D]``.

    Args:
        q: ``[B, H, Q, D]``, contiguous in D, as k and v.
        k: ``[B or 1, Hkv, L, D]``, of the dtype of q.
        v: like k.
        position: int64 of one element on the device of q; query i sees key n where ``n <= position + i``.
            None for all keys.
        keep: bool ``[B or 1, at least L]``, which keys are seen at all. None for all.
        scale: of the scores.
        window: keys that a query sees at most, up to its own; 0 for all before it.
    """
    check_attention("sparseflow.decode_attention", q, k, v, position, keep, window)
    k, v = (t.expand(q.shape[0], -1, -1, -1) for t in (k, v))
    keep = None if keep is None else keep.expand(q.shape[0], -1)
    if q.is_cuda and why_not_split(q, k) is None:
        found: Tensor = torch.ops.sparseflow.decode_attention_split(q, k, v, position, keep, scale, window)
        return found
    return portable(q, k, v, position, keep, scale, window)


def why_not_split(q: Tensor, k: Tensor) -> str | None:
    """Return why the kernel of a GPU doesn't take queries and keys; None if it does."""
    rows = q.shape[2] * (q.shape[1] // max(1, k.shape[1]))
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"attends in float16 and bfloat16, not in {q.dtype}"
    if q.shape[3] not in WIDTHS:
        return f"takes heads as wide as {', '.join(map(str, WIDTHS))}, not {q.shape[3]}"
    if rows > MOST_ROWS:
        return f"takes {MOST_ROWS} queries of a head of keys, not {rows}"
    return _why_not_on(q.device.index or 0)


@functools.cache
def _why_not_on(device: int) -> str | None:
    """Return why the kernel doesn't run on a GPU; None if it does."""
    if not hasattr(torch.ops.sparseflow, "decode_attention_split"):
        return "this build has no CUDA kernels"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= (9, 0) else "needs clusters of blocks, which GPUs have from sm_90 on"


def portable(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    keep: Tensor | None,
    scale: float,
    window: int = 0,
) -> Tensor:
    """Compute the same by torch's own attention; arguments as of the operator, all of one batch size."""
    queries, heads, group = q.shape[2], k.shape[1], q.shape[1] // max(1, k.shape[1])
    keep = None if keep is None else keep[:, : k.shape[2]]
    mask = _mask(k, queries, position, keep, window)
    if mask is not None and queries > 1:
        mask = mask.unsqueeze(2).expand(-1, -1, group, -1, -1).flatten(2, 3)
    rows = q.reshape(q.shape[0], heads, group * queries, q.shape[3])
    found: Tensor = F.scaled_dot_product_attention(rows, k, v, attn_mask=mask, scale=scale)
    return found.reshape(q.shape[0], heads * group, queries, v.shape[3]).contiguous()


def _mask(
    k: Tensor, queries: int, position: Tensor | None, keep: Tensor | None, window: int
) -> Tensor | None:
    """Return which keys each query sees, bool `[B or 1, 1, queries or 1, L]`; None for all."""
    seen = None if keep is None else keep[:, None, None, :]
    if position is None:
        return seen
    key = torch.arange(k.shape[2], device=k.device)
    last = position.reshape(1, 1) + torch.arange(queries, device=k.device)[:, None]
    near = key <= last
    if window:
        near &= key > last - window
    return near[None, None] if seen is None else seen & near


def check_attention(
    name: str, q: Tensor, k: Tensor, v: Tensor, position: Tensor | None, keep: Tensor | None, window: int
) -> None:
    """Check the arguments of an operator of that name.

    Raises:
        RuntimeError: they don't fit each other.
    """
    ops.check(q.dim() == k.dim() == v.dim() == 4, lambda: f"{name}: q, k and v must have four dimensions")
    ops.check(q.dtype == k.dtype == v.dtype, lambda: f"{name}: q is {q.dtype}, k {k.dtype} and v {v.dtype}")
    ops.check(
        k.shape == v.shape and k.shape[0] in (1, q.shape[0]) and k.shape[3] == q.shape[3],
        lambda: f"{name}: k {list(k.shape)} and v {list(v.shape)} don't fit q {list(q.shape)}",
    )
    ops.check(
        k.shape[1] > 0 and q.shape[1] % k.shape[1] == 0,
        lambda: f"{name}: {q.shape[1]} heads of q are no multiple of {k.shape[1]} of k",
    )
    ops.check(
        position is None or (position.numel() == 1 and position.dtype == torch.int64),
        lambda: f"{name}: position must be one int64",
    )
    ops.check(
        keep is None
        or (
            keep.dim() == 2
            and keep.dtype == torch.bool
            and keep.shape[0] in (1, q.shape[0])
            and keep.shape[1] >= k.shape[2]
        ),
        lambda: f"{name}: keep must be bool [batch, at least {k.shape[2]}]",
    )
    ops.check(
        window >= 0 and (window == 0 or position is not None),
        lambda: f"{name}: window must be 0 or more, and it needs a position",
    )


def _fake(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    position: Tensor | None,
    keep: Tensor | None,
    scale: float,
    window: int = 0,
) -> Tensor:
    return q.new_empty(q.shape)


decode_attention = torch.ops.sparseflow.decode_attention.default
ops.LIBRARY.impl("decode_attention", _attention, "CompositeExplicitAutograd")
ops.register_fake(decode_attention, _fake)
