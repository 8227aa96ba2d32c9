"""Measure up to how many rows selecting neurons is faster than computing all of them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.contextual.judging import ROWS_TOGETHER
from sparseflow.contextual.predictors import MlpPredictor
from sparseflow.contextual.selection import count_of
from sparseflow.runtime.contextual import ContextualWeights
from sparseflow.runtime.contextual.by_gate import GateThreshold, contextual_mlp_by_gate
from sparseflow.runtime.contextual.ops import contextual_mlp_predicted
from sparseflow.runtime.contextual.portable import ACTIVATIONS
from sparseflow.runtime.robust import settle
from sparseflow.runtime.timing import Turns

SECONDS_A_POINT, LEAST_SECONDS, MAX_REPS = 0.4, 0.02, 400
_SHARES = 20
"""The resolution of shares of neurons: layers of about the same rate have one policy."""


@dataclass(frozen=True)
class ContextualPolicy:
    """The numbers of rows for which an MLP selects neurons.

    Attributes:
        m_max: neurons are selected for at most this many rows; 0: never.
        measured: the speed-up over the dense MLP at each measured number of rows, predictor included; empty
            where nothing was measured.
        others: the same for the MLP with 2:4 weights and every neuron, if allowed.
    """

    m_max: int
    measured: tuple[tuple[int, float], ...] = ()
    others: tuple[float, ...] = ()

    def beside(self, other: Callable[[int], float]) -> ContextualPolicy:
        """Return the policy given an alternative that is faster than dense, which has to be beaten too.

        Args:
            other: its speed-up over dense for a number of rows.
        """
        others = tuple(other(m) for m, _ in self.measured)
        limits = [max(1.0, speedup) for speedup in others]
        return dataclasses.replace(self, m_max=_most(self.measured, limits), others=others)

    def why(self) -> str:
        """Return the decision in a sentence, with its figures."""
        if not self.measured:
            return f"for up to {self.m_max} rows, not measured: policy='sparse'"
        others = [f" (2:4 {speedup:.2f}×)" for speedup in self.others] or [""] * len(self.measured)
        points = zip(self.measured, others, strict=True)
        figures = ", ".join(f"M={m} {speedup:.2f}×{other}" for (m, speedup), other in points)
        rivals = "dense and 2:4" if self.others else "dense"
        if not self.m_max:
            return f"no faster than {rivals}, predictor included: {figures}"
        return f"for up to {self.m_max} rows, measured against {rivals}, predictor included: {figures}"


def _most(measured: Sequence[tuple[int, float]], limits: Iterable[float]) -> int:
    """Return the most rows up to which all speed-ups reach their limits; 0 if none."""
    points = zip(measured, limits, strict=False)
    winning = list(itertools.takewhile(lambda point: point[0][1] >= point[1], points))
    return winning[-1][0][0] if winning else 0


UNMEASURED = ContextualPolicy(ROWS_TOGETHER[-1])
"""Select neurons for up to 32 rows."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An MLP that may become contextual.

    Attributes:
        up: ``[I, H]``, as the model has it.
        gated: whether there is a gate.
        down: ``[H, I]``, as the dense MLP reads it.
        layer: its predictor, on the weights' device.
        hold: returns the weights in the kernel's layout; called when something is measured.
    """

    up: Tensor
    gated: bool
    down: Tensor
    layer: MlpPredictor
    hold: Callable[[], ContextualWeights]

    @functools.cached_property
    def weights(self) -> ContextualWeights:
        """The weights in the kernel's layout."""
        return self.hold()

    @property
    def key(self) -> tuple[object, ...]:
        """The properties that determine the time."""
        up, p = self.up, self.layer.predictor
        rates = tuple(round(self.layer.union(m) * _SHARES) for m in ROWS_TOGETHER)
        scored = None if isinstance(p, GateThreshold) else p.a.dtype
        return (up.shape, up.dtype, up.device, self.gated, p.rank, scored, rates)

    def sides(self, m: int) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
        """Return dense and contextual calls for m rows that together need a typical number of neurons."""
        w, predictor = self.weights, self.layer.predictor
        # The same row m times, so that its neurons are the union.
        x = torch.randn(1, w.hidden, device=w.up.device).to(w.up.dtype).expand(m, -1).contiguous()
        count = count_of(self.layer.union(m), w.intermediate)
        dense = functools.partial(self._dense, x)
        if not isinstance(predictor, GateThreshold):
            operands = (x, *w.operands, *predictor.operands, "top_k", float(count), w.activation)
            return dense, functools.partial(contextual_mlp_predicted, *operands)
        active = self._active(x[:1]).abs().float().flatten().sort(descending=True).values
        limit = float(active[min(count, len(active) - 1)])
        biases = (w.gate_bias, w.up_bias, w.down_bias)
        operands = (x, w.gate, w.up, w.down_t, *biases, limit, w.activation, m)
        return dense, functools.partial(contextual_mlp_by_gate, *operands)

    def _active(self, x: Tensor) -> Tensor:
        w = self.weights
        weight, bias = (w.up, w.up_bias) if w.gate is None else (w.gate, w.gate_bias)
        return ACTIVATIONS[w.activation](F.linear(x, weight, bias))

    def _dense(self, x: Tensor) -> Tensor:
        w = self.weights
        active = self._active(x)
        hidden = active if w.gate is None else active * F.linear(x, w.up, w.up_bias)
        return F.linear(hidden, self.down, w.down_bias)


_MEASURED: dict[tuple[object, ...], ContextualPolicy] = {}
"""What this process measured, by `Candidate.key`: a model's second program needs it again."""


def measured_policy(group: Sequence[Candidate]) -> ContextualPolicy:
    """Measure the policy of MLPs with equal keys, rotating over their weights.

    Each point is measured by `robust.settle`. It stops at the first number of rows without a gain.
    """
    key = group[0].key
    if key not in _MEASURED:
        points: list[tuple[int, float]] = []
        with torch.inference_mode():
            for m in ROWS_TOGETHER:
                points.append((m, _speedup(group, m)))
                if points[-1][1] < 1:
                    break
        _MEASURED[key] = ContextualPolicy(_most(points, itertools.repeat(1.0)), tuple(points))
    return _MEASURED[key]


def _speedup(group: Sequence[Candidate], m: int) -> float:
    pairs = [candidate.sides(m) for candidate in group]
    wait = torch.cuda.synchronize if group[0].up.is_cuda else None

    def side(which: int, turn: int) -> None:
        pairs[turn % len(pairs)][which]()
        if wait is not None:
            wait()

    sides = [functools.partial(side, which) for which in (0, 1)]
    dense, contextual = settle(Turns(sides), most=MAX_REPS, enough=LEAST_SECONDS, limit=SECONDS_A_POINT).times
    return dense / contextual
