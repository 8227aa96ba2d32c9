"""Fit low-rank scorers of neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

RIDGE = 1e-2
"""Of the least squares that training starts from, as a share of the mean variance of the inputs."""

STEEPNESS = 6.0
"""Logits that training starts from, for each unit of a least-squares estimate of a 0/1 label."""

_TINY = 1e-12


@dataclass(frozen=True)
class Fit:
    """Options of training a scorer.

    Attributes:
        rank: r.
        rate: the share of labels that are 1; the classes weigh as if there were as many of each.
        steps: Adam's.
        batch: rows a step.
        learning_rate: Adam's at the start; it falls to 0 as a cosine.
    """

    rank: int
    rate: float
    steps: int
    batch: int = 256
    learning_rate: float = 2e-3


def fit(x: Tensor, labels: Tensor, how: Fit, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Fit scores ``(x · aᵀ) · bᵀ + bias`` that are positive where labels are 1.

    Args:
        x: ``[rows, H]`` float32.
        labels: ``[rows, I]`` bool.
        how: rank, rate and steps.
        generator: of the order of rows, on the CPU.

    Returns:
        a ``[r, H]``, b ``[I, r]`` and bias ``[I]``, float32.
    """
    scale = x.square().mean().sqrt().clamp(min=_TINY)
    x = x / scale
    a, b, bias = _least_squares(x, labels, how)
    with torch.enable_grad():
        a, b, bias = _descend(x, labels, (a, b, bias), how, generator)
    return a / scale, b, bias


def _least_squares(x: Tensor, labels: Tensor, how: Fit) -> tuple[Tensor, Tensor, Tensor]:
    """Return the best rank-r linear estimate of the labels, as logits."""
    mean, share = x.mean(0), labels.float().mean(0)
    centred = x - mean
    gram = centred.t() @ centred / len(x)
    gram.diagonal().add_(RIDGE * gram.diagonal().mean() + _TINY)
    root = torch.linalg.cholesky(gram)
    moment = centred.t() @ (labels.float() - share) / len(x)
    whitened = torch.linalg.solve_triangular(root, moment, upper=False)  # [H, I]
    directions = torch.linalg.eigh(whitened @ whitened.t()).eigenvectors[:, -how.rank :]  # ascending
    a = torch.linalg.solve_triangular(root.t(), directions, upper=True).t().contiguous()
    b = STEEPNESS * (whitened.t() @ directions)
    return a, b, STEEPNESS * (share - how.rate) - b @ (a @ mean)


def _descend(
    x: Tensor, labels: Tensor, start: tuple[Tensor, ...], how: Fit, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Run Adam on the class-weighted binary cross-entropy."""
    a, b, bias = (tensor.clone().requires_grad_() for tensor in start)
    adam = torch.optim.Adam([a, b, bias], lr=how.learning_rate)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, max(1, how.steps))
    weight = torch.tensor((1 - how.rate) / how.rate, device=x.device)
    for _ in range(how.steps):
        rows = torch.randint(len(x), (min(how.batch, len(x)),), generator=generator).to(x.device)
        scores = F.linear(x[rows] @ a.t(), b, bias)
        loss = F.binary_cross_entropy_with_logits(scores, labels[rows].float(), pos_weight=weight)
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's annotations are incomplete
        adam.step()
        decay.step()
    return a.detach(), b.detach(), bias.detach()
