"""A student beside its teacher, on one batch at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparseflow.finetune.objective import Objective
from sparseflow.integrations.transformers.last_states import from_last_states
from sparseflow.pruning.calibration import Call
from sparseflow.runtime.calling.inference import device_of


@dataclass
class Pair:
    """A student, its teacher, and what the one is held to.

    Attributes:
        student: learns.
        teacher: the dense model; None if the objective needs none.
        objective: None until the first batch, which settles it by what the teacher returns.
        autocast: a dtype to run both in; None: as they are.
    """

    student: nn.Module
    teacher: nn.Module | None
    objective: Objective | None
    autocast: torch.dtype | None

    def loss(self, call: Call, states: Tensor | None = None) -> Tensor:
        """Return the objective's value for one batch, a scalar in float32.

        Args:
            call: the batch.
            states: the teacher's last hidden states of it, in place of its layers; None: it runs.
        """
        args, kwargs = call
        options = self.objective.options if self.objective else {"output_hidden_states": True}
        taught = self.objective is None or self.objective.needs_teacher
        theirs = None
        with self.precision():
            if taught and self.teacher is not None:
                with torch.no_grad(), self._recalled(states):
                    theirs = self.teacher(*args, **kwargs, **options)
            if self.objective is None:
                self.objective = Objective.fitting(theirs)
            mine = self.student(*args, **kwargs, **self.objective.options)
        return self.objective(mine, theirs, kwargs)

    def _recalled(self, states: Tensor | None) -> AbstractContextManager[None]:
        assert self.teacher is not None, "asked before"
        return nullcontext() if states is None else from_last_states(self.teacher, states)

    def precision(self) -> AbstractContextManager[object]:
        """Return the context that both run in."""
        kind = device_of(self.student).type
        return torch.autocast(kind, self.autocast) if self.autocast else nullcontext()
