"""`torch.compile(model, backend="sparseflow")`: graph breaks allowed, each graph compiled by SparseFlow.

    compiled = torch.compile(model.eval(), backend="sparseflow", options={"skip": ("lm_head",)})
    y = compiled(x)
    print(sparseflow.dynamo.report(model).table())

The options are those of `sparseflow.compile`, but `inplace`. The model keeps its own weights, unpruned. All
graphs of a model share one packed form of each weight, which is freed with the model or by
`torch._dynamo.reset()`. A parameter that was replaced or changed in place is packed anew by the next call;
values written through `.data` go unseen: call `torch._dynamo.reset()` after that.
"""

from __future__ import annotations

from sparseflow.dynamo.backend import sparseflow
from sparseflow.dynamo.shared import report

__all__ = ["report", "sparseflow"]
