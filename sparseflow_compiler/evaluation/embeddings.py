"""Evaluate encoders: how similar embeddings and their nearest neighbours are."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, EvaluationError
from sparseflow.finetune.objective import pooled
from sparseflow.pruning.calibration import as_call, moved, padding_mask, require_batches
from sparseflow.runtime.calling.inference import device_of


@dataclass(frozen=True)
class EmbeddingScores:
    """A comparison of two models' embeddings of the same texts.

    Attributes:
        cosine: the mean cosine of each text's two embeddings.
        cosine_min: the smallest cosine.
        overlap: the mean share of a text's `k` nearest other texts (by cosine, among all texts) on which both
            models agree.
        k: the number of neighbours.
        texts: the number of texts.
    """

    cosine: float
    cosine_min: float
    overlap: float
    k: int
    texts: int

    def to_dict(self) -> dict[str, object]:
        """Return the figures, ready for JSON."""
        return asdict(self)


@torch.no_grad()
def embed(model: nn.Module, batches: Iterable[object]) -> Tensor:
    """Compute mean-pooled, normalised embeddings ``[texts, features]`` float32, on the CPU.

    Args:
        model: returns ``last_hidden_state``; in evaluation mode.
        batches: tensors, tuples or mappings of inputs; tokens that ``attention_mask`` masks don't count.

    Raises:
        ArgumentError: a batch is something else, there is none, or the model is in training mode.
        EvaluationError: the model returns no hidden state, or one that is not finite.
    """
    if model.training:
        raise ArgumentError(type(model).__name__, "is in training mode: dropout would score", "model.eval()")
    require_batches("embed(batches)", batches)
    device = device_of(model)
    parts = []
    for index, batch in enumerate(batches):
        args, kwargs = moved(as_call(f"batch {index}", batch), device)
        hidden = getattr(model(*args, **kwargs), "last_hidden_state", None)
        if not isinstance(hidden, Tensor):
            raise EvaluationError(type(model).__name__, "gives no last_hidden_state", "evaluate an encoder")
        if not hidden.isfinite().all():
            raise EvaluationError(f"batch {index}", "its embeddings hold NaN or Inf", "repair the model")
        parts.append(F.normalize(pooled(hidden, padding_mask(kwargs)), dim=1).cpu())
    if not parts:
        raise ArgumentError("embed(batches)", "holds no batch", "pass some texts")
    return torch.cat(parts)


def compare_embeddings(found: Tensor, dense: Tensor, k: int = 10) -> EmbeddingScores:
    """Compare two models' embeddings ``[texts, features]`` of the same texts.

    Raises:
        ArgumentError: shapes differ, or there are not more than `k` texts.
    """
    if found.shape != dense.shape or found.dim() != 2 or len(found) <= k:
        raise ArgumentError(
            "compare_embeddings",
            f"needs two [texts, features] of one shape with more than {k} texts, not "
            f"{list(found.shape)} and {list(dense.shape)}",
            "embed the same texts with both models, more of them, or pass a smaller k",
        )
    cosine = F.cosine_similarity(found.float(), dense.float())
    mine, theirs = (_neighbours(embeddings, k) for embeddings in (found, dense))
    shared = (mine.unsqueeze(2) == theirs.unsqueeze(1)).sum() / mine.numel()
    return EmbeddingScores(float(cosine.mean()), float(cosine.min()), float(shared), k, len(found))


def _neighbours(embeddings: Tensor, k: int) -> Tensor:
    unit = F.normalize(embeddings.float(), dim=1)
    similarity = unit @ unit.t()
    return similarity.fill_diagonal_(-2).topk(k, dim=1).indices
