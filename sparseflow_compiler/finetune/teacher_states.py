"""What the teacher made of each row, kept: over text that is read again only its head runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.finetune.objective import Objective
from sparseflow.finetune.recovery_text import Data, Rows
from sparseflow.integrations.transformers.last_states import (
    last_states,
    same_logits,
    why_no_last_states,
)

SHARE = 4
"""One part in so many of the free memory may be filled."""


@dataclass
class TeacherStates:
    """The teacher's last hidden states of rows that all have one length.

    Attributes:
        teacher: a language model of transformers, which doesn't change.
        kept: ``[rows, length, width]``, on the teacher's device.
        known: which rows are there.
    """

    teacher: nn.Module
    kept: Tensor
    known: set[int]

    @classmethod
    def of(
        cls, teacher: nn.Module, data: Data, objective: Objective | None, free: int
    ) -> TeacherStates | str:
        """Return a memory for all rows that are trained on, or why there is none, empty if none is expected.

        Call it as the teacher runs in training, within autocast.

        Args:
            teacher: the dense model.
            data: the rows.
            objective: None as long as nothing settled it.
            free: bytes of the device.
        """
        if objective is None or not objective.kl or objective.hidden or objective.cosine or objective.mse:
            return ""
        if not isinstance(data, Rows) or not data.whole or why_no_last_states(teacher):
            return ""
        ids = data.rows[0][None].to(next(teacher.parameters()).device)
        if not same_logits(teacher, ids):
            return f"the logits of {type(teacher).__name__} aren't made of its last hidden states alone"
        with torch.no_grad():
            like = last_states(teacher, ids)
        needed = len(data) * like.nbytes
        if needed > free // SHARE:
            return f"they would fill {needed / 1e9:.1f} GB, more than 1/{SHARE} of the free memory"
        return cls(teacher, like.new_empty(len(data), *like.shape[1:]), set())

    @torch.no_grad()
    def read(self, places: Sequence[int], ids: Tensor) -> Tensor:
        """Return the states of rows ``[rows, length, width]``; those of new ones are computed and kept.

        Args:
            places: of the rows.
            ids: of their tokens, ``[rows, length]``, on the device.
        """
        at = torch.tensor(places).to(self.kept.device, non_blocking=True)
        if self.known.issuperset(places):
            return self.kept[at]
        states = last_states(self.teacher, ids)
        self.kept[at] = states
        self.known.update(places)
        return states
