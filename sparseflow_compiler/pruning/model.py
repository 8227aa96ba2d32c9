"""`sparseflow.prune`: the linear layers of a whole model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import nn

from sparseflow.api.options import DEFAULT_SKIP, require_one_of, require_patterns
from sparseflow.api.progress import progress_bars
from sparseflow.errors import ArgumentError
from sparseflow.pruning.budget import DEFAULT_MAX_LOSS, DEFAULT_ROWS, prune_within
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.layers import find_layers
from sparseflow.pruning.pruner import Method, Pruner
from sparseflow.pruning.report import PrunedLayer, PruneReport
from sparseflow.pruning.schedule import prune_by_stages
from sparseflow.runtime import checks

Pattern = Literal["2:4"]


def prune(
    model: nn.Module,
    method: Method = "magnitude",
    calibration: Iterable[Any] | None = None,
    *,
    skip: Sequence[str] | Literal["auto"] = DEFAULT_SKIP,
    max_loss: float | None = None,
    rows: Sequence[int] = DEFAULT_ROWS,
    pattern: Pattern = "2:4",
    damping: float = 0.01,
    block: int = 128,
    progress: bool | None = None,
) -> PruneReport:
    """Prune a model's linear layers in place: at most two of every four weights along K stay nonzero.

    `nn.Linear` and transformers' Conv1D are pruned. With calibration data the layers of one block (a decoder
    layer, say) are pruned from the inputs that reach them when all earlier blocks are pruned already. Rows at
    padding count like others: calibrate on texts without padding where you can.

    Args:
        model: on any device; in evaluation mode where it is calibrated.
        method: ``"magnitude"`` keeps the largest weights; ``"wanda"`` those with the largest products with
            the calibration's activations; ``"sparsegpt"`` updates the kept weights too, so that they make up
            for the pruned ones. The latter two need calibration data.
        calibration: batches to run the model on: each a tensor (the first positional input), a tuple
            (positional inputs) or a mapping (keyword inputs). They are all held in memory, and so are the
            inputs of one block for all of them, on the model's device. With ``"magnitude"`` they serve to
            report the error of the outputs.
        skip: fnmatch patterns over layer names that stay dense; replaces `DEFAULT_SKIP`. ``"auto"``:
            `DEFAULT_SKIP`, and ``max_loss=0.05`` where none is given.
        max_loss: leave dense what the model can least do without, weighed against the time that each layer
            saves, until pruning costs at most so much on the calibration batches: nats a token of KL from the
            dense model for a model with logits, else 1 − cosine of its output. Gives a `BudgetReport`.
        rows: the M's (tokens in a call) at which those times count.
        pattern: ``"2:4"`` is the only one.
        damping: SparseGPT's: what is added to the diagonal of XᵀX, as a share of its mean.
        block: SparseGPT's: columns between two updates of the columns after them; a multiple of 4.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Returns:
        What became of each linear layer. Layers that no batch reaches stay dense, and the report says so.

    Raises:
        ArgumentError: an option has a wrong value, calibration data is missing, or a weight has no data.
        WeightError: a weight holds NaN or Inf; nothing was pruned.
        InferenceOnlyError: the model is to be calibrated in training mode; nothing was pruned.
        CalibrationError: the model refuses a batch, or a layer's inputs hold NaN or Inf. Blocks before that
            layer may be pruned by then, the others are untouched.
    """
    if max_loss is not None or skip == "auto":
        again: dict[str, Any] = {"pattern": pattern, "damping": damping, "block": block, "progress": progress}
        _check(model, method, calibration, DEFAULT_SKIP if skip == "auto" else skip, pattern, damping, block)
        return prune_within(
            model,
            calibration,
            DEFAULT_MAX_LOSS if max_loss is None else max_loss,
            DEFAULT_SKIP if isinstance(skip, str) else skip,
            rows,
            progress,
            lambda batches, skipped: prune(model, method, batches, skip=skipped, **again),
        )
    _check(model, method, calibration, skip, pattern, damping, block)
    layers = find_layers(model, skip)
    chosen = [layer for layer in layers if layer.dense is None]
    for layer in chosen:
        checks.require_data(layer.weight, f"layer {layer.name}")
        checks.require_finite(layer.weight, f"layer {layer.name}")
    data = None if calibration is None else Calibration.of(model, calibration)
    with progress_bars(progress) as bars, torch.no_grad():
        pruner = Pruner(method, damping, block, len(chosen), bars.stage("prune"))
        if data is None:
            for layer in chosen:
                pruner.prune_uncalibrated(layer)
            notes: list[str] = []
        else:
            notes = prune_by_stages(data, chosen, pruner)
    outcomes = tuple(pruner.outcome(layer) for layer in layers)
    return PruneReport(outcomes, (*notes, *_scarce(outcomes)))


def _scarce(outcomes: Sequence[PrunedLayer]) -> list[str]:
    """A note where SparseGPT had fewer rows than unknowns, so that damping alone settles the rest."""
    few = [layer for layer in outcomes if layer.method == "sparsegpt" and layer.rows < layer.K]
    if not few:
        return []
    worst = min(few, key=lambda layer: layer.rows / layer.K)
    return [
        f"{len(few)} layers saw fewer calibration rows than they have inputs "
        f"({worst.name}: {worst.rows} rows, K={worst.K}): calibrate on more."
    ]


def _check(
    model: object,
    method: object,
    calibration: object,
    skip: object,
    pattern: object,
    damping: float,
    block: int,
) -> None:
    if not isinstance(model, nn.Module):
        rule = f"model must be a torch.nn.Module, not {type(model).__name__}"
        raise ArgumentError("sf.prune(model)", rule, "wrap it in one")
    require_one_of("prune", "method", method, get_args(Method))
    require_one_of("prune", "pattern", pattern, get_args(Pattern))
    require_patterns("prune", skip)
    if not (isinstance(damping, (int, float)) and math.isfinite(damping) and damping >= 0):
        raise ArgumentError(f"sf.prune(damping={damping!r})", "must be a finite number ≥ 0", "try 0.01")
    if not (isinstance(block, int) and block > 0 and block % 4 == 0):
        raise ArgumentError(f"sf.prune(block={block!r})", "must be a positive multiple of 4", "try 128")
    if calibration is None and method != "magnitude":
        raise ArgumentError(
            f"sf.prune(method={method!r})",
            "needs calibration data, and calibration is None",
            "pass calibration=[…], some tens of typical batches; method='magnitude' needs none",
        )
