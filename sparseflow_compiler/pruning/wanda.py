"""Wanda (Sun et al. 2023): keep the weights whose products with typical activations are largest."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.runtime.pattern import TWO_OF_FOUR, Pattern


def wanda(weight: Tensor, norms: Tensor, pattern: Pattern = TWO_OF_FOUR) -> Tensor:
    """Keep the entries of a pattern along K by the score ``|W| · ‖X_j‖₂``; ties keep the earlier.

    Args:
        weight: ``[N, K]``, finite, of any floating dtype; it is not changed.
        norms: ``[K]``, float32 or float64: the L2 norm of each input feature over the calibration rows.
        pattern: how many entries of how many are kept.

    Returns:
        A new tensor like `weight`. A shorter last block keeps as many at most.
    """
    return weight.where(pattern.mask(weight.to(norms.dtype) * norms), torch.zeros_like(weight))
