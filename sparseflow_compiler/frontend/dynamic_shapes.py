"""Choose which input dimensions are dynamic."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.export import Dim, ShapesCollection

from sparseflow.frontend.stated_sizes import stated
from sparseflow.runtime.calling.call_names import leaf_names
from sparseflow.runtime.calling.structure import Flat

Shapes = Mapping[str, object] | ShapesCollection | None
"""Which dimensions may vary, see `leaf_shapes`."""


def leaf_shapes(call: Flat, given: Shapes = None) -> tuple[object, ...]:
    """Return torch.export's shape specification for each tensor of a call.

    Args:
        call: the example call.
        given: None, to let every dimension vary but those that `stated` finds; or a specification for each
            tensor by the user's name (`{"input_ids": {0: Dim("batch")}, "cache.layers[0].keys": None}`), or
            a ShapesCollection. Tensors that are not in it keep their sizes.
    """
    if given is None:
        fixed = stated(call)
        return tuple(_free_dims(leaf, fixed=i in fixed) for i, leaf in enumerate(call.leaves))
    if isinstance(given, ShapesCollection):
        return tuple(given[leaf] or None for leaf in call.leaves)
    names = leaf_names(call)
    if unknown := set(given) - set(names):
        raise ValueError(
            f"dynamic_shapes names {min(unknown)!r}, but the tensors of the call are {', '.join(names)}"
        )
    return tuple(given.get(name) for name in names)


def _free_dims(leaf: object, *, fixed: bool) -> object:
    """Make dimensions dynamic: the first, and unless they are fixed the others.

    Sizes 0 and 1, for which models take other code paths, are constants, but not a batch of 1.
    """
    if not isinstance(leaf, torch.Tensor):
        return Dim.AUTO
    sizes = enumerate(leaf.shape[:1] if fixed else leaf.shape)
    return {dim: Dim.AUTO for dim, size in sizes if size > 1 or (size == 1 and dim == 0)}
