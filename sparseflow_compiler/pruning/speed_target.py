"""Choose the layers to prune for a speed: those that cost least, until enough time is saved."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from glob import escape

from torch import nn

from sparseflow.errors import ArgumentError
from sparseflow.pruning.budget import PruneAgain
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.knapsack import best_within
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.prune_report import PruneReport
from sparseflow.pruning.savings import savings
from sparseflow.pruning.sensitivity import Switchboard, state_of
from sparseflow.support.progress import progress_bars


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
    skip: Sequence[str],
    ms: Sequence[int],
    progress: bool | None,
    prune: PruneAgain,
) -> SpeedChoice:
    """Prune the layers whose losses add up to least among those that save enough.

    All layers are pruned once; each one's loss is measured with the others dense. Then a knapsack keeps dense
    what loses most, within the time that needn't be saved, and the others are pruned anew.

    Args:
        model: dense, in evaluation mode.
        calibration: batches, as for `sparseflow.prune`.
        needed_us: returns the time to save, called while the model is dense.
        skip: patterns of layers that stay dense in any case.
        ms: the numbers of rows M of the calls that count.
        progress: progress bars on stderr; ``None``: only on a terminal.
        prune: prunes the model in place, given the batches and patterns to skip.

    Raises:
        ArgumentError: no layer was measured to be faster sparse here, or all together save too little; the
            model is dense then.
    """
    batches = list(calibration)
    data = Calibration.of(model, batches)
    needed = needed_us()
    layers = [layer for layer in find_layers(model, skip) if layer.dense is None]
    dense = {layer.name: state_of(layer) for layer in layers}
    done = {entry.name for entry in prune(batches, skip).layers if entry.method is not None}
    layers = [layer for layer in layers if layer.name in done]
    board = Switchboard(data, layers, {layer.name: dense[layer.name] for layer in layers})
    with progress_bars(progress) as bars:
        saved = savings(layers, ms, bars.stage("measure"))
        most = sum(saved.by_layer.values())
        if saved.unit != "µs" or most < needed:
            board.prune_only(())
            raise _too_slow(saved.unit, most, needed)
        alone = board.alone(bars.stage("weigh"))
    names = list(alone)
    # Layers that stay dense cost what they would have saved, and are worth the loss that they avoid.
    costs, worths = [saved.by_layer[name] for name in names], [alone[name] for name in names]
    kept = {names[item] for item in best_within(costs, worths, most - needed)}
    kept |= {name for name in names if not saved.by_layer[name]}
    chosen = done - kept
    board.prune_only(())
    board.released()
    report = prune(batches, [*skip, *map(escape, kept)])
    loss = board.loss()
    return SpeedChoice(report, sum(saved.by_layer[name] for name in chosen), most, loss, board.unit)


def _too_slow(unit: str, most: float, needed: float) -> ArgumentError:
    subject = "sf.sparsify(target_speedup=…)"
    if unit != "µs":
        rule = "no layer was measured to be faster sparse on this machine"
        return ArgumentError(subject, rule, "on a GPU call sf.tune(model) first, or pass max_loss=…")
    rule = f"all layers together save {most:.0f} µs, and {needed:.0f} are needed"
    return ArgumentError(subject, rule, "ask for less, or for other ms=…")
