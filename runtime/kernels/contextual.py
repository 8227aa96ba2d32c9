"""The kernels of contextual MLPs: no policy names them, they take whole MLPs (docs/contextual.md)."""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel, Problem


@dataclass(frozen=True)
class Contextual(Kernel):
    """``sparseflow::contextual_mlp`` and its parts."""

    def unsuited(self, problem: Problem) -> str | None:
        """Return why a linear layer doesn't run so."""
        return "contextual kernels compute MLPs over selected neurons, not single layers"


CONTEXTUAL = Contextual(
    name="contextual",
    code=None,
    device_type="",
    dtypes=("float32", "bfloat16", "float16"),
    about="MLPs over the neurons that a predictor selects",
    formats=(),
)
