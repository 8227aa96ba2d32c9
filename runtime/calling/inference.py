"""A module that only infers, in whatever mode the caller has torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import nn

from sparseflow.errors import InferenceOnlyError


class InferenceModule(nn.Module):
    """Refuses training mode, and inputs that require gradients.

    Args:
        subject: how errors call it.
    """

    def __init__(self, subject: str) -> None:
        super().__init__()
        self._subject = subject
        self.training = False

    @property
    def device(self) -> torch.device:
        """Where its inputs must be."""
        raise NotImplementedError

    def train(self, mode: bool = True) -> Self:
        """Refuses training mode.

        Raises:
            InferenceOnlyError: `mode` is true.
        """
        if mode:
            raise InferenceOnlyError(
                self._subject,
                "a compiled model is for inference only",
                "train the original model and compile it again",
            )
        return self

    def require_no_gradients(self, leaves: Iterable[Any]) -> None:
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
