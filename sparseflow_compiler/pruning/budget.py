"""Prune within a budget of quality: layers with the highest loss for their savings stay dense."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from glob import escape

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.knapsack import best_within
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.pruning.savings import Savings, savings
from sparseflow.pruning.sensitivity import Switchboard, state_of
from sparseflow.support.progress import progress_bars
from sparseflow.support.text_table import Column, text_table

DEFAULT_MAX_LOSS = 0.05
"""What ``skip="auto"`` allows: nats a token, or 1 − cosine of the output."""
DEFAULT_MS = (1, 512)
CURVE_POINTS = 9
TRIES = 6

PruneAgain = Callable[[Sequence[object], Sequence[str]], PruneReport]
"""Prunes the model in place, given the batches and the patterns of layers to skip."""


@dataclass(frozen=True)
class LayerChoice:
    """One candidate layer.

    Attributes:
        name: the layer's name in the model.
        loss: the model's loss if it alone is pruned.
        saved: the saving of running it sparse.
        pruned: whether the budget prunes it.
    """

    name: str
    loss: float
    saved: float
    pruned: bool


@dataclass(frozen=True)
class BudgetReport(PruneReport):
    """The report of `sparseflow.prune` with a budget.

    Attributes:
        choices: every layer that could be pruned, with its loss and its saving.
        max_loss: the budget.
        loss: of the resulting model; at most `max_loss`.
        loss_all: of the model with all of `choices` pruned.
        unit: of losses.
        saved_unit: of savings; "µs" in total over the calls of `ms` rows, or "weights".
        ms: the numbers of rows M at which savings were measured.
        curve: how many of the layers with the most loss for their saving are dense, the measured loss, and
            what the others save.
    """

    choices: tuple[LayerChoice, ...] = ()
    max_loss: float = 0.0
    loss: float = 0.0
    loss_all: float = 0.0
    unit: str = ""
    saved_unit: str = ""
    ms: tuple[int, ...] = ()
    curve: tuple[tuple[int, float, float], ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain dictionaries and lists, ready for JSON."""
        names = ("max_loss", "loss", "loss_all", "unit", "saved_unit")
        budget: dict[str, object] = {name: getattr(self, name) for name in names}
        budget["ms"] = list(self.ms)
        budget["choices"] = [asdict(choice) for choice in self.choices]
        fields = ("dense_layers", "loss", "saved")
        budget["curve"] = [dict(zip(fields, point, strict=True)) for point in self.curve]
        return super().to_dict() | {"budget": budget}

    def table(self, width: int = 130) -> str:
        """Return the report as text: the layers, then the candidates, most harmful first."""
        at = f" at M = {', '.join(map(str, self.ms))}" if self.saved_unit == "µs" else ""
        title = f"loss {self.loss:.4f} of {self.max_loss:.4f} {self.unit}; all pruned: {self.loss_all:.4f}"
        columns: tuple[Column, ...] = (
            ("layer", "left"),
            ("loss alone", "right"),
            (f"{self.saved_unit} saved{at}", "right"),
            ("", "left"),
        )
        rows = [
            (choice.name, f"{choice.loss:.5f}", f"{choice.saved:.4g}", "pruned" if choice.pruned else "dense")
            for choice in sorted(self.choices, key=lambda choice: -choice.loss)
        ]
        notes = [
            f"{dense} layers dense: loss {loss:.4f}, {saved:.4g} {self.saved_unit} saved"
            for dense, loss, saved in self.curve
        ]
        return super().table(width) + "\n" + text_table(title, columns, rows, notes, width)


def prune_within(
    model: nn.Module,
    calibration: Iterable[object] | None,
    max_loss: float,
    skip: Sequence[str],
    ms: Sequence[int],
    progress: bool | None,
    prune: PruneAgain,
) -> BudgetReport:
    """Prune the layers that save most within a budget of loss.

    All layers are pruned once; then each one's loss is measured with the others dense. Losses are assumed to
    add up, scaled to the loss of pruning all of them, and a knapsack chooses those that save most
    within the budget. The choice is measured, and repeated with a smaller budget if it exceeds it.
    Then the chosen layers are pruned anew, from the activations of the resulting model.

    Args:
        model: dense.
        calibration: as for `sparseflow.prune`; needed.
        max_loss: the greatest loss (`Switchboard.loss`) on the calibration batches.
        skip: patterns of layers that stay dense in any case.
        ms: the numbers of rows M at which the savings count.
        progress: as for `sparseflow.prune`.
        prune: prunes the model in place, given the batches and patterns to skip.

    Raises:
        ArgumentError: the budget or `ms` is wrong, or calibration data is missing.
    """
    _check(calibration, max_loss, ms)
    batches = list(calibration or ())
    data = Calibration.of(model, batches)
    layers = [layer for layer in find_layers(model, skip) if layer.dense is None]
    dense = {layer.name: state_of(layer) for layer in layers}
    first = prune(batches, skip)
    done = {entry.name for entry in first.layers if entry.method is not None}
    layers = [layer for layer in layers if layer.name in done]
    if not layers:
        return BudgetReport(first.layers, first.notes, first.pattern, max_loss=max_loss, ms=tuple(ms))
    board = Switchboard(data, layers, dense)
    with progress_bars(progress) as bars:
        alone = board.alone(bars.stage("weigh"))
        saved = savings(layers, ms, bars.stage("measure"), first.pattern)
    scales = _Scales(board, alone, saved, max_loss)
    chosen = scales.choose()
    loss, final = scales.loss, first
    if chosen != done:
        loss, final = _prune_chosen(
            board, chosen, scales, [*skip, *map(escape, done - chosen)], batches, prune
        )
    entries = [scales.explained(entry) if entry.name in done - chosen else entry for entry in final.layers]
    return BudgetReport(
        tuple(entries),
        (*final.notes, *([saved.note] if saved.note else [])),
        final.pattern,
        tuple(LayerChoice(name, alone[name], saved.by_layer[name], name in chosen) for name in alone),
        max_loss,
        loss,
        scales.loss_all,
        board.unit,
        saved.unit,
        tuple(ms),
        scales.curve,
    )


