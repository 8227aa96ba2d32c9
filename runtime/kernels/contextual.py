"""The kernels of contextual MLPs, which run whole MLPs and appear in no policy.

docs/design/kernels-contextual.md describes them.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparseflow.runtime.kernels.base import Kernel, Problem


@dataclass(frozen=True)
class Contextual(Kernel):
    """``sparseflow::contextual_mlp`` and its parts."""

    def unsuited(self, problem: Problem) -> str | None:
        """Return why these kernels run no linear layer."""
        return "contextual kernels compute MLPs over selected neurons, not single layers"


CONTEXTUAL = Contextual(
    name="contextual",
    code=None,
    device_type="",
    dtypes=("float32", "bfloat16", "float16"),
    about="MLPs over the neurons that a predictor selects",
    formats=(),
)
