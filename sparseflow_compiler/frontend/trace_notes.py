"""What torch notes of a trace besides the sizes of its tensors, and nothing here reads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch.fx import config
from torch.fx.experimental import proxy_tensor
from torch.fx.passes.shape_prop import _extract_tensor_metadata

_EXTRACT, _NO_STACKS = "_extract_tensor_metadata", "do_not_emit_stack_traces"
"""What proxy_tensor calls the function that it notes a tensor by; the setting of torch.fx."""


@contextmanager
def fewer_notes() -> Iterator[None]:
    """Let traces of the process leave out, in a `with` block, memory formats and stacks of calls.

    In which format a tensor is, torch finds out for every node, from symbolic sizes and strides: a twelfth of
    a trace. It stands in the node's ``tensor_meta`` alone; ``val`` has the strides. The stacks are those of
    inputs and weights; `repeated_operators` notes where in the model an operator is called.
    """
    names, settings = vars(proxy_tensor), vars(config)
    stacks = settings.get(_NO_STACKS, False)
    names[_EXTRACT] = functools.partial(_extract_tensor_metadata, include_contiguity=False)
    settings[_NO_STACKS] = True
    try:
        yield
    finally:
        names[_EXTRACT] = _extract_tensor_metadata
        settings[_NO_STACKS] = stacks
