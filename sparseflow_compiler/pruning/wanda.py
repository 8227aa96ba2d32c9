"""Wanda (Sun et al. 2023): keep the weights whose products with typical activations are largest."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.runtime import portable


def wanda(weight: Tensor, norms: Tensor) -> Tensor:
    """Keep two of each four entries along K by the score ``|W| · ‖X_j‖₂``; ties keep the earlier.

    Args:
        weight: ``[N, K]``, finite, of any floating dtype; it is not changed.
        norms: ``[K]``, float32 or float64: the L2 norm of each input feature over the calibration rows.

    Returns:
        A new tensor like `weight`. A shorter last group keeps at most two too.
    """
    keep = portable.keep_mask(weight.to(norms.dtype) * norms)
    return weight.where(keep.flatten(1)[:, : weight.shape[1]], torch.zeros_like(weight))
