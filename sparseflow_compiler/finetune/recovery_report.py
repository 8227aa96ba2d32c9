"""The report of `sparseflow.recover`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from sparseflow.finetune.objective import Objective

Stop = Literal["time", "steps", "no gain"]

WHY: dict[Stop, str] = {
    "time": "the minutes were over",
    "steps": "all steps were done",
    "no gain": "the held-out loss had stopped falling, and the learning rate fell to zero early",
}
"""Why the training stopped."""


@dataclass(frozen=True)
class Look:
    """One measurement of the held-out loss.

    Attributes:
        minutes: since the call began, those before an interruption included.
        step: updates before it.
        loss: in the report's unit.
    """

    minutes: float
    step: int
    loss: float


@dataclass(frozen=True)
class RecoverReport:
    """The report of `sparseflow.recover`.

    Attributes:
        before: held-out loss of the model as it was given, in `unit`.
        after: of the model as it is now: of the best look, whose weights it has. At most `before`.
        unit: of losses; KL from the dense model in nats a token for a model with logits.
        looks: every measurement, the first before any update.
        tokens_written: by the dense model, those held out included.
        tokens_given: of the user's text that were taken.
        tokens_trained: the model saw in training; a token counts each time.
        held_out: rows or batches that were never trained on.
        steps: updates.
        minutes: wall time, writing included, and the time before an interruption.
        minutes_writing: of these.
        stopped: why; `WHY` has the sentences.
        masked: the parameters whose zeros were kept.
        zeros: how many weights those are.
        left_out: how many layers left out inputs.
        objective: what was minimised.
        lr: the highest learning rate.
        batch: rows a step.
        micro: rows at once.
        seed: of writing and of the order of rows.
        notes: remarks in full sentences.
    """

    before: float
    after: float
    unit: str
    looks: tuple[Look, ...]
    tokens_written: int
    tokens_given: int
    tokens_trained: int
    held_out: int
    steps: int
    minutes: float
    minutes_writing: float
    stopped: Stop
    masked: tuple[str, ...]
    zeros: int
    left_out: int
    objective: Objective
    lr: float
    batch: int
    micro: int
    seed: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        looks = [asdict(look) for look in self.looks]
        plain = {name: list(getattr(self, name)) for name in ("masked", "notes")}
        return asdict(self) | {"looks": looks} | plain

    def __str__(self) -> str:
        text = (
            f"held-out loss {self.before:.4f} → {self.after:.4f} {self.unit}; {self.steps} steps over "
            f"{self.tokens_trained:,} tokens, of {self.tokens_written:,} written and {self.tokens_given:,} "
            f"given; {self.minutes:.1f} minutes, {self.minutes_writing:.1f} of them writing; stopped because "
            f"{WHY[self.stopped]}; {self.zeros:,} zeros kept in {len(self.masked)} weights"
        )
        if self.left_out:
            text += f"; {self.left_out} layers leave out inputs near zero"
        return "\n".join((text, *self.notes))
