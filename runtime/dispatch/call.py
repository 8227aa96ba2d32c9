"""The overhead of our operator's call on a CPU over a call of ``F.linear`` with the same dense product."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F

from sparseflow.runtime import ops
from sparseflow.runtime.dispatch.measurement import DENSE
from sparseflow.runtime.timing import interleaved

SIZE = 16
"""N and K of the timed layer, and the least of a packed one: its product takes next to no time."""

TURNS = 400
"""Calls of each side, a few microseconds long. The fastest counts, as other processes only add time."""


@functools.cache
def call_us() -> float:
    """Return the microseconds that our operator takes beyond ``F.linear`` to run a kept dense weight.

    They don't depend on the layer's size: the operator calls the very product that ``F.linear`` calls.
    """
    with torch.inference_mode():
        x, weight = torch.ones(1, SIZE), torch.zeros(SIZE, SIZE)
        values, positions = ops.pack_2_4(weight)
        policy = [1, DENSE.code]
        plain, ours = interleaved(
            [
                lambda _: F.linear(x, weight),
                lambda _: ops.linear(x, values, positions, None, None, SIZE, "none", policy, weight),
            ],
            seconds=0.0,
            least=TURNS,
        )
    return max(0.0, 1e6 * (min(ours) - min(plain)))
