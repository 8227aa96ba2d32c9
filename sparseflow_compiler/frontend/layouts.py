"""Detect models whose results may depend on the strides of inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sparseflow.frontend.sharing import storage_of

_QUESTIONS = frozenset({"is_contiguous", "stride", "storage_offset", "dim_order"})
_MAYBE_COPIES = frozenset({"reshape", "reshape_as", "contiguous", "flatten", "ravel"})


class LayoutWatch(TorchFunctionMode):
    """Watch a trace for stride queries and writes, which torch.export doesn't record.

    `reshape` views a contiguous tensor but copies a strided one, so a write to the result may or may not
    reach the input. `contiguous` returns its argument or a copy, so an output may or may not be an input.

    Args:
        leaves: the real inputs of the trace.
    """

    def __init__(self, leaves: Sequence[object]) -> None:
        super().__init__()
        # Not evaluated while tracing: a query of symbolic strides would become a guard.
        self._strided = any(isinstance(leaf, Tensor) and not leaf.is_contiguous() for leaf in leaves)
        self._asked = self._copied = self._wrote = False
        self._inputs: set[int] = set()
        self._itself: set[int] = set()
        self._returned = False

    @property
    def matter(self) -> bool:
        """Whether the trace is valid for its inputs' layouts only."""
        return self._asked or self._returned or (self._strided and self._copied and self._wrote)

    def begin(self, leaves: Sequence[object]) -> None:
        """Note the inputs of the trace, whose storages are compared."""
        self._inputs = _storages(leaves)

    def end(self, outputs: Sequence[object]) -> None:
        """Note whether an output lies in an input that `contiguous` may have copied."""
        self._returned |= bool(self._itself & _storages(outputs))

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
        if name == "contiguous" or _has_memory_format(args, kwargs or {}):
            self._itself |= _storages(args) & self._inputs
        return func(*args, **(kwargs or {}))


def _storages(values: Sequence[object]) -> set[int]:
    return {storage_of(value) for value in values if isinstance(value, Tensor)}


def _has_memory_format(args: Sequence[object], kwargs: Mapping[str, object]) -> bool:
    return any(isinstance(value, torch.memory_format) for value in (*args, *kwargs.values()))


def _writes(name: str, kwargs: Mapping[str, object]) -> bool:
    if name.startswith("__"):
        return name == "__setitem__" or name.startswith(
            "__i"
        )  # __iadd__; __invert__ and __index__ don't write
    return name.endswith("_") or kwargs.get("out") is not None or bool(kwargs.get("inplace"))
