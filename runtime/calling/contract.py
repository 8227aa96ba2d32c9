"""Decide which calls a program serves, before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from sparseflow.runtime.calling.ambient import Ambient
from sparseflow.runtime.calling.call_names import explain_difference
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.gradients import TensorGradients
from sparseflow.runtime.calling.guards import ShapeGuards
from sparseflow.runtime.calling.signature import Signature
from sparseflow.runtime.calling.structure import Flat


@dataclass(frozen=True)
class TensorSpec:
    """Requirements on an input tensor besides its sizes."""

    dtype: torch.dtype
    rank: int
    device: torch.device
    layout: tuple[int, ...] | None = None
    """As `layout_of` has it, where the program depends on it; None for any."""
    parameter: bool = False
    """Whether it is an `nn.Parameter`, which forward may tell from other tensors."""
    gradients: TensorGradients | None = None
    """What the tensor says of its gradients, where the program depends on it; None for any."""

    @classmethod
    def of(cls, leaf: object, *, layout: bool = False, gradients: bool = False) -> TensorSpec | None:
        """Return the specification of a tensor, or None for a counter.

        Args:
            leaf: a leaf of the captured call.
            layout: whether the program is for tensors of that layout alone.
            gradients: whether it is for tensors alone that say the same of their gradients.
        """
        if not isinstance(leaf, torch.Tensor):
            return None
        of_gradients = TensorGradients.of(leaf) if gradients else None
        of_layout = layout_of(leaf) if layout else None
        parameter = type(leaf) is nn.Parameter
        return cls(leaf.dtype, leaf.ndim, leaf.device, of_layout, parameter, of_gradients)

    def violation(self, leaf: object) -> str | None:
        """Return how a leaf violates this, or None."""
        if not isinstance(leaf, torch.Tensor):
            return f"{leaf!r}, not a tensor"
        if leaf.dtype != self.dtype or leaf.ndim != self.rank or leaf.device != self.device:
            found = f"{leaf.ndim}-d {leaf.dtype} on {leaf.device}"
            return f"{found}, not {self.rank}-d {self.dtype} on {self.device}"
        if self.layout is not None and layout_of(leaf) != self.layout:
            return f"of strides {list(leaf.stride())}, and the program was captured with others"
        if (type(leaf) is nn.Parameter) != self.parameter:
            return "a tensor, not a parameter" if self.parameter else "a parameter, not a tensor"
        return None if self.gradients is None else self.gradients.violation(TensorGradients.of(leaf))


def layout_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the layout that decides whether a view of a tensor needs a copy.

    Returns:
        An empty tuple if contiguous, else for each dimension 0 where it is expanded, 1 where it can be
        merged with the one after it (the last: where its stride is 1), 2 where its stride is 1, or 3.
    """
    if tensor.is_contiguous():
        return ()
    found, merged = [], 1
    for size, stride in zip(reversed(tensor.shape), reversed(tensor.stride()), strict=True):
        found.append(0 if stride == 0 else 1 if stride == merged else 2 if stride == 1 else 3)
        merged = size * stride
    return tuple(reversed(found))


@dataclass(frozen=True)
class Contract:
    """Every call of the same structure and of shapes within its ranges.

    Attributes:
        call_signature: how the model's arguments are named.
        signature: how arguments and results map to the user's call.
        tensors: requirements on each input tensor; None for a counter.
        guards: the conditions on shapes.
        names: the user's names of the inputs, for messages.
        ambient: what the program was captured under.
    """

    call_signature: CallSignature
    signature: Signature
    tensors: tuple[TensorSpec | None, ...]
    guards: ShapeGuards
    names: tuple[str, ...] = field(repr=False)
    ambient: Ambient

    def flatten(self, args: Sequence[object], kwargs: Mapping[str, object] | None = None) -> Flat:
        """Flatten a call, for `accepts_flat` and the executable."""
        return self.call_signature.flatten(args, kwargs or {})

    def accepts(self, args: Sequence[object], kwargs: Mapping[str, object] | None = None) -> str | None:
        """Return None if the program can serve the call, else the reason why it can't."""
        return self.accepts_flat(self.flatten(args, kwargs))

    def accepts_flat(self, call: Flat) -> str | None:
        """Like `accepts`, for a flattened call."""
        if call.structure != self.signature.inputs:
            return explain_difference(call, self.signature.inputs)
        if (reason := self.ambient.violation(Ambient.now())) is not None:
            return reason
        for i, (leaf, spec) in enumerate(zip(call.leaves, self.tensors, strict=True)):
            if spec is not None and (reason := spec.violation(leaf)) is not None:
                return f"{self.names[i]} is {reason}"
        return self.guards.violation(call.leaves, self.names)
