"""Distil a dense model into its pruned copy, keeping the weights 2:4 at every step."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from sparseflow.errors import ArgumentError, FinetuneError
from sparseflow.finetune.masks import Masks
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.student import Pair
from sparseflow.pruning.calibration import Call, as_call, moved, require_batches
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import Step, progress_bars

WARMUP = 0.05
"""The share of the steps in which the learning rate rises; then it falls to zero along a cosine."""
CHECK_EVERY = 20
"""Steps between two looks at the loss, each of which waits for the device."""


@dataclass(frozen=True)
class DistillReport:
    """The report of `sparseflow.finetune.distill`.

    Attributes:
        losses: of each step, before its update.
        masked: names of the layers that stayed 2:4.
        seconds: wall time of the steps.
        objective: the terms and their weights.
        lr: the highest learning rate.
        seed: of the order of the batches and of dropout.
    """

    losses: tuple[float, ...]
    masked: tuple[str, ...]
    seconds: float
    objective: Objective
    lr: float
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        return asdict(self) | {"losses": list(self.losses), "masked": list(self.masked)}

    def __str__(self) -> str:
        tenth = max(1, len(self.losses) // 10)
        first, last = (sum(part) / tenth for part in (self.losses[:tenth], self.losses[-tenth:]))
        return (
            f"{len(self.losses)} steps over {len(self.masked)} masked layers in {self.seconds:.1f} s: "
            f"loss {first:.4f} in the first {tenth}, {last:.4f} in the last"
        )


def distill(
    model: nn.Module,
    teacher: nn.Module | None,
    batches: Iterable[object],
    *,
    steps: int,
    lr: float = 1e-4,
    objective: Objective | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    autocast: torch.dtype | None = None,
    clip: float | None = 1.0,
    seed: int = 0,
    progress: bool | None = None,
) -> DistillReport:
    """Train a pruned model in place to match the dense one; 2:4 weights stay 2:4 at every step.

    Args:
        model: pruned; parameters that don't require gradients stay as they are. It runs in the mode it is in:
            in evaluation mode without dropout, which suits short runs best.
        teacher: the dense model, on the same device, in evaluation mode; it is not changed. May be None where
            the objective has no other term than `task`.
        batches: the training data. Each batch is a tensor (the first positional input), a tuple (positional
            inputs) or a mapping (keyword inputs) and makes one step. A sequence is shuffled for each pass
            over it; any other iterable is consumed once, in order. They are called `batches`, not
            `calibration`: calibration data is only observed, these train the weights.
        steps: number of updates.
        lr: the highest learning rate; each group of a given optimizer keeps its own instead.
        objective: what is minimised; by default `Objective.fitting` the teacher.
        optimizer: over the model's parameters; by default AdamW without weight decay.
        autocast: a dtype to run both models in under autocast, such as ``torch.bfloat16``.
        clip: the greatest norm of the gradient of one step; None: no limit.
        seed: of the order of the batches and of torch's generators within the call.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Raises:
        ArgumentError: an argument has a wrong value, no layer of the model is 2:4, the batches run out, an
            output lacks what the objective reads, or the call is within `torch.inference_mode`.
        FinetuneError: the loss is not finite; the weights are then those of a few steps later.
    """
    _check(model, teacher, steps, lr, objective)
    require_batches("sf.finetune.distill(batches=…)", batches)
    device = next(model.parameters()).device
    calls = _calls(batches, steps, seed)
    masks = Masks.of(model)
    optimizer = optimizer or torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad],
        lr=lr,
        weight_decay=0.0,
        fused=device.type == "cuda",
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step / steps))
    run = _Run(Pair(model, teacher, objective, autocast), optimizer, schedule, clip)
    losses: list[Tensor] = []
    cuda = [device] if device.type == "cuda" else []
    with torch.enable_grad(), masks.held(), torch.random.fork_rng(cuda), progress_bars(progress) as bars:
        torch.manual_seed(seed)
        bar = bars.stage("distill")
        started = time.perf_counter()
        for call in calls:
            losses.append(run.step(moved(call, device)))
            _watch(losses, steps, bar)
        optimizer.zero_grad(set_to_none=True)
        values = tuple(torch.stack(losses).tolist())
        seconds = time.perf_counter() - started
    assert run.pair.objective is not None, "the first batch settled it"
    return DistillReport(values, masks.layers, seconds, run.pair.objective, lr, seed)


def warmup_cosine(progress: float) -> float:
    """Return the learning rate factor at a share of the steps: linear warm-up, then cosine decay to zero."""
    if progress < WARMUP:
        return (progress + 1e-3) / (WARMUP + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARMUP) / (1 - WARMUP))))


@dataclass
class _Run:
    """Student and teacher on one batch after the other."""

    pair: Pair
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    clip: float | None

    def step(self, call: Call) -> Tensor:
        """Update the student and return the loss before."""
        loss = self.pair.loss(call)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.pair.student.parameters(), self.clip)
        self.optimizer.step()
        self.schedule.step()
        return loss.detach()


def _watch(losses: Sequence[Tensor], steps: int, bar: Step) -> None:
    """Advance the bar and refuse a non-finite loss; does nothing in most steps."""
    done = len(losses)
    if done % CHECK_EVERY and done != steps and done != 1:
        return
    recent = torch.stack(list(losses[-CHECK_EVERY:])).tolist()
    for offset, value in enumerate(recent, start=done - len(recent) + 1):
        if not math.isfinite(value):
            raise FinetuneError(
                f"step {offset} of {steps}",
                f"the loss is {value}",
                "lower lr, clip the gradient, or train in bfloat16 or float32 rather than float16",
            )
    bar(done, steps, f"loss {recent[-1]:.4f}")


def _calls(batches: Iterable[object], steps: int, seed: int) -> Iterator[Call]:
    """Yield a call for each step; raise if there are no batches or they run out."""
    count = 0
    for batch in itertools.islice(_ordered(batches, seed), steps):
        yield as_call(f"batch {count}", batch)
        count += 1
    if count < steps:
        raise ArgumentError(
            "sf.finetune.distill(batches=…)",
            f"ran out after {count} of {steps} steps",
            "pass a list, which is repeated, or fewer steps",
        )


def _ordered(batches: Iterable[object], seed: int) -> Iterator[object]:
    if not isinstance(batches, Sequence):
        yield from batches
        return
    generator = torch.Generator().manual_seed(seed)
    while batches:
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[index]


def _check(model: object, teacher: object, steps: int, lr: float, objective: Objective | None) -> None:
    require_gradients("sf.finetune.distill")
    require_uncompiled(model, "sf.finetune.distill(model)")
    if not isinstance(model, nn.Module):
        rule = f"model must be a torch.nn.Module, not {type(model).__name__}"
        raise ArgumentError("sf.finetune.distill(model)", rule, "pass the pruned model")
    if not (isinstance(steps, int) and steps > 0):
        raise ArgumentError(f"sf.finetune.distill(steps={steps!r})", "must be a positive integer")
    if not lr > 0:
        raise ArgumentError(f"sf.finetune.distill(lr={lr!r})", "must be > 0", "try 1e-4")
    if teacher is None and (objective is None or objective.needs_teacher):
        raise ArgumentError(
            "sf.finetune.distill(teacher=None)",
            "the objective needs a teacher",
            "pass the dense model, or objective=Objective(task=1.0) to train on labels alone",
        )
    if isinstance(teacher, nn.Module) and (teacher is model or teacher.training):
        rule = "is the model itself" if teacher is model else "is in training mode"
        remedy = "dense = copy.deepcopy(model).eval() before pruning"
        raise ArgumentError("sf.finetune.distill(teacher=…)", rule, remedy)
