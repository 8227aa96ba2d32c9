"""``torch.ops.sparseflow.contextual_fetch``: rows of one tensor to rows of another, by lists of both."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.runtime import ops


def _plain(to: Tensor, rows: Tensor, neurons: Tensor, slots: Tensor, count: Tensor) -> None:
    """The operator in plain torch; it waits for the device."""
    length = int(count.clamp(0, min(len(neurons), len(slots))))
    there = neurons[:length].to(rows.device, copy=False).long()
    to[slots[:length].long()] = rows[there].to(to.device)


def _fake(to: Tensor, rows: Tensor, neurons: Tensor, slots: Tensor, count: Tensor) -> None:
    return None


contextual_fetch = torch.ops.sparseflow.contextual_fetch.default
ops.register_fake(contextual_fetch, _fake)
ops.LIBRARY.impl("contextual_fetch", _plain, "CompositeExplicitAutograd")
