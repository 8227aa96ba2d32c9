"""Masked distillation within a time, which can be interrupted."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from sparseflow.errors import FinetuneError
from sparseflow.finetune.distill import warmup_cosine
from sparseflow.finetune.left_out import LeftOut
from sparseflow.finetune.masks import Masks
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.optimizers import set_rate, why_not_capturable
from sparseflow.finetune.recovery_checkpoint import RecoveryFile
from sparseflow.finetune.recovery_report import Look, Stop
from sparseflow.finetune.recovery_text import Data, Rows
from sparseflow.finetune.student import Pair
from sparseflow.finetune.teacher_states import TeacherStates
from sparseflow.pruning.calibration import Call, moved
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.recorded_step import RecordedStep
from sparseflow.support.progress import Step

LOOKS = 12
"""How often the held-out loss is measured, before the training and after it included."""
LOOKING = 0.05
"""The share of the time that looks may take; on slow machines there are fewer of them."""
PATIENCE = 3
"""Looks in a row without a new best after which the learning rate falls to zero at once."""
SETTLING = 0.25
"""How long that takes, of the training before it. What a high rate shakes settles while it falls."""
SAVE_EVERY = 120.0
"""Seconds between two checkpoints."""
CHECK_EVERY = 4
"""Steps between two waits for the device."""
USUAL_LOSS, LEAST, MOST = 0.3, 1 / 3, 4.0
"""The learning rate is a usual one at so many nats of held-out loss, and grows with them within these limits.
SmolLM2 in 2:4 begins at 1.15 and gains by four times the rate, in 6:8 at 0.18 by two thirds of it."""


class Clock:
    """The time of a call, and of the interrupted ones that it continues.

    Args:
        minutes: allowed.
    """

    def __init__(self, minutes: float) -> None:
        self.allowed = 60 * minutes
        self._start = time.monotonic()

    @property
    def spent(self) -> float:
        """Seconds since the begin."""
        return time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds that are left; negative when they are over."""
        return self.allowed - self.spent

    def go_on(self, spent: float) -> None:
        """Count seconds that were spent before an interruption."""
        self._start = time.monotonic() - spent


@dataclass
class Progress:
    """How far a training is; all of it is saved.

    Attributes:
        strikes: looks since the best one.
        settling: the shares of the training at which it begins to settle and ends; None until it does.
    """

    step: int = 0
    tokens: int = 0
    looks: list[Look] = field(default_factory=list)
    best: float = math.inf
    strikes: int = 0
    settling: tuple[float, float] | None = None
    writing: float = 0.0
    stopped: Stop | None = None


