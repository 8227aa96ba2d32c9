"""Graphs that SparseFlow can't compile: they run as torch.compile captured them, and the report says why."""

from __future__ import annotations

import warnings
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

UNABLE: tuple[type[SparseFlowError], ...] = (CaptureError, FrontendError, PassError, LoweringError)
"""What is the graph's fault. Training mode, wrong options and bad weights are the caller's, and raised."""


@dataclass(frozen=True)
class EagerGraph:
    """A graph that runs eagerly.

    Attributes:
        reason: why, on one line.
        weights: its parameters, by their names in the model.
    """

    reason: str
    weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, error: SparseFlowError, weights: Mapping[str, Tensor]) -> EagerGraph:
        """The graph that an error is about."""
        return cls(f"{error.subject}: {error.rule}", weights)

    def rows(self) -> Iterator[LayerReport]:
        """Its matrices for the report."""
        for name, weight in self.weights.items():
            if weight.dim() == 2:
                n, k = weight.shape
                layer, dtype, size = name.removesuffix(".weight"), dtype_name(weight.dtype), weight.nbytes
                reason = f"its graph runs eagerly: {self.reason}"
                yield LayerReport(layer, n, k, dtype, "dense", reason, (), size, size, 0.0)


def warn(title: str, graph: EagerGraph, prune: object) -> None:
    """Say that a model has a graph that runs eagerly."""
    unpruned = ", with its weights as they are, not pruned" if prune else ""
    warnings.warn(
        f'torch.compile(backend="sparseflow"): a graph of {title} runs eagerly{unpruned}: {graph.reason}; '
        "sparseflow.integrations.torch.report(model) lists all such graphs",
        EagerGraphWarning,
        stacklevel=2,
    )
