"""What a student is held to: its teacher's tokens, embeddings and hidden states, and its own task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseflow.errors import ArgumentError
from sparseflow.finetune.logit_divergence import kl


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses; terms of weight 0 are not computed.

    Attributes:
        kl: KL(teacher ‖ student) of the ``logits``, in nats a token, times `temperature`².
        hidden: ‖student − teacher‖² / ‖teacher‖² of a token's hidden state, the mean over tokens and layers.
            Each token counts alike: in many models a few, such as the first, are a thousand times as long.
        cosine: 1 − cosine of mean-pooled embeddings (`pooled`) of the last hidden state.
        mse: mean squared difference of those embeddings, relative to the teacher's mean square.
        task: the student's own ``loss``: the batches must bring ``labels``.
        temperature: of both distributions in `kl`.

    Where a batch has an ``attention_mask``, padding counts in none of them.
    """

    kl: float = 0.0
    hidden: float = 0.0
    cosine: float = 0.0
    mse: float = 0.0
    task: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        weights = {name: value for name, value in asdict(self).items() if name != "temperature"}
        if min(weights.values()) < 0 or not max(weights.values()) > 0:
            raise ArgumentError(
                f"Objective({weights})", "weights must be ≥ 0, and one of them > 0", "try Objective(kl=1.0)"
            )
        if not self.temperature > 0:
            raise ArgumentError(f"Objective(temperature={self.temperature})", "must be > 0", "try 1.0")

    @classmethod
    def fitting(cls, teacher_output: object) -> Objective:
        """Return the default: KL for a model with logits, hidden states and embeddings for an encoder."""
        return cls(kl=1.0) if hasattr(teacher_output, "logits") else cls(hidden=1.0, cosine=1.0)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term but the task's counts."""
        return max(self.kl, self.hidden, self.cosine, self.mse) > 0

    @property
    def options(self) -> dict[str, bool]:
        """Keyword inputs that both models need."""
        return {"output_hidden_states": True} if self.hidden else {}

    def __call__(self, student: object, teacher: object, inputs: Mapping[str, Any]) -> Tensor:
        """Return the loss, a scalar in float32.

        Args:
            student: a model's output with what the terms read.
            teacher: of the same batch; not read where `needs_teacher` is false.
            inputs: the batch's keyword inputs.

        Raises:
            ArgumentError: an output lacks what a term reads.
        """
        mask = inputs.get("attention_mask")
        terms: list[Tensor] = []
        if self.kl:
            pair = _of_both(student, teacher, "logits", "kl")
            terms.append(self.kl * self.temperature**2 * _mean(kl(*pair, self.temperature), mask))
        if self.hidden:
            states = zip(*_of_both(student, teacher, "hidden_states", "hidden"), strict=True)
            terms.append(self.hidden * torch.stack([_relative(s, t, mask) for s, t in states]).mean())
        if self.cosine or self.mse:
            pair = _of_both(student, teacher, "last_hidden_state", "cosine and mse")
            mine, theirs = (pooled(hidden, mask) for hidden in pair)
            terms.append(self.cosine * (1 - F.cosine_similarity(mine, theirs)).mean())
            terms.append(self.mse * F.mse_loss(mine, theirs) / theirs.square().mean())
        if self.task:
            terms.append(self.task * _of(student, "loss", "task").float())
        return torch.stack(terms).sum()


def pooled(hidden: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over tokens that are no padding of ``[batch, tokens, features]``, in float32."""
    if mask is None:
        return hidden.float().mean(1)
    weight = mask.unsqueeze(-1).float()
    return (hidden.float() * weight).sum(1) / weight.sum(1).clamp(min=1)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None or mask.shape != values.shape:
        return values.mean()
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _relative(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    lost = (student.float() - teacher.float()).square().sum(-1)
    return _mean(lost / teacher.float().square().sum(-1).clamp(min=1e-12), mask)


def _of_both(student: object, teacher: object, name: str, term: str) -> tuple[Any, Any]:
    return _of(student, name, term), _of(teacher, name, term)


def _of(output: object, name: str, term: str) -> Any:
    value = getattr(output, name, None)
    if value is None:
        raise ArgumentError(
            f"sf.finetune.Objective, term {term}",
            f"reads `{name}` of the model's output, and {type(output).__name__} has none",
            "choose other terms, or pass batches that make the model give it (labels for a loss)",
        )
    return value
