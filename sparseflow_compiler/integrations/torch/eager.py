"""Graphs that SparseFlow can't compile: torch runs them as captured, and the report says why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from sparseflow.errors import (
    CaptureError,
    EagerGraphWarning,
    FrontendError,
    LoweringError,
    PassError,
    SparseFlowError,
)
from sparseflow.reports.report import LayerReport
from sparseflow.runtime.checks import dtype_name
from sparseflow.support.user_warnings import warn

GRAPH_ERRORS: tuple[type[SparseFlowError], ...] = (CaptureError, FrontendError, PassError, LoweringError)
"""Errors after which a graph runs eagerly; others, such as training mode or wrong options, are raised."""


@dataclass(frozen=True)
class EagerGraph:
    """A graph that runs eagerly.

    Attributes:
        reason: why it can't be compiled, on one line.
        weights: its parameters, by their names in the model.
    """

    reason: str
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, error: SparseFlowError, weights: Mapping[str, Tensor]) -> EagerGraph:
        """Describe the graph that an error refers to."""
        return cls(f"{error.subject}: {error.rule}", weights)

    def rows(self) -> Iterator[LayerReport]:
        """Yield a row of the report for each of its matrices."""
        for name, weight in self.weights.items():
            if weight.dim() == 2:
                n, k = weight.shape
                layer, dtype, size = name.removesuffix(".weight"), dtype_name(weight.dtype), weight.nbytes
                reason = f"its graph runs eagerly: {self.reason}"
                yield LayerReport(layer, n, k, dtype, "dense", reason, (), size, size, 0.0)


def warn_eager(title: str, graph: EagerGraph, prune: object) -> None:
    """Warn that a graph of a model runs eagerly."""
    unpruned = " with its weights unpruned" if prune else ""
    warn(
        f'torch.compile(backend="sparseflow"): a graph of {title} runs eagerly{unpruned}: {graph.reason}; '
        "sparseflow.integrations.torch.report(model) lists all such graphs",
        EagerGraphWarning,
    )