@dataclass
class Recovery:
    """One training of a masked student.

    Attributes:
        pair: student and teacher.
        masks: of the student.
        left_out: inputs that it leaves out.
        data: what it is trained on.
        optimizer: of the student's parameters; its groups' learning rates are the highest ones.
        clock: the time.
        batch: rows a step.
        micro: rows at once; divides `batch`.
        steps: the most; None: as many as the time allows.
        seed: of the order.
        file: to save to, or None.
        unrecorded: why steps are not to be recorded as a CUDA graph; empty if they are.
        states: the teacher's of each row, or why it runs over every batch.
        rate_by_loss: multiply learning rates by what the held-out loss before the training asks for.
        at: how far it is.
        best_state: the parameters of the best look, on the CPU.
    """

    pair: Pair
    masks: Masks
    left_out: LeftOut
    data: Data
    optimizer: torch.optim.Optimizer
    clock: Clock
    batch: int
    micro: int
    steps: int | None
    seed: int
    file: RecoveryFile | None
    unrecorded: str = ""
    states: TeacherStates | str = ""
    rate_by_loss: bool = False
    at: Progress = field(default_factory=Progress)
    best_state: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self._saved = time.monotonic()
        self._step_seconds = self._look_seconds = self._save_seconds = 0.0
        self._turn, self._rows = -1, list[int]()
        unrecorded = self.unrecorded or why_not_capturable(self.optimizer)
        self.recorded = RecordedStep(self._update, device_of(self.student), unrecorded)

    @property
    def student(self) -> nn.Module:
        """The model that is trained."""
        return self.pair.student

    def train(self, bar: Step) -> None:
        """Train until the time or the steps are over or nothing is gained, then take the best weights."""
        if not self.at.looks:
            self._look()
        if self.rate_by_loss:
            factor = min(max(self.at.looks[0].loss / USUAL_LOSS, LEAST), MOST)
            self.lrs = [lr * factor for lr in self.lrs]
        while self.at.stopped is None:
            share = self._share()
            if stop := self._due(share):
                self.at.stopped = stop
            else:
                self._advance(share, bar)
        if self.at.looks[-1].step != self.at.step:
            self._look()
        self._take_best()
        self._save()

    def _advance(self, share: float, bar: Step) -> None:
        """Do some steps; look and save where it is time."""
        begun, first = time.monotonic(), self.at.step
        losses = []
        for _ in range(CHECK_EVERY if first else 1):
            if self.at.step == self.steps or (share := self._share()) >= 1:
                break
            losses.append(self._step(self._factor(share)))
            self.at.step += 1
        self._require_finite(losses)
        self._step_seconds = (time.monotonic() - begun) / max(1, self.at.step - first)
        if share * (LOOKS - 1) >= len(self.at.looks) and self._looks_are_cheap():
            self._look()
            if self.at.strikes >= PATIENCE and self.at.settling is None:
                self.at.settling = share, share * (1 + SETTLING)
        if self.file is not None and time.monotonic() - self._saved > SAVE_EVERY:
            self._save()
        left = max(0.0, self._left(share))
        bar(int(100 * share), 100, f"loss {self.at.looks[-1].loss:.4f}, {left / 60:.1f} min left")

    def _share(self) -> float:
        """Return how much of the training is done: of the steps, else of the time that steps may take.

        The time ends a training of so many steps too, but doesn't shape its schedule: it repeats.
        """
        end = self.clock.allowed - self._look_seconds - self._save_seconds - self._step_seconds
        begun = self.at.looks[0].minutes * 60
        by_time = (self.clock.spent - begun) / max(end - begun, 1e-3)
        if self.steps is None or by_time >= 1:
            return min(1.0, max(by_time, 0.0))
        return self.at.step / self.steps

    def _factor(self, share: float) -> float:
        """Return what the highest learning rate is multiplied by."""
        if self.at.settling is None:
            return warmup_cosine(share)
        begin, end = self.at.settling
        settled = min(1.0, (share - begin) / (end - begin))
        return min(warmup_cosine(share), warmup_cosine(begin) * (1 + math.cos(math.pi * settled)) / 2)

    def _looks_are_cheap(self) -> bool:
        """Return whether a look now keeps looks within `LOOKING` of the time; always where steps count."""
        since = self.clock.spent - 60 * self.at.looks[-1].minutes
        return self.steps is not None or since * LOOKING >= self._look_seconds

    def _left(self, share: float) -> float:
        """Return an estimate of the seconds that are left."""
        begun = self.at.looks[0].minutes * 60
        end = min(1.0, self.at.settling[1]) if self.at.settling else 1.0
        return (self.clock.spent - begun) * (end - share) / share if share else self.clock.left

    def _due(self, share: float) -> Stop | None:
        if self.at.step == self.steps:
            return "steps"
        if self.at.settling and share >= self.at.settling[1]:
            return "no gain"
        return "time" if share >= 1 else None

    def _step(self, factor: float) -> Tensor:
        """Update the student by one batch and return the loss before."""
        for group, lr in zip(self.optimizer.param_groups, self.lrs, strict=True):
            set_rate(group, lr * factor)
        device, parts = device_of(self.student), _parts(self._places(), self.batch // self.micro)
        calls = [self.data.training(places) for places in parts]
        self.at.tokens += sum(map(_tokens, calls))
        calls = [moved(call, device) for call in calls]
        return self.recorded(*zip(calls, self._taught(parts, calls), strict=True))

    def _taught(self, parts: Sequence[Sequence[int]], calls: Sequence[Call]) -> list[Tensor | None]:
        """Return the teacher's states of each part of a batch; None where it runs in the step."""
        if isinstance(self.states, str):
            return [None] * len(calls)
        ids = [cast(Tensor, kwargs["input_ids"]) for _, kwargs in calls]
        with self.pair.precision():
            return [self.states.read(*part) for part in zip(parts, ids, strict=True)]

    def _update(self, *parts: tuple[Call, Tensor | None]) -> Tensor:
        """Update the student by the parts of a batch, with the teacher's states; return the loss before."""
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=device_of(self.student))
        for call, states in parts:
            loss = self.pair.loss(call, states) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        nn.utils.clip_grad_norm_([p for p in self.student.parameters() if p.grad is not None], 1.0)
        self.optimizer.step()
        self.left_out.follow()
        return total

    def _places(self) -> list[int]:
        """Return which rows the step reads: all rows once, then all again in another order."""
        count, found = len(self.data), []
        for place in range(self.at.step * self.batch, (self.at.step + 1) * self.batch):
            found.append(self._order(place // count)[place % count])
        return found

    def _order(self, turn: int) -> list[int]:
        """Return the order of the rows when all are read for the nth time; it depends on nothing before."""
        if turn != self._turn:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + turn)
            self._turn, self._rows = turn, torch.randperm(len(self.data), generator=generator).tolist()
        return self._rows

    @torch.no_grad()
    def _look(self) -> None:
        """Measure the held-out loss, and keep the weights if it is the lowest."""
        begun = time.monotonic()
        device = device_of(self.student)
        measured = Pair(self.student, self.pair.teacher, measure(self.pair.objective), self.pair.autocast)
        calls = self.data.held_out(self.micro)
        total = sum(float(measured.loss(moved(call, device))) * _rows(call) for call in calls)
        loss = total / sum(map(_rows, calls))
        self.pair.objective = self.pair.objective or measured.objective
        self._require_finite([torch.tensor(loss)])
        self.at.looks.append(Look(self.clock.spent / 60, self.at.step, loss))
        self.at.strikes += 1
        if loss < self.at.best:
            self.at.best, self.at.strikes = loss, 0
            self.best_state = self._state(copies=True)
        self._look_seconds = time.monotonic() - begun

    def _require_finite(self, losses: Sequence[Tensor]) -> None:
        values = torch.stack(list(losses)).tolist() if losses else []
        if all(map(math.isfinite, values)):
            return
        if self.best_state:
            self._take_best()
        raise FinetuneError(
            f"sf.recover, step {self.at.step}",
            "the loss is not finite; the model has the weights of the best look again",
            "lower lr",
        )

    def _state(self, *, copies: bool) -> dict[str, Tensor]:
        named = self.student.named_parameters()
        return {n: p.detach().to("cpu", copy=copies) for n, p in named if p.requires_grad}

    def _take_best(self) -> None:
        _load(self.student, self.best_state)
        self.masks.apply()

    def _save(self) -> None:
        """Write the checkpoint, if one was asked for."""
        if self.file is None:
            return
        begun = time.monotonic()
        progress = vars(self.at) | {"looks": [vars(look) for look in self.at.looks]}
        self.file.write(
            {
                "progress": progress,
                "seconds": self.clock.spent,
                "data": self.data.state(),
                "objective": None if self.pair.objective is None else vars(self.pair.objective),
                "model": self._state(copies=False),
                "best": self.best_state,
                "optimizer": self.optimizer.state_dict(),
                "limits": self.left_out.limits.cpu(),
                "rng": torch.get_rng_state(),
            }
        )
        self._saved = time.monotonic()
        self._save_seconds = self._saved - begun

    def save_text(self) -> None:
        """Save what was written, before the first step."""
        self._save()

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint."""
        progress = dict(cast(dict[str, object], state["progress"]))
        looks = [Look(**look) for look in cast(list[dict[str, float]], progress.pop("looks"))]  # type: ignore[arg-type]
        self.at = Progress(looks=looks, **progress)  # type: ignore[arg-type]
        self.clock.go_on(cast(float, state["seconds"]))
        if state["objective"] is not None:
            self.pair.objective = Objective(**cast(dict[str, float], state["objective"]))
        _load(self.student, cast(dict[str, Tensor], state["model"]))
        self.best_state = cast(dict[str, Tensor], state["best"])
        self._load_optimizer(cast(dict[str, object], state["optimizer"]))
        self.left_out.go_on(cast(Tensor, state["limits"]))
        torch.set_rng_state(cast(Tensor, state["rng"]))
        self.masks.apply()

    def _load_optimizer(self, state: dict[str, object]) -> None:
        """Load what was saved of the optimiser; learning rates stay the tensors that a recording reads."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def measure(objective: Objective | None) -> Objective | None:
    """Return what held-out text is measured by: plain KL wherever the objective has it."""
    return Objective(kl=1.0) if objective is not None and objective.kl else objective


def saved_rows(state: Mapping[str, object]) -> Rows | None:
    """Return the text of a checkpoint; None if the user gave batches."""
    data = cast(dict[str, object], state["data"])
    return Rows.of(data) if data else None


@contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """Within the block, keep parameters in 16 bits as float32, which small updates don't vanish in."""
    kinds = {p: p.dtype for p in model.parameters() if p.dtype in (torch.bfloat16, torch.float16)}
    for parameter in kinds:
        parameter.data = parameter.data.float()
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, kind in kinds.items():
            parameter.grad = None
            parameter.data = parameter.data.to(kind)


@torch.no_grad()
def _load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name in state:
            parameter.copy_(state[name])


def _parts(places: Sequence[int], parts: int) -> list[Sequence[int]]:
    each = len(places) // parts
    return [places[part * each : (part + 1) * each] for part in range(parts)]


def _tokens(call: Call) -> int:
    """Return how many token ids a batch has, padding not counted; 0 for other inputs."""
    _, kwargs = call
    found = kwargs.get("attention_mask", kwargs.get("input_ids"))
    if not isinstance(found, Tensor) or found.is_floating_point():
        return 0
    return int(found.sum()) if "attention_mask" in kwargs else found.numel()


def _rows(call: Call) -> int:
    """Return the rows of a batch."""
    args, kwargs = call
    first = next((leaf for leaf in (*args, *kwargs.values()) if isinstance(leaf, Tensor)), None)
    return 1 if first is None else len(first)
