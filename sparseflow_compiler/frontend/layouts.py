"""Whether a model may compute something else for inputs of other strides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.overrides import TorchFunctionMode

_QUESTIONS = frozenset({"is_contiguous", "stride", "storage_offset", "dim_order"})
_MAYBE_COPIES = frozenset({"reshape", "reshape_as", "contiguous", "flatten", "ravel"})


class LayoutWatch(TorchFunctionMode):
    """Watches what a trace asks and writes: torch.export keeps no questions about strides.

    Of a strided tensor `reshape` makes a copy where it is a view of a contiguous one, so that a write to it
    reaches the input or doesn't.

    Args:
        leaves: the real inputs of the trace.
    """

    def __init__(self, leaves: Sequence[object]) -> None:
        super().__init__()
        # Not looked at while tracing: a question about symbolic strides would become a guard.
        self._strided = any(isinstance(leaf, Tensor) and not leaf.is_contiguous() for leaf in leaves)
        self._asked = self._copied = self._wrote = False

    @property
    def matter(self) -> bool:
        """Whether the trace holds for inputs of its own layout alone."""
        return self._asked or (self._strided and self._copied and self._wrote)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Take note of a call and make it."""
        name = getattr(func, "__name__", "")
        self._asked |= name in _QUESTIONS
        self._copied |= name in _MAYBE_COPIES
        self._wrote |= _writes(name, kwargs or {})
        return func(*args, **(kwargs or {}))


def _writes(name: str, kwargs: Mapping[str, object]) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith(
            "__i"
        )  # __iadd__; __invert__ and __index__ do no harm
    return name.endswith("_") or kwargs.get("out") is not None or bool(kwargs.get("inplace"))
