"""The base of modules that only do inference, whatever grad mode the caller is in."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from sparseflow.errors import InferenceOnlyError
from sparseflow.runtime.calling.frozen import FrozenModule


class InferenceModule(FrozenModule):
    """A module that refuses training mode and inputs that require gradients."""

    @property
    def device(self) -> torch.device:
        """The device that its inputs must be on."""
        raise NotImplementedError

    @property
    def original(self) -> nn.Module | None:
        """The eager model behind it, if it computes the same.

        Raises:
            CaptureError: there is one, but it computes something else.
        """
        return None

    def runs(self, model: nn.Module) -> bool:
        """Return whether this is a compiled form of that model."""
        return False

    @property
    def replaced_forward(self) -> object:
        """The `forward` that the eager model had as an attribute of its own, if any."""
        return None

    def require_no_gradients(self, leaves: Iterable[object]) -> None:
        """Refuse inputs that record gradients.

        Raises:
            InferenceOnlyError: one does.
        """
        tensors = (leaf for leaf in leaves if isinstance(leaf, torch.Tensor))  # others are counters
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            raise InferenceOnlyError(
                self._subject,
                "an input requires gradients, and a compiled model is for inference only",
                "detach it, or call under torch.no_grad()",
            )


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a model's tensors; the CPU if it has none."""
    if isinstance(model, InferenceModule):  # has no parameters
        return model.device
    tensors = (tensor for group in (model.parameters(), model.buffers()) for tensor in group)
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