def _prune_chosen(
    board: Switchboard,
    chosen: set[str],
    scales: _Scales,
    skip: Sequence[str],
    batches: Sequence[object],
    prune: PruneAgain,
) -> tuple[float, PruneReport]:
    """Prune the chosen layers of the dense model; on exceeding the budget, keep the measured weights."""
    board.prune_only(())
    board.released()
    report = prune(batches, skip)
    loss = board.loss()
    if loss > scales.max_loss:
        board.prune_only(chosen)
        note = (
            "The layers keep what pruning all of them gave, which keeps within the budget; anew they did not."
        )
        return scales.loss, replace(report, notes=(*report.notes, note))
    return loss, report


class _Scales:
    """Choose layers by losses and savings.

    Attributes:
        loss: of the choice, measured.
        loss_all: of all layers.
        curve: see `BudgetReport`.
    """

    def __init__(self, board: Switchboard, alone: dict[str, float], saved: Savings, max_loss: float) -> None:
        self._board, self._alone, self._saved, self.max_loss = board, alone, saved, max_loss
        self._worst_first = sorted(alone, key=self._harm, reverse=True)
        self.curve = tuple(self._point(dense) for dense in self._dense_counts())
        self.loss_all = self.curve[0][1]
        self.loss = self.loss_all

    def choose(self) -> set[str]:
        """Return the layers to prune, measured to be within the budget."""
        names = list(self._alone)
        together = sum(self._alone.values())
        share = self.loss_all / together if together else 1.0
        costs = [self._alone[name] * share for name in names]
        worths = [self._saved.by_layer[name] for name in names]
        budget = self.max_loss
        for _ in range(TRIES):
            chosen = {names[item] for item in best_within(costs, worths, budget)}
            self.loss = self._measured(chosen)
            if self.loss <= self.max_loss:
                return chosen
            predicted = sum(cost for name, cost in zip(names, costs, strict=True) if name in chosen)
            budget = 0.97 * predicted * self.max_loss / self.loss
        # Not additive at all: drop the most harmful until within budget; pruning nothing has no loss.
        for name in self._worst_first:
            if name in chosen:
                chosen.discard(name)
                self.loss = self._measured(chosen)
                if self.loss <= self.max_loss:
                    break
        return chosen

    def explained(self, entry: PrunedLayer) -> PrunedLayer:
        """Return the report entry of a layer that the budget leaves dense."""
        loss, saved = self._alone[entry.name], self._saved.by_layer[entry.name]
        reason = f"costs {loss:.4f} {self._board.unit} alone and saves {saved:.4g} {self._saved.unit}"
        if not saved:
            reason = "sparse it was measured to be no faster"
        return replace(entry, method=None, rows=0, rel_err=None, output_err=None, reason=reason)

    def _harm(self, name: str) -> float:
        saved = self._saved.by_layer[name]
        return self._alone[name] / saved if saved else float("inf")

    def _dense_counts(self) -> list[int]:
        every = len(self._alone)
        return sorted({round(every * place / (CURVE_POINTS - 1)) for place in range(CURVE_POINTS)})

    def _point(self, dense: int) -> tuple[int, float, float]:
        pruned = set(self._worst_first[dense:])
        return dense, self._measured(pruned), sum(self._saved.by_layer[name] for name in pruned)

    def _measured(self, pruned: set[str]) -> float:
        self._board.prune_only(pruned)
        return self._board.loss()


def _check(calibration: object, max_loss: float, ms: Sequence[int]) -> None:
    if calibration is None:
        raise ArgumentError(
            f"sf.prune(max_loss={max_loss!r})",
            "needs calibration data to measure losses on, and calibration is None",
            "pass calibration=[…], some tens of typical batches",
        )
    if not (isinstance(max_loss, (int, float)) and 0 <= max_loss < float("inf")):
        raise ArgumentError(f"sf.prune(max_loss={max_loss!r})", "must be a finite number ≥ 0", "try 0.05")
    if not ms or not all(isinstance(m, int) and m > 0 for m in ms):
        raise ArgumentError(f"sf.prune(ms={ms!r})", "must be positive whole numbers", "try ms=(1, 512)")
