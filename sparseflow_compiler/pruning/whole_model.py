"""`sparseflow.prune`: the linear layers of a whole model."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Literal

import torch
from torch import nn

from sparseflow.errors import ArgumentError, QualityWarning
from sparseflow.pruning.budget import DEFAULT_MAX_LOSS, DEFAULT_ROWS, prune_within
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.methods import METHODS
from sparseflow.pruning.permutation import assignment_available
from sparseflow.pruning.prune_options import Method, Pattern, PruneOptions, Reconstruct, Unreached
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.pruning.pruner import Pruner
from sparseflow.pruning.resuming import Checkpoint, fingerprint
from sparseflow.pruning.schedule import prune_by_stages
from sparseflow.runtime import checks
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.arguments import require_matches, require_patterns
from sparseflow.support.progress import progress_bars

FEW_ROWS = 256
"""Norms of activations, which Wanda and RIA use, are rough from fewer rows."""


def prune(
    model: nn.Module,
    method: Method = "magnitude",
    calibration: Iterable[object] | None = None,
    *,
    skip: Sequence[str] | Literal["auto"] = (),
    skip_defaults: bool = True,
    max_loss: float | None = None,
    rows: Sequence[int] = DEFAULT_ROWS,
    pattern: Pattern = "2:4",
    damping: float = 0.01,
    block: int = 128,
    reconstruct: Reconstruct | None = None,
    steps: int = 300,
    permute: bool = False,
    unreached: Unreached = "dense",
    device: str | torch.device | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> PruneReport:
    """Prune a model's linear layers in place: at most two of every four weights along K stay nonzero.

    `nn.Linear` and transformers' Conv1D are pruned, and `out_proj` of `nn.MultiheadAttention`; its
    `in_proj_weight` and weights that several modules share stay as they are. With calibration data the layers
    of one block (a decoder layer, say) are pruned from the inputs that reach them when all earlier blocks are
    pruned already. Rows at padding count like others: calibrate on texts without padding where you can.

    Args:
        model: on any device; in evaluation mode where it is calibrated.
        method: ``"magnitude"`` keeps the largest weights; ``"wanda"`` those with the largest products with
            the calibration's activations; ``"ria"`` does so for weights relative to their row and column;
            ``"sparsegpt"`` updates the kept weights too, so that they make up for the pruned ones. All but
            the first need calibration data.
        calibration: batches to run the model on: each a tensor (the first positional input), a tuple
            (positional inputs) or a mapping (keyword inputs). They are all held in memory, and so are the
            inputs of one block for all of them, where the model is. With ``"magnitude"`` they serve to
            report the error of the outputs.
        skip: fnmatch patterns over layer names that stay dense, besides those of `DEFAULT_SKIP`. ``"auto"``:
            `DEFAULT_SKIP`, and ``max_loss=0.05`` where none is given.
        skip_defaults: ``False`` leaves `DEFAULT_SKIP` out.
        max_loss: leave dense what the model can least do without, weighed against the time that each layer
            saves, until pruning costs at most so much on the calibration batches: nats a token of KL from the
            dense model for a model with logits, else 1 − cosine of its output. Gives a `BudgetReport`.
        rows: the M's (tokens in a call) at which those times count.
        pattern: ``"2:4"`` is the only one.
        damping: what is added to the diagonal of XᵀX, as a share of its mean, by SparseGPT; the least of it
            in a reconstruction.
        block: SparseGPT's: columns between two updates of the columns after them; a multiple of 4.
        reconstruct: ``"layer"`` prunes the layers of a block one after the other, each as the weights whose
            outputs in the pruned model come closest to the dense layer's in the dense model, by least squares
            before and after the method has chosen which to keep. ``"attention"``, ``"mlp"`` (what is not
            attention) and ``"block"`` then train the kept weights and biases of those layers by Adam until
            the outputs of the attention or of the block come closer to the dense ones too.
        steps: Adam's, on one batch each.
        permute: permute the input channels of layers in blocks so that less is lost (as RIA does), and the
            layers that write them with them, so that the model computes the same. Where that isn't proved
            for a layer's block, its channels stay, and the report says so.
        unreached: ``"dense"`` leaves layers that no batch reaches as they are, ``"magnitude"``
            prunes them by it.
        device: where to run and prune the blocks, one at a time; the model and the activations stay where
            they are. ``None``: there too.
        checkpoint: a folder that is given each block's weights as they are done; the same call on the same
            dense model goes on from there after a kill, to the same bits.
        seed: of the order of the batches in training. Results repeat on the same machine.
        progress: a progress bar on stderr; ``None``: only on a terminal.

    Returns:
        What became of each linear layer.

    Raises:
        ArgumentError: an option has a wrong value, calibration data is missing, a weight has no data, or
            the checkpoint is another run's.
        WeightError: a weight holds NaN or Inf; nothing was pruned.
        InferenceOnlyError: the model is to be calibrated in training mode; nothing was pruned.
        CalibrationError: the model refuses a batch, a layer's inputs hold NaN or Inf, or the device's memory
            is too small. Blocks before that layer may be pruned by then, the others are untouched.
    """
    require_uncompiled(model, "sf.prune(model)")
    if not isinstance(model, nn.Module):
        rule = f"model must be a torch.nn.Module, not {type(model).__name__}"
        raise ArgumentError("sf.prune(model)", rule, "wrap it in one")
    if not isinstance(skip, str):
        require_patterns("prune", skip)
        require_matches("prune", skip, model)
    options = PruneOptions(
        method,
        () if isinstance(skip, str) and skip == "auto" else skip,
        skip_defaults,
        pattern,
        damping,
        block,
        reconstruct,
        steps,
        permute,
        unreached,
        device,
        checkpoint,
        seed,
    )
    if max_loss is not None or skip == "auto":
        options.require_budgetable()
        again = {
            f.name: getattr(options, f.name)
            for f in fields(options)
            if f.name not in ("method", "skip", "skip_defaults")
        }
        return prune_within(
            model,
            calibration,
            DEFAULT_MAX_LOSS if max_loss is None else max_loss,
            options.skipped,
            rows,
            progress,
            lambda batches, skipped: prune(
                model, method, batches, skip=skipped, skip_defaults=False, progress=progress, **again
            ),
        )
    return _pruned(model, calibration, options, progress)


def _pruned(
    model: nn.Module, calibration: Iterable[object] | None, options: PruneOptions, progress: bool | None
) -> PruneReport:
    """Prune every layer that the options don't skip."""
    if calibration is None:
        options.require_calibration()
    layers = find_layers(model, options.skipped)
    chosen = [layer for layer in layers if layer.dense is None]
    for layer in chosen:
        checks.require_data(layer.weight, f"layer {layer.name}")
        checks.require_finite(layer.weight, f"layer {layer.name}")
    data = None if calibration is None else Calibration.of(model, calibration)
    with progress_bars(progress) as bars, torch.no_grad():
        store = None
        if data is not None and options.checkpoint is not None:
            store = Checkpoint(options.checkpoint, fingerprint(model, data, layers, options))
        free = [layer for layer in find_layers(model, ()) if layer.dense is None] if options.permute else []
        pruner = Pruner(options, len(chosen), bars.stage("prune"), free, store)
        if data is None:
            for layer in chosen:
                pruner.prune_uncalibrated(layer)
            notes: list[str] = []
        else:
            notes = prune_by_stages(data, chosen, pruner, options)
    outcomes = tuple(pruner.outcome(layer) for layer in layers)
    scarce = _scarce(outcomes, options)
    for note in scarce:
        warnings.warn(note, QualityWarning, stacklevel=3)
    return PruneReport(outcomes, (*notes, *scarce, *_shortcomings(outcomes, options, pruner.undrifted)))


