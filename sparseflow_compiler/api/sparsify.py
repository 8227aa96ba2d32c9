"""`sparseflow.sparsify`: from a dense model to a pruned and recovered one in one call."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from sparseflow.api.compile import compile as sparseflow_compile
from sparseflow.errors import ArgumentError, QualityWarning
from sparseflow.finetune.recovering import recover
from sparseflow.finetune.recovery_report import RecoverReport
from sparseflow.finetune.recovery_run import Clock
from sparseflow.finetune.recovery_text import Rows, Sources, Text
from sparseflow.integrations.transformers.models import own_tokenizer
from sparseflow.pruning import PruneReport, prune
from sparseflow.pruning.calibration import Calibration, moved
from sparseflow.pruning.candidates import Chosen
from sparseflow.pruning.prune_options import Method
from sparseflow.pruning.speed_target import prune_for_speed
from sparseflow.runtime.calling.inference import device_of
from sparseflow.support.arguments import require_matches, require_patterns, with_defaults
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import progress_bars
from sparseflow.support.user_warnings import warn

if TYPE_CHECKING:
    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase

SELF: Literal["self"] = "self"
HOPED = 2.0
"""How much of a loss recovery is hoped to leave one part by: layers are pruned for so much more at first."""
CALIBRATION_TOKENS = 16_384
_CALIBRATING = 0.15
"""The share of the minutes in which text to calibrate on is written."""
TRIES = 3
"""How often layers are chosen for a loss; all recoveries but the last get half of the minutes left."""
_CAUTION = 0.8
"""The share of what a recovered loss allows that the next choice of layers uses."""
_TURNS = 5


@dataclass(frozen=True)
class SparsificationReport:
    """The report of `sparseflow.sparsify`.

    Attributes:
        asked: the target: "max_loss" or "target_speedup", and its value.
        reached: whether it was.
        pruning: which layers were pruned, and why others weren't.
        recovery: what training won back, on held-out text.
        loss: held-out loss at the end; its unit is the recovery's.
        expected_speedup: of a call at `ms` rows, from the layers' measured times; None unless asked for.
        measured_speedup: dense eager over `sparseflow.compile` of the result, in turns; None likewise.
        ms: the numbers of rows M that these count for.
        minutes: wall time.
        notes: remarks in full sentences.
    """

    asked: tuple[str, float]
    reached: bool
    pruning: PruneReport
    recovery: RecoverReport
    loss: float
    expected_speedup: float | None
    measured_speedup: float | None
    ms: tuple[int, ...]
    minutes: float
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        parts = {"pruning": self.pruning.to_dict(), "recovery": self.recovery.to_dict()}
        return asdict(self) | {
            "asked": list(self.asked),
            "ms": list(self.ms),
            "notes": list(self.notes),
            **parts,
        }


def sparsify(
    model: nn.Module,
    calibration: Iterable[object] | Literal["self"] | None = SELF,
    *,
    target_speedup: float | None = None,
    max_loss: float | None = None,
    method: Method = "sparsegpt",
    patterns: Sequence[str] = ("2:4", "dense"),
    minutes: float = 20.0,
    ms: Sequence[int] = (1,),
    skip: Sequence[str] = (),
    skip_defaults: bool = True,
    text: Text | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    length: int = 512,
    seed: int = 0,
    progress: bool | None = None,
) -> SparsificationReport:
    """Prune a dense model in place and win back what that took, for a speed or within a loss.

    The layers are chosen by `sparseflow.prune`'s measured sensitivities and this machine's measured speeds;
    `sparseflow.recover` trains what is left. The weights stay in their modules, with zeros:
    `sparseflow.compile` makes them fast. (`sparseflow.nn.sparsify` is another thing: it replaces modules by
    packed ones, and trains nothing.)

    With `max_loss`, layers are pruned for twice as much at first, as recovery often halves a loss; if the
    recovered model exceeds `max_loss` on held-out text, fewer are pruned, twice at most. With
    `target_speedup`, those are pruned that lose least among the ones that save enough time.

    Args:
        model: dense, in evaluation mode. Memory holds it twice, and the training's state.
        calibration: batches as for `sparseflow.prune`; ``"self"``, or None: text that the model writes.
        target_speedup: over the dense eager model, for one call at each of `ms` together.
        max_loss: of the recovered model, on held-out text: KL from the dense model in nats a token. For a
            model without logits it bounds the loss before recovery: 1 − cosine of the output. Exactly one of
            both.
        method: as for `sparseflow.prune`.
        patterns: what is chosen from for each layer, as for `sparseflow.prune`: add ``"4:6"`` and ``"6:8"``
            where they are faster than dense.
        minutes: for writing, training and its measurements; what pruning takes is counted too, but not cut
            short, and recovery gets at least a quarter of them.
        ms: the numbers of rows M (tokens in a call) whose time counts.
        skip: fnmatch patterns of layer names that stay dense, in addition to `DEFAULT_SKIP`.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        text: to mix into the training, as for `sparseflow.recover`.
        tokenizer: as for `sparseflow.recover`.
        length: tokens in a row of text.
        seed: of all that is drawn.
        progress: progress bars on stderr; ``None``: only on a terminal.

    Returns:
        What was pruned and recovered, and whether the target was reached; a ``QualityWarning`` says so if
        not.

    Raises:
        ArgumentError: an option has a wrong value; all layers together don't save enough, and the error says
            how much they save; or no layer can be pruned within the loss. The model is dense then.
        SparseFlowError: as `sparseflow.prune` and `sparseflow.recover` raise.
    """
    asked = _asked(target_speedup, max_loss, minutes, ms)
    require_gradients("sf.sparsify")
    require_patterns("sparsify", skip)
    require_matches("sparsify", skip, model)
    skipped = with_defaults(skip, skip_defaults)
    job = _Job(model, copy.deepcopy(model), Clock(minutes), method, tuple(patterns), skipped)
    job.text, job.tokenizer, job.length, job.seed, job.progress = text, tokenizer, length, seed, progress
    batches = job.own_batches() if calibration is None or calibration is SELF else list(calibration)
    if max_loss is not None:
        return job.within(batches, asked, max_loss, ms)
    assert target_speedup is not None
    return job.faster(batches, asked, target_speedup, ms)


def _asked(
    target_speedup: float | None, max_loss: float | None, minutes: float, ms: Sequence[int]
) -> tuple[str, float]:
    """Return which target was given."""
    subject = f"sf.sparsify(target_speedup={target_speedup!r}, max_loss={max_loss!r})"
    if (target_speedup is None) == (max_loss is None):
        raise ArgumentError(subject, "needs exactly one of both", "for example target_speedup=1.3")
    if target_speedup is not None and not 1 < target_speedup < float("inf"):
        raise ArgumentError(subject, "target_speedup must be above 1", "for example 1.3")
    if max_loss is not None and not 0 < max_loss < float("inf"):
        raise ArgumentError(subject, "max_loss must be above 0", "for example 0.05")
    if not minutes > 0:
        raise ArgumentError(f"sf.sparsify(minutes={minutes!r})", "must be above 0")
    if not ms or not all(isinstance(m, int) and m > 0 for m in ms):
        raise ArgumentError(f"sf.sparsify(ms={ms!r})", "must be positive whole numbers", "try ms=(1,)")
    return ("max_loss", max_loss) if max_loss is not None else ("target_speedup", float(target_speedup or 0))


@dataclass
class _Job:
    """One call: the model that is pruned, and its dense copy."""

    model: nn.Module
    dense: nn.Module
    clock: Clock
    method: Method
    patterns: tuple[str, ...]
    skip: tuple[str, ...]
    text: Text | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    length: int = 512
    seed: int = 0
    progress: bool | None = None

    def own_batches(self) -> list[object]:
        """Return text of the model's own to calibrate on."""
        tokenizer = self.tokenizer or own_tokenizer(self.dense)
        sources = Sources(self.dense, tokenizer, None, 0.5, self.length, None)
        device = device_of(self.dense)
        with (
            torch.random.fork_rng([device] if device.type == "cuda" else []),
            progress_bars(self.progress) as bars,
        ):
            torch.manual_seed(self.seed + 1)
            allowed = _CALIBRATING * self.clock.allowed
            found = sources.collect(
                CALIBRATION_TOKENS, lambda: allowed - self.clock.spent, bars.stage("write")
            )
        assert isinstance(found, Rows), "no batches were given"
        return [found.training([place])[1] for place in range(len(found))]

    def within(
        self, batches: list[object], asked: tuple[str, float], max_loss: float, ms: Sequence[int]
    ) -> SparsificationReport:
        """Prune within a loss."""
        notes: list[str] = []
        bounded = self._has_logits(batches[0])
        if not bounded:
            notes.append("The loss of this model is bounded before recovery, on the calibration batches.")
        budget = HOPED * max_loss if bounded else max_loss
        for left in reversed(range(TRIES if bounded else 1)):
            pruned = self._prune(batches, self.skip, max_loss=budget, patterns=self.patterns, ms=ms)
            if not any(layer.method for layer in pruned.layers):
                raise ArgumentError(
                    f"sf.sparsify(max_loss={max_loss!r})",
                    f"no layer can be pruned for a loss of {budget:.3g}; the model is dense",
                    "allow more, or more minutes",
                )
            recovery = self._recover(0.5 if left else 1.0)
            if recovery.after <= max_loss or not left:
                break
            notes.append(
                f"Layers were pruned for a loss of {budget:.3g}, and recovered to {recovery.after:.4f}: too "
                "much, so fewer were pruned."
            )
            self._load_dense()
            budget *= _CAUTION * max_loss / recovery.after
        reached = recovery.after <= max_loss or not bounded
        return self._report(asked, reached, pruned, recovery, None, None, ms, notes)

    @torch.no_grad()
    def _has_logits(self, batch: object) -> bool:
        args, kwargs = moved(Calibration.of(self.dense, [batch]).calls[0], device_of(self.dense))
        return hasattr(self.dense(*args, **kwargs), "logits")

    def faster(
        self, batches: list[object], asked: tuple[str, float], target: float, ms: Sequence[int]
    ) -> SparsificationReport:
        """Prune for a speed."""
        calls = [_call_of(self.dense, batches[0], m) for m in ms]
        dense_us = 0.0

        def needed() -> float:
            nonlocal dense_us
            dense_us = sum(_seconds([self.dense], call)[0] for call in calls) * 1e6
            return dense_us * (1 - 1 / target)

        choice = prune_for_speed(
            self.model, batches, needed, self.patterns, self.skip, ms, self.progress, self._prune_to
        )
        recovery = self._recover(1.0)
        compiled = sparseflow_compile(copy.deepcopy(self.model))
        times = [_seconds([self.dense, compiled], call) for call in calls]
        measured = sum(dense for dense, _ in times) / sum(ours for _, ours in times)
        expected = dense_us / (dense_us - choice.saved_us)
        return self._report(asked, measured >= target, choice.report, recovery, expected, measured, ms, [])

    def _prune(self, batches: Sequence[object], skip: Sequence[str], **budget: object) -> PruneReport:
        how = {"skip": tuple(skip), "skip_defaults": False, "seed": self.seed, "progress": self.progress}
        return prune(self.model, self.method, batches, **(how | budget))  # type: ignore[arg-type]

    def _prune_to(self, batches: Sequence[object], skip: Sequence[str], pattern: str | Chosen) -> PruneReport:
        return self._prune(batches, skip, pattern=pattern)

    def _recover(self, share: float) -> RecoverReport:
        minutes = max(self.clock.left * share, self.clock.allowed / 4) / 60
        return recover(
            self.model,
            self.dense,
            minutes,
            self.text,
            tokenizer=self.tokenizer,
            length=self.length,
            seed=self.seed,
            progress=self.progress,
        )

    @torch.no_grad()
    def _load_dense(self) -> None:
        for mine, theirs in zip(self.model.parameters(), self.dense.parameters(), strict=True):
            mine.copy_(theirs)

    def _report(
        self,
        asked: tuple[str, float],
        reached: bool,
        pruned: PruneReport,
        recovery: RecoverReport,
        expected: float | None,
        measured: float | None,
        ms: Sequence[int],
        notes: list[str],
    ) -> SparsificationReport:
        if not reached:
            name, value = asked
            got = recovery.after if measured is None else measured
            notes = [*notes, f"{name}={value:g} was not reached: it is {got:.4g}."]
            warn(notes[-1], QualityWarning)
        minutes = self.clock.spent / 60
        return SparsificationReport(
            asked,
            reached,
            pruned,
            recovery,
            recovery.after,
            expected,
            measured,
            tuple(ms),
            minutes,
            tuple(notes),
        )


def _call_of(model: nn.Module, batch: object, m: int) -> dict[str, Tensor]:
    """Return token ids ``[1, m]`` from a batch, as the input of a call.

    Raises:
        ArgumentError: the batches hold no token ids.
    """
    args, kwargs = Calibration.of(model, [batch]).calls[0]
    ids = kwargs.get("input_ids", args[0] if args else None)
    if not isinstance(ids, Tensor) or ids.is_floating_point():
        rule = "times calls of m tokens, and the batches hold no token ids"
        raise ArgumentError("sf.sparsify(target_speedup=…)", rule, "pass max_loss=… instead")
    row = ids.flatten()
    return moved({"input_ids": row.repeat(-(-m // len(row)))[:m].unsqueeze(0)}, device_of(model))


@torch.no_grad()
def _seconds(models: Sequence[nn.Module], call: dict[str, Tensor]) -> list[float]:
    """Return the median time of a call of each model, in turns after one call of each."""
    device = call["input_ids"].device
    times: list[list[float]] = [[] for _ in models]
    for turn in range(_TURNS + 1):
        for model, found in zip(models, times, strict=True):
            begun = time.perf_counter()
            model(**call)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                found.append(time.perf_counter() - begun)
    return [statistics.median(found) for found in times]
