"""`torch.compile(model, backend="sparseflow")`: graph breaks allowed, each graph compiled by SparseFlow.

    compiled = torch.compile(model.eval(), backend="sparseflow", options={"skip": ("lm_head",)})
    y = compiled(x)
    print(sparseflow.integrations.torch.report(model).table())

The options are those of `sparseflow.compile` except `inplace`. The model keeps its own weights, unpruned. All
graphs of a model share one packed form of each weight, which is freed with the model or by
`torch._dynamo.reset()`. A parameter that was replaced or changed in place is packed again in the next call.
Values written through `.data` aren't detected: call `torch._dynamo.reset()` afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparseflow.support import lazy

if TYPE_CHECKING:
    from sparseflow.integrations.torch.backend import sparseflow
    from sparseflow.integrations.torch.semi_structured import from_semi_structured, to_semi_structured
    from sparseflow.integrations.torch.shared import report

__all__ = ["from_semi_structured", "report", "sparseflow", "to_semi_structured"]

__getattr__, __dir__ = lazy.names(
    globals(),
    {
        "from_semi_structured": "semi_structured",
        "report": "shared",
        "sparseflow": "backend",
        "to_semi_structured": "semi_structured",
    },
)
