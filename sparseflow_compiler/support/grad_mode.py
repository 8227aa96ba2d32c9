"""Gradients where the caller may have turned them off."""

from __future__ import annotations

import torch

from sparseflow.errors import ArgumentError


def require_gradients(subject: str) -> None:
    """Refuse to train where nothing can be differentiated: within `torch.no_grad` it can, by `enable_grad`.

    Args:
        subject: the call, for the error.

    Raises:
        ArgumentError: the caller is in `torch.inference_mode`, whose tensors gradients can't pass.
    """
    if torch.is_inference_mode_enabled():
        rule = "needs gradients, which torch.inference_mode() rules out"
        raise ArgumentError(subject, rule, "call it outside of that block; torch.no_grad() is no hindrance")
