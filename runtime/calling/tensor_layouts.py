"""Layouts of tensors, compared at a glance."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from torch import Tensor

try:
    # What torch.compile's own guards are made of; it has no public name.
    from torch._C._dynamo.guards import TensorGuards as _Guards
except ImportError:  # another torch: tensors are compared one by one
    _Guards: Any = None  # type: ignore[no-redef]

LAYOUT = operator.attrgetter("shape", "dtype", "device", "layout", "requires_grad")
"""What a layout is, beside strides."""
_REQUIRES_GRAD = operator.attrgetter("requires_grad")


class TensorLayouts:
    """The shapes, strides, dtypes, devices and wishes for gradients of tensors, to see changes of them.

    Args:
        tensors: each once. They are held.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = list(tensors)
        self._expected = self._now()
        self._gradients = list(map(_REQUIRES_GRAD, self._tensors))
        self._guards = None
        if _Guards is not None and self._tensors:
            # None: no size or stride may change.
            self._guards = _Guards(*self._tensors, dynamic_dims_sizes=None, dynamic_dims_strides=None)

    def are_as_they_were(self) -> bool:
        """Return whether no tensor was given another layout, such as by ``t_()``, or through ``.data``."""
        # Guards depend on modes of the thread, and ask for gradients only where they are on.
        if (
            self._guards is not None
            and self._guards.check(*self._tensors)
            and list(map(_REQUIRES_GRAD, self._tensors)) == self._gradients
        ):
            return True
        return self._now() == self._expected

    def _now(self) -> list[object]:
        return [*map(LAYOUT, self._tensors), *map(Tensor.stride, self._tensors)]