def _scarce(outcomes: Sequence[PrunedLayer], options: PruneOptions) -> list[str]:
    """Return notes on layers with fewer calibration rows than XᵀX has unknowns."""
    if METHODS[options.method].needs == "nothing" and not options.gram:
        return []
    few = [
        layer
        for layer in outcomes
        if layer.rows and layer.rows < (layer.K if options.gram else min(layer.K, FEW_ROWS))
    ]
    if not few:
        return []
    worst = min(few, key=lambda layer: layer.rows / layer.K)
    least = "they have inputs" if options.gram else f"{FEW_ROWS} and than they have inputs"
    return [
        f"{len(few)} layers saw fewer calibration rows than {least} "
        f"({worst.name}: {worst.rows} rows, K={worst.K}): calibrate on more."
    ]


def _shortcomings(
    outcomes: Sequence[PrunedLayer], options: PruneOptions, undrifted: Sequence[str]
) -> list[str]:
    """Return notes on requested options that couldn't be applied."""
    notes = []
    kept = [layer.name for layer in outcomes if layer.method and not layer.permuted]
    if options.permute and kept:
        notes.append(
            f"The input channels of {len(kept)} layers stay in their order, for want of proof that other "
            f"layers can make up for another: {_some(kept)}."
        )
    if options.permute and not assignment_available():
        notes.append("Channels were permuted without assignments, which need scipy: pip install scipy.")
    if undrifted:
        notes.append(
            f"{len(undrifted)} layers were reconstructed from the pruned model's inputs alone, being outside "
            f"of blocks or seeing other rows in the dense model: {_some(undrifted)}."
        )
    return notes


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
