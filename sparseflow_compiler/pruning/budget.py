"""Prune within a budget of loss or bytes: each layer gets the pattern by which the model gains most."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.budget_report import BudgetReport, FrontierPoint, LayerChoice
from sparseflow.pruning.candidates import Candidates, Chosen, PruneAgain, weigh
from sparseflow.pruning.prune_options import DENSE
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.runtime.pattern import Pattern

DEFAULT_MAX_LOSS = 0.05
"""What ``skip="auto"`` allows: nats a token, or 1 − cosine of the output."""
DEFAULT_MS = (1, 512)
FRONTIER_POINTS = 9
TRIES = 6


@dataclass(frozen=True)
class Budget:
    """What pruning may cost; `sparseflow.prune` says what each option means."""

    max_loss: float | None
    max_bytes: int | str | None
    patterns: tuple[str, ...]
    recovery: float = 1.0
    ms: tuple[int, ...] = DEFAULT_MS

    def require(self, calibration: object) -> None:
        """Refuse a budget that isn't one, or that nothing can be measured for.

        Raises:
            ArgumentError: it, `ms` or `patterns` is wrong, or calibration data is missing.
        """
        given = self.max_loss if self.max_bytes is None else self.max_bytes
        name = "max_loss" if self.max_bytes is None else "max_bytes"
        if self.max_loss is not None and self.max_bytes is not None:
            rule = "can't both be given: one is met, and the other is what it is met by"
            raise ArgumentError("sf.prune(max_loss=…, max_bytes=…)", rule, "leave one out")
        if calibration is None:
            raise ArgumentError(
                f"sf.prune({name}={given!r})",
                "needs calibration data to measure losses on, and calibration is None",
                "pass calibration=[…], some tens of typical batches",
            )
        if self.max_loss is not None and not _is_number(self.max_loss, at_least=0):
            subject = f"sf.prune(max_loss={self.max_loss!r})"
            raise ArgumentError(subject, "must be a finite number ≥ 0", "try 0.05")
        if not _is_number(self.recovery, at_least=1):
            subject = f"sf.prune(recovery={self.recovery!r})"
            raise ArgumentError(subject, "must be a finite number ≥ 1", "2 is what sf.sparsify hopes for")
        if not self.ms or not all(isinstance(m, int) and m > 0 for m in self.ms):
            rule = "must be positive whole numbers"
            raise ArgumentError(f"sf.prune(ms={self.ms!r})", rule, "try ms=(1, 512)")
        self._require_patterns()
        self._require_bytes()

    def _require_patterns(self) -> None:
        for pattern in self.patterns:
            if pattern != DENSE:
                Pattern.of(pattern)
        if not set(self.patterns) - {DENSE} or len(set(self.patterns)) < len(self.patterns):
            subject = f"sf.prune(patterns={self.patterns!r})"
            rule = "must name at least one sparsity pattern, and none twice"
            raise ArgumentError(subject, rule, 'for example ("2:4", "4:6", "6:8", "dense")')

    def _require_bytes(self) -> None:
        if isinstance(self.max_bytes, str):
            Pattern.of(self.max_bytes)
        elif self.max_bytes is not None and not (isinstance(self.max_bytes, int) and self.max_bytes > 0):
            subject, rule = (
                f"sf.prune(max_bytes={self.max_bytes!r})",
                "must be bytes > 0, or a pattern's name",
            )
            raise ArgumentError(subject, rule, 'for example "4:6", the bytes of all layers in that pattern')

    @property
    def allowed(self) -> float:
        """The greatest loss before recovery."""
        return math.inf if self.max_loss is None else self.max_loss * self.recovery


def prune_within(
    model: nn.Module,
    calibration: Iterable[object] | None,
    budget: Budget,
    skip: Sequence[str],
    progress: bool | None,
    prune: PruneAgain,
) -> BudgetReport:
    """Prune each layer to the pattern that the model gains most by, within a budget.

    All layers are pruned to each pattern; then each one's loss in it is measured with the others dense. A
    knapsack chooses a pattern for each, as if losses added up, scaled to the loss of pruning all of them:
    within a loss the patterns that save most, within bytes those that lose least. Within a loss, the choice
    is measured, and repeated with a smaller budget if it exceeds it. Then the layers are pruned anew to
    their patterns, from the activations of the resulting model.

    Args:
        model: dense.
        calibration: as for `sparseflow.prune`; needed.
        budget: what pruning may cost.
        skip: patterns of names of layers that stay dense in any case.
        progress: as for `sparseflow.prune`.
        prune: prunes the model in place.

    Raises:
        ArgumentError: the budget is wrong, calibration data is missing, or no choice is within the budget;
            the model is dense then.
    """
    budget.require(calibration)
    batches = list(calibration or ())
    # Within bytes nothing is chosen by time, and a CPU would have to measure it.
    ms = budget.ms if budget.max_bytes is None else None
    found = weigh(model, batches, budget.patterns, skip, ms, progress, prune)
    limit = _bytes_allowed(found, budget)
    chosen, loss = _within_loss(found, budget) if limit is None else _within_bytes(found, limit)
    frontier = _frontier(found)
    loss, final = _pruned_anew(found, chosen, loss, budget, skip, batches, prune)
    options = found.of(chosen)
    return BudgetReport(
        tuple(_explained(found, chosen, entry) for entry in final.layers),
        (*final.notes, *([found.savings.note] if found.savings.note else [])),
        final.pattern,
        tuple(LayerChoice(name, chosen.get(name, DENSE), found.options[name]) for name in found.options),
        budget.max_loss,
        limit,
        budget.recovery,
        loss,
        found.losses,
        found.board.unit,
        sum(option.saved for option in options),
        found.most_saved,
        found.savings.unit,
        sum(option.nbytes for option in options),
        found.bytes_dense,
        ms or (),
        frontier,
    )


def _bytes_allowed(found: Candidates, budget: Budget) -> int | None:
    """Return the budget in bytes; None for one of loss."""
    if isinstance(budget.max_bytes, str):
        return found.bytes_in(budget.max_bytes)
    return budget.max_bytes


def _within_bytes(found: Candidates, limit: int) -> tuple[Chosen, float]:
    """Return the choice that is expected to lose least within bytes, and its measured loss."""
    chosen = found.picked(found.by_bytes(limit).within(limit))
    if chosen is None:
        least = sum(min(option.nbytes for option in options) for options in found.options.values())
        subject, rule = f"sf.prune(max_bytes={limit})", f"the layers take {least} bytes at least"
        raise ArgumentError(subject, rule, "allow more, or add a pattern that keeps fewer weights")
    return chosen, found.board.loss_of(chosen)


def _within_loss(found: Candidates, budget: Budget) -> tuple[Chosen, float]:
    """Return the choice that saves most, measured to be within the budget, and its loss."""
    allowed = limit = budget.allowed
    front = found.by_loss(limit)
    chosen = found.picked(front.within(limit))
    for _ in range(TRIES):
        if chosen is None:
            break
        loss = found.board.loss_of(chosen)
        if loss <= allowed:
            return chosen, loss
        limit = 0.97 * sum(option.expected for option in found.of(chosen)) * allowed / loss
        chosen = found.picked(front.within(limit))
    return _gentler(found, chosen, allowed)


def _gentler(found: Candidates, chosen: Chosen | None, allowed: float) -> tuple[Chosen, float]:
    """Return a choice within a loss where losses aren't additive: the most harmful layers made gentlest.

    Raises:
        ArgumentError: layers can't be dense, and their gentlest patterns exceed the loss; the model is dense.
    """
    gentlest = {name: min(options, key=lambda o: o.expected) for name, options in found.options.items()}
    mine = {
        name: option.pattern if chosen is None else chosen.get(name, DENSE)
        for name, option in gentlest.items()
    }
    worst_first = sorted(found.options, key=lambda name: found.harm(name, mine[name]), reverse=True)
    for name in ("", *worst_first):
        if name:
            mine[name] = gentlest[name].pattern
        now = {layer: pattern for layer, pattern in mine.items() if pattern != DENSE}
        loss = found.board.loss_of(now)
        if loss <= allowed:
            return now, loss
    found.board.apply({})
    raise ArgumentError(
        f"sf.prune(max_loss={allowed:g})",
        f"the gentlest of the patterns cost {loss:.4g} {found.board.unit}",
        'allow more, or add a pattern that keeps more weights, or "dense"',
    )


def _pruned_anew(
    found: Candidates,
    chosen: Chosen,
    loss: float,
    budget: Budget,
    skip: Sequence[str],
    batches: Sequence[object],
    prune: PruneAgain,
) -> tuple[float, PruneReport]:
    """Prune the dense model to a choice; on exceeding the budget, keep the weights that were measured."""
    patterns = set(chosen.values())
    if len(patterns) <= 1 and len(chosen) in (0, len(found.options)):
        found.board.apply(chosen)
        return loss, found.reports[patterns.pop() if patterns else next(iter(found.reports))]
    found.board.apply({})
    found.board.released()
    report = prune(batches, skip, chosen)
    anew = found.board.loss()
    if anew <= budget.allowed:
        return anew, report
    found.board.apply(chosen)
    note = "The layers keep what pruning all of them gave, which keeps within the budget; anew they did not."
    return loss, replace(report, notes=(*report.notes, note))


def _frontier(found: Candidates) -> tuple[FrontierPoint, ...]:
    """Return measured points, evenly spaced in what they save at least, the slowest model first."""
    if not found.options:
        return ()
    front, most, points = found.by_saving(), found.most_saved, {}
    for place in range(FRONTIER_POINTS):
        forgone = most * (1 - place / (FRONTIER_POINTS - 1))
        chosen = found.picked(front.within(forgone))
        if chosen is not None:
            points[tuple(chosen.items())] = chosen
    return tuple(_point(found, chosen) for chosen in points.values())


def _point(found: Candidates, chosen: Chosen) -> FrontierPoint:
    options = found.of(chosen)
    saved, nbytes = sum(option.saved for option in options), sum(option.nbytes for option in options)
    return FrontierPoint(found.board.loss_of(chosen), saved, nbytes, found.count(chosen))


def _explained(found: Candidates, chosen: Chosen, entry: PrunedLayer) -> PrunedLayer:
    """Return the report entry of a layer, with the reason if the budget leaves it dense."""
    if entry.name in chosen or entry.name not in found.options:
        return entry
    sparse = [option for option in found.options[entry.name] if option.pattern != DENSE]
    unit, saved_unit = found.board.unit, found.savings.unit
    reason = "sparse it was measured to be no faster"
    if any(option.saved for option in sparse):
        least = min((option for option in sparse if option.saved), key=lambda option: option.loss)
        reason = (
            f"{least.pattern} costs {least.loss:.4f} {unit} alone and saves {least.saved:.4g} {saved_unit}"
        )
    return replace(entry, method=None, rows=0, rel_err=None, output_err=None, reason=reason, pattern=None)


def _is_number(value: object, *, at_least: float) -> bool:
    return isinstance(value, (int, float)) and at_least <= value < math.inf
