"""Attention of many queries at the end of a static cache: `torch.ops.sparseflow.prompt_attention`.

On a GPU torch's FlashAttention runs, in the form for sequences of different lengths, which reads on the
device how much of the cache is filled: no mask is made, what lies behind the filled part costs nothing, and
of the chunk itself only the causal half is computed. The host waits for nothing: CUDA graphs can record it.

The order of the result's memory is `[B, Q, H, D]`, as FlashAttention writes it and the next layer reads it.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sparseflow.runtime import ops
from sparseflow.runtime.attention.decode_attention import (
    check_attention,
    decode_attention,
    portable,
    why_not_split,
)
from sparseflow.runtime.attention.flash_limits import WIDTHS

_ALIGNED = 8
"""Elements of 16 bytes, which FlashAttention reads at once."""

_NAME = "sparseflow.prompt_attention"
_SCHEMA = (
    "prompt_attention(Tensor q, Tensor k, Tensor v, Tensor position, float scale, int window=0) -> Tensor"
)


def _attention(q: Tensor, k: Tensor, v: Tensor, position: Tensor, scale: float, window: int = 0) -> Tensor:
    """Compute ``softmax(q · kᵀ · scale) · v`` over the keys that each query sees, ``[B, H, Q, D]``.

    Args:
        q: ``[B, H, Q, D]``, on a GPU fastest where its memory is in the order ``[B, Q, H, D]``.
        k: ``[B or 1, Hkv, L, D]``, of the dtype of q.
        v: like k.
        position: int64 of one element on the device of q; query i sees key n where ``n <= position + i``, and
            the last query no key beyond the cache: ``position + Q <= L``.
        scale: of the scores.
        window: keys that a query sees at most, up to its own; 0 for all before it.
    """
    check_attention(_NAME, q, k, v, position, None, window)
    if q.numel() == 0:
        return _fake(q)
    k, v = (t.expand(q.shape[0], -1, -1, -1) for t in (k, v))
    if not q.is_cuda:
        return _in_order(portable(q, k, v, position, None, scale, window))
    if q.shape[2] == 1 or why_not_split(q, k) is None or why_not_flash(q) is not None:
        return _in_order(decode_attention(q, k, v, position, None, scale, window))
    return _flash(q, k, v, position, scale, window)


def why_not_flash(q: Tensor) -> str | None:
    """Return why FlashAttention doesn't take queries on a GPU; None if it does."""
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"attends in float16 and bfloat16, not in {q.dtype}"
    if q.shape[3] not in WIDTHS:
        return f"takes heads as wide as a multiple of {WIDTHS.step} up to {WIDTHS[-1]}, not {q.shape[3]}"
    return why_not_flash_on(q.device)


def why_not_flash_on(device: torch.device) -> str | None:
    """Return why FlashAttention doesn't run on a device; None if it does."""
    if device.type != "cuda":
        return "needs a GPU"
    return _why_not_on_gpu(torch.cuda.current_device() if device.index is None else device.index)


@functools.cache
def _why_not_on_gpu(device: int) -> str | None:
    if torch.version.hip is not None or not torch.backends.cuda.is_flash_attention_available():
        return "this build of torch has no FlashAttention"
    capability = torch.cuda.get_device_capability(device)
    return None if capability >= (8, 0) else "needs sm_80 or later"


def _flash(q: Tensor, k: Tensor, v: Tensor, position: Tensor, scale: float, window: int) -> Tensor:
    """Call FlashAttention for sequences of different lengths, all of one batch size.

    Its causal mask ends at the last filled key, which the last query sees.
    """
    batch, heads, queries, width = q.shape
    rows = q.transpose(1, 2).contiguous().view(batch * queries, heads, width)
    if rows.data_ptr() % 16:
        rows = rows.clone()
    step, keys, values = _packed(k, v)
    starts = (_starts(batch, apart, q.device) for apart in (queries, step))
    filled = (position.reshape(1).expand(batch) + queries).clamp_(0, k.shape[2])
    found: Tensor = _flash_forward(
        *(rows, keys, values, *starts, queries, k.shape[2]),
        *(0.0, True, False),  # no dropout, causal, no weights
        scale=scale,
        window_size_left=window - 1 if window else None,
        seqused_k=filled.to(torch.int32),
    )[0]
    return found.view(batch, queries, heads, width).transpose(1, 2)


def _starts(batch: int, apart: int, device: torch.device) -> Tensor:
    """Return the row at which each sequence begins, int32 `[batch + 1]`."""
    if apart == 0:
        return torch.zeros(batch + 1, dtype=torch.int32, device=device)
    return torch.arange(0, (batch + 1) * apart, apart, dtype=torch.int32, device=device)


def _packed(k: Tensor, v: Tensor) -> tuple[int, Tensor, Tensor]:
    """Return how many rows apart two sequences are, and keys and values as rows `[rows, Hkv, D]` of all.

    Nothing is copied where rows are aligned. In a cache `[B, Hkv, L, D]` the rows of a head are followed by
    those of the next one: a sequence is taken to have them all, and its first rows are read.
    """
    step = _rows_apart(k)
    if step is None or step != _rows_apart(v):
        k, v = (t.clone(memory_format=torch.contiguous_format) for t in (k, v))
        step = k.shape[1] * k.shape[2]
    batch, heads, length, width = k.shape
    rows = (batch - 1) * step + length
    ops.check(rows + step < 2**31, lambda: f"{_NAME}: takes no caches of {rows} rows")
    keys, values = (t.as_strided((rows, heads, width), (t.stride(2), t.stride(1), 1)) for t in (k, v))
    return step, keys, values


def _rows_apart(t: Tensor) -> int | None:
    """Return how many rows lie from one sequence to the next; None if rows can't be read where they are."""
    batch, head, row, element = t.stride()
    aligned = element == 1 and not any(stride % _ALIGNED for stride in (batch, head, row))
    if not aligned or row == 0 or batch % row or t.data_ptr() % 16:
        return None
    return batch // row


def _in_order(found: Tensor) -> Tensor:
    """Return a result `[B, H, Q, D]` with its memory in the order `[B, Q, H, D]`."""
    return found.transpose(1, 2).contiguous().transpose(1, 2)


def _fake(q: Tensor, *_: object) -> Tensor:
    batch, heads, queries, width = q.shape
    return q.new_empty((batch, queries, heads, width)).transpose(1, 2)


_flash_forward = torch.ops.aten._flash_attention_forward.default
_LIBRARY = ops.operator_library("sparseflow", "FRAGMENT")
_LIBRARY.define(_SCHEMA)
prompt_attention = torch.ops.sparseflow.prompt_attention.default
ops.LIBRARY.impl("prompt_attention", _attention, "CompositeExplicitAutograd")
ops.register_fake(prompt_attention, _fake)
