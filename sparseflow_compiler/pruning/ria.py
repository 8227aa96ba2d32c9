"""RIA (Zhang et al. 2024): weights relative to their row and column, times typical activations."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.runtime.pattern import TWO_OF_FOUR, Pattern


def ria(weight: Tensor, norms: Tensor, pattern: Pattern = TWO_OF_FOUR) -> Tensor:
    """Keep the entries of a pattern along K by `ria_scores`; ties keep the earlier.

    Args:
        weight: ``[N, K]``, finite, of any floating dtype; it is not changed.
        norms: ``[K]``, float32 or float64: the L2 norm of each input feature over the calibration rows.
        pattern: how many entries of how many are kept.

    Returns:
        A new tensor like `weight`. A shorter last block keeps as many at most.
    """
    return weight.where(pattern.mask(ria_scores(weight, norms)), torch.zeros_like(weight))


def ria_scores(weight: Tensor, norms: Tensor) -> Tensor:
    """Return ``(|W_ij| / Σ_i |W_ij| + |W_ij| / Σ_j |W_ij|) · ‖X_j‖^½``, ``[N, K]``, in `norms`' dtype."""
    magnitude = weight.to(norms.dtype).abs()
    # Rows and columns of zeros score zero.
    tiny = torch.finfo(norms.dtype).tiny
    columns, rows = (magnitude.sum(dim, keepdim=True).clamp(min=tiny) for dim in (0, 1))
    return (magnitude / columns + magnitude / rows) * norms.sqrt()
