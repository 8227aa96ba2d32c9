"""Compare a selection of neurons with the best selection of the same size."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseflow.contextual.model_mlps import ModelMlp
from sparseflow.contextual.predictors import Figures
from sparseflow.contextual.selection import top, union_rates

ROWS_TOGETHER = (1, 2, 4, 8, 16, 32)
"""The numbers of rows whose union of neurons is looked at."""


def selected(neurons: Tensor, count: Tensor) -> Tensor:
    """Convert lists for each row, neurons ``[rows, I]`` and count ``[rows]``, to a mask ``[rows, I]``."""
    listed = torch.arange(neurons.shape[1], device=neurons.device) < count[:, None]
    # Entries after the listed ones are undefined.
    at = torch.where(listed, neurons, 0).long()
    return torch.zeros_like(at).scatter_add_(1, at, listed.long()).bool()


def judge(mlp: ModelMlp, x: Tensor, mask: Tensor, rate: float, generator: torch.Generator) -> Figures:
    """Compare the neurons selected for some rows with those that matter.

    Args:
        mlp: the MLP.
        x: its inputs ``[rows, H]``.
        mask: what is selected, ``[rows, I]``.
        rate: the target share of neurons.
        generator: for the unions of rows.
    """
    hidden = mlp.hidden(x)
    contributions = mlp.contributions(hidden)
    wanted = top(contributions, rate)
    # Each row's best neurons, as many as are selected in all: a perfect predictor.
    oracle = top(contributions, float(mask.float().mean()))
    whole = hidden @ mlp.down.float().t()
    total = contributions.sum().clamp(min=1e-30)

    def error(kept: Tensor) -> float:
        lost = (hidden * ~kept) @ mlp.down.float().t()
        norms = torch.linalg.vector_norm(whole, dim=1).clamp(min=1e-30)
        return float((torch.linalg.vector_norm(lost, dim=1) / norms).mean())

    def covered(kept: Tensor) -> float:
        return float((contributions * kept).sum() / total)

    hits = float((mask & wanted).sum())
    return Figures(
        active=float(mask.float().mean()),
        precision=hits / max(1.0, float(mask.sum())),
        recall=hits / max(1.0, float(wanted.sum())),
        coverage=covered(mask),
        output_error=error(mask),
        oracle_coverage=covered(oracle),
        oracle_error=error(oracle),
        union=union_rates(mask, ROWS_TOGETHER, generator),
        rows=len(x),
    )
