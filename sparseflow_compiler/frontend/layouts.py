"""Detect models whose results may depend on the strides of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor
from torch.overrides import TorchFunctionMode

_QUESTIONS = frozenset({"is_contiguous", "stride", "storage_offset", "dim_order"})
_MAYBE_COPIES = frozenset({"reshape", "reshape_as", "contiguous", "flatten", "ravel"})


class LayoutWatch(TorchFunctionMode):
    """Watch a trace for stride queries and writes, which torch.export doesn't record.

    `reshape` views a contiguous tensor but copies a strided one, so a write to the result may or may not
    reach the input.

    Args:
        leaves: the real inputs of the trace.
    """

    def __init__(self, leaves: Sequence[object]) -> None:
        super().__init__()
        # Not evaluated while tracing: a query of symbolic strides would become a guard.
        self._strided = any(isinstance(leaf, Tensor) and not leaf.is_contiguous() for leaf in leaves)
        self._asked = self._copied = self._wrote = False

    @property
    def matter(self) -> bool:
        """Whether the trace is valid for its inputs' layouts only."""
        return self._asked or (self._strided and self._copied and self._wrote)

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Sequence[type],
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Record a call and make it."""
        name = getattr(func, "__name__", "")
        self._asked |= name in _QUESTIONS
        self._copied |= name in _MAYBE_COPIES
        self._wrote |= _writes(name, kwargs or {})
        return func(*args, **(kwargs or {}))


def _writes(name: str, kwargs: Mapping[str, object]) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith(
            "__i"
        )  # __iadd__; __invert__ and __index__ don't write
    return name.endswith("_") or kwargs.get("out") is not None or bool(kwargs.get("inplace"))
