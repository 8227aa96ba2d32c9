"""Choose the layers to prune for a speed: those that cost least, until enough time is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.candidates import PruneAgain, weigh
from sparseflow.pruning.prune_report import PruneReport
from sparseflow.pruning.savings import Savings


@dataclass(frozen=True)
class SpeedChoice:
    """What was chosen.

    Attributes:
        report: of pruning the chosen layers.
        saved_us: what they save in the calls of `ms` rows together, by this machine's measurements.
        most_us: what all layers would save.
        loss: the loss of pruning them, before any recovery.
        unit: of the loss.
    """

    report: PruneReport
    saved_us: float
    most_us: float
    loss: float
    unit: str


def prune_for_speed(
    model: nn.Module,
    calibration: Iterable[object],
    needed_us: Callable[[], float],
    patterns: Sequence[str],
    skip: Sequence[str],
    ms: Sequence[int],
    progress: bool | None,
    prune: PruneAgain,
) -> SpeedChoice:
    """Prune to the patterns whose losses add up to least among those that save enough.

    All layers are pruned to each pattern; each one's loss is measured with the others dense. Then a knapsack
    chooses a pattern for each, and the layers are pruned anew.

    Args:
        model: dense, in evaluation mode.
        calibration: batches, as for `sparseflow.prune`.
        needed_us: returns the time to save, called while the model is dense.
        patterns: to choose from, as for `sparseflow.prune`.
        skip: patterns of layers that stay dense in any case.
        ms: the numbers of rows M of the calls that count.
        progress: progress bars on stderr; ``None``: only on a terminal.
        prune: prunes the model in place.

    Raises:
        ArgumentError: no layer was measured to be faster sparse here, or all together save too little; the
            model is dense then.
    """
    batches = list(calibration)
    Calibration.of(model, batches)
    needed = needed_us()

    def require(saved: Savings) -> None:
        if saved.unit != "µs" or saved.most < needed:
            raise _too_slow(saved, needed)

    found = weigh(model, batches, patterns, skip, ms, progress, prune, require)
    chosen = found.picked(found.by_saving().within(found.most_saved - needed))
    assert chosen is not None, "the fastest options save enough"
    report = prune(batches, skip, chosen)
    found.board.released()
    saved = sum(option.saved for option in found.of(chosen))
    return SpeedChoice(report, saved, found.most_saved, found.board.loss(), found.board.unit)


def _too_slow(saved: Savings, needed: float) -> ArgumentError:
    subject = "sf.sparsify(target_speedup=…)"
    if saved.unit != "µs":
        rule = saved.note.partition(":")[0][0].lower() + saved.note.partition(":")[0][1:]
        return ArgumentError(subject, rule, "on a GPU call sf.tune(model) first, or pass max_loss=…")
    rule = f"all layers together save {saved.most:.0f} µs, and {needed:.0f} are needed"
    return ArgumentError(subject, rule, "ask for less, or for other ms=…")
