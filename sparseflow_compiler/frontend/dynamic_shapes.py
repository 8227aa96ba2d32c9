"""Which dimensions of the inputs may vary."""

from __future__ import annotations

from typing import Any

import torch
from torch.export import Dim, ShapesCollection

from sparseflow.frontend.names import leaf_names
from sparseflow.frontend.structure import Flat


def leaf_shapes(call: Flat, given: Any = None) -> tuple[Any, ...]:
    """Return torch.export's shape specification for each tensor of a call.

    Args:
        call: the example call.
        given: None, to let every dimension vary; or a specification for each tensor by the user's name
            (`{"input_ids": {0: Dim("batch")}, "cache.layers[0].keys": None}`), or a ShapesCollection.
            Tensors that are not in it keep their sizes.
    """
    if given is None:
        return tuple(dict.fromkeys(range(leaf.ndim), Dim.AUTO) for leaf in call.leaves)
    if isinstance(given, ShapesCollection):
        return tuple(given[leaf] or None for leaf in call.leaves)
    names = leaf_names(call)
    if unknown := set(given) - set(names):
        raise ValueError(
            f"dynamic_shapes names {min(unknown)!r}, but the tensors of the call are {', '.join(names)}"
        )
    return tuple(given.get(name) for name in names)


def is_dynamic(leaf: torch.Tensor) -> bool:
    """Whether a traced tensor has a size that depends on the call."""
    return any(not isinstance(size, int) for size in leaf.shape)
