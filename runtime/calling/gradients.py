"""Whether gradients are recorded, and what a tensor says of its own: a model may branch on both."""

from __future__ import annotations

import enum
from typing import NamedTuple

import torch


class GradientMode(enum.Enum):
    """What operators do besides computing."""

    ON = "on"
    OFF = "off"
    INFERENCE = "off, in inference mode"

    @classmethod
    def now(cls) -> GradientMode:
        """Return that of this thread."""
        if torch.is_inference_mode_enabled():
            return cls.INFERENCE
        return cls.ON if torch.is_grad_enabled() else cls.OFF


class TensorGradients(NamedTuple):
    """What a tensor says of its gradients.

    Attributes:
        requires_grad: as ``tensor.requires_grad`` has it.
        is_leaf: as ``tensor.is_leaf`` has it.
        has_gradient: whether ``tensor.grad`` is a tensor.
        is_inference: as ``tensor.is_inference()`` has it.
    """

    requires_grad: bool
    is_leaf: bool
    has_gradient: bool
    is_inference: bool

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorGradients:
        """Return what a tensor says."""
        leaf = tensor.is_leaf  # the gradient of others is None, and torch warns of reading it
        return cls(tensor.requires_grad, leaf, leaf and tensor.grad is not None, tensor.is_inference())

    def violation(self, other: TensorGradients) -> str | None:
        """Return how another tensor differs in this from the one that was captured, or None."""
        for name, ours, theirs in zip(self._fields, self, other, strict=True):
            if ours != theirs:
                return f"a tensor for which {name} is {theirs}, not {ours}"
        return None
