"""Measure up to how many rows leaving inputs out is faster than reading all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.runtime.contextual.column import column_linear
from sparseflow.runtime.formats import COLUMNS, find
from sparseflow.runtime.robust import settle
from sparseflow.runtime.timing import Turns
from sparseflow.runtime.tuning.replay import Replay, in_turns

ROWS = (1, 2, 4, 8)
"""Rows for which a layer is measured: from there on a mask that they share leaves hardly anything out."""

SECONDS_A_POINT, LEAST_SECONDS, MAX_REPS = 0.3, 0.02, 400
ROUNDS = 20
"""Replays of each side on a GPU, at most while they agree."""
_COLD_BYTES = 192 << 20
"""Weights that are rotated through together have so many bytes, so that none lies in a cache."""
_MOST_COPIES = 64


@dataclass(frozen=True)
class ColumnShape:
    """What determines how fast a layer is: layers of about the same rate have one policy.

    Attributes:
        n: out features, of a merged layer those of all parts.
        k: in features.
        dtype: of weight and input.
        device: of the weight.
        percent: the share of inputs that is left out, %.
        format: how the weight is stored, of `COLUMNS`; empty: in dtype.
    """

    n: int
    k: int
    dtype: torch.dtype
    device: torch.device
    percent: int
    format: str = ""


@dataclass(frozen=True)
class ColumnPolicy:
    """The numbers of rows for which a layer leaves inputs out.

    Attributes:
        m_max: at most so many; 0: never.
        measured: the speed-up over the dense layer at each measured number of rows; empty where nothing was
            measured.
    """

    m_max: int
    measured: tuple[tuple[int, float], ...] = ()

    @property
    def speedup(self) -> float | None:
        """The least speed-up among the rows for which inputs are left out; None if not measured."""
        return min((speedup for m, speedup in self.measured if m <= self.m_max), default=None)

    def why(self) -> str:
        """Return the decision in a sentence, with its figures."""
        if not self.measured:
            return f"for up to {self.m_max} rows, not measured: policy='sparse'"
        figures = ", ".join(f"M={m} {speedup:.2f}×" for m, speedup in self.measured)
        if not self.m_max:
            return f"leaving inputs out is no faster than dense: {figures}"
        return f"for up to {self.m_max} rows, measured against dense: {figures}"


UNMEASURED = ColumnPolicy(ROWS[-1])

_MEASURED: dict[ColumnShape, ColumnPolicy] = {}
"""What this process measured: a model's second program needs it again."""


def column_policy(shape: ColumnShape) -> ColumnPolicy:
    """Measure the policy of layers of a shape against dense ones, over random weights, each read cold.

    Each point is measured by `robust.settle`, for rows that leave out independent inputs: on a GPU the device
    time of calls in a CUDA graph. It stops at the first number of rows without a gain.
    """
    if shape not in _MEASURED:
        points: list[tuple[int, float]] = []
        with torch.inference_mode():
            weights = _weights(shape)
            for m in ROWS:
                points.append((m, _speedup(shape, weights, m)))
                if points[-1][1] < 1:
                    break
        winning = itertools.takewhile(lambda point: point[1] >= 1, points)
        _MEASURED[shape] = ColumnPolicy(max((m for m, _ in winning), default=0), tuple(points))
    return _MEASURED[shape]


@dataclass(frozen=True)
class _Weight:
    """A weight ``[N, K]``, and how the layer reads it: K outermost, with scales if it is in 8 bits."""

    dense: Tensor
    columns: Tensor
    scale: Tensor | None


def _weights(shape: ColumnShape) -> list[_Weight]:
    """Return random weights."""
    each = max(shape.n * shape.k * shape.dtype.itemsize, 1)
    copies = min(_MOST_COPIES, -(-_COLD_BYTES // each))
    first = torch.randn(shape.n, shape.k, device=shape.device).to(shape.dtype)
    stored, scale = first.t().contiguous(), None
    if shape.format:
        values, scale = find(COLUMNS[shape.format]).pack(first)
        stored = values.t().contiguous()
    return [_Weight(first.clone(), stored.clone(), scale) for _ in range(copies)]


def _speedup(shape: ColumnShape, weights: list[_Weight], m: int) -> float:
    x = torch.randn(m, shape.k, device=shape.device).to(shape.dtype)
    magnitudes = x.abs().float().flatten().sort().values
    left = round(shape.percent / 100 * len(magnitudes))
    threshold = float(magnitudes[min(left, len(magnitudes) - 1)]) if left else 0.0

    def dense(turn: int) -> Tensor:
        return F.linear(x, weights[turn % len(weights)].dense)

    def columns(turn: int) -> Tensor:
        weight = weights[turn % len(weights)]
        y: Tensor = column_linear(x, weight.columns, threshold, scale=weight.scale, m_max=m)
        return y

    if x.is_cuda:
        times = _device_times((dense, columns), len(weights), x.device)
    else:
        turns = Turns((dense, columns))
        times = settle(turns, most=MAX_REPS, enough=LEAST_SECONDS, limit=SECONDS_A_POINT).times
    return times[0] / times[1]


def _device_times(
    sides: Sequence[Callable[[int], Tensor]], copies: int, device: torch.device
) -> Sequence[float]:
    """Return the device time of each side, µs: what the host adds is hidden in generating."""
    cuda: Any = torch.cuda  # torch's own annotations are incomplete here
    cuda.synchronize(device)
    with cuda.device(device), cuda.stream(cuda.Stream(device)):
        pool = cuda.graph_pool_handle()
        return in_turns([Replay(side, copies, pool) for side in sides], ROUNDS, lambda side: None)
