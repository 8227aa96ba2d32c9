"""What torch notes of a traced tensor besides its sizes, and nothing here reads."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch.fx.experimental import proxy_tensor
from torch.fx.passes.shape_prop import _extract_tensor_metadata

_EXTRACT = "_extract_tensor_metadata"
"""What proxy_tensor calls the function that it notes a tensor by."""


@contextmanager
def without_memory_formats() -> Iterator[None]:
    """Let traces of the process leave out, in a `with` block, which memory format a tensor is in.

    torch finds it out for every node, from symbolic sizes and strides: a twelfth of a trace. It stands in the
    node's ``tensor_meta`` alone; ``val`` has the strides.
    """
    names = vars(proxy_tensor)
    names[_EXTRACT] = functools.partial(_extract_tensor_metadata, include_contiguity=False)
    try:
        yield
    finally:
        names[_EXTRACT] = _extract_tensor_metadata
