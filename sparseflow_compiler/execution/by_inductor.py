"""The one call of inductor's compiler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx

Inputs = Sequence[torch.Tensor | int | torch.SymInt | None]


def compile_by_inductor(
    graph: fx.GraphModule, inputs: Inputs, options: Mapping[str, object]
) -> Callable[..., object]:
    """Compile a graph by inductor; the graph may be changed.

    Args:
        graph: of aten operators and ours.
        inputs: its example inputs.
        options: of inductor, besides its own.
    """
    from torch._inductor.compile_fx import compile_fx

    compiled = compile_fx(graph, list(inputs), config_patches=dict(options))
    assert callable(compiled), "no package is asked for"
    return compiled
