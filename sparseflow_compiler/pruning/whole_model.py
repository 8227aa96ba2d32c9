"""`sparseflow.prune`: the linear layers of a whole model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Literal

import torch
from torch import nn

from sparseflow.errors import ArgumentError, QualityWarning
from sparseflow.pruning.budget import DEFAULT_MAX_LOSS, DEFAULT_MS, Budget, prune_within
from sparseflow.pruning.calibration import Calibration
from sparseflow.pruning.candidates import Chosen
from sparseflow.pruning.linear_layers import find_layers
from sparseflow.pruning.methods import METHODS
from sparseflow.pruning.permutation import assignment_available
from sparseflow.pruning.prune_options import DENSE, Method, Patterns, PruneOptions, Reconstruct, Unreached
from sparseflow.pruning.prune_report import PrunedLayer, PruneReport
from sparseflow.pruning.pruner import Pruner
from sparseflow.pruning.resuming import Checkpoint, fingerprint
from sparseflow.pruning.schedule import prune_by_stages
from sparseflow.runtime import checks
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.support.arguments import require_matches, require_patterns
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import progress_bars
from sparseflow.support.user_warnings import warn

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
    max_bytes: int | str | None = None,
    patterns: Sequence[str] | None = None,
    recovery: float = 1.0,
    ms: Sequence[int] = DEFAULT_MS,
    pattern: Patterns = "2:4",
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
    """Prune a model's linear layers in place: at most k of every n weights along K stay nonzero.

    `nn.Linear`, transformers' Conv1D and `out_proj` of `nn.MultiheadAttention` are pruned. `in_proj_weight`
    and weights that several modules share aren't. With calibration data the layers of a block, such as a
    decoder layer, are pruned from the inputs that reach them after all earlier blocks were pruned. Padding
    counts like other tokens, so calibrate on texts without padding if possible.

    Args:
        model: on any device; in evaluation mode if calibration data is given.
        method: ``"magnitude"`` keeps the largest weights; ``"wanda"`` those with the largest products with
            the calibration's activations; ``"ria"`` does so for weights relative to their row and column;
            ``"sparsegpt"`` updates the kept weights too, to compensate for the pruned ones. All but
            the first need calibration data.
        calibration: batches to run the model on: each a tensor (the first positional input), a tuple
            (positional inputs) or a mapping (keyword inputs). All batches, and the inputs of one block for
            all of them, are held in memory on the model's device. With ``"magnitude"`` they are only used to
            report output errors.
        skip: fnmatch patterns of layer names that stay dense, in addition to `DEFAULT_SKIP`. ``"auto"``
            stands for `DEFAULT_SKIP` and, without a budget, ``max_loss=0.05``.
        skip_defaults: ``False`` ignores `DEFAULT_SKIP`.
        max_loss: the greatest loss that pruning may cost on the calibration batches: KL from the dense model
            in nats per token for a model with logits, else 1 − cosine of its output. Each layer gets the
            pattern by which all together save most time within it. Returns a `BudgetReport`.
        max_bytes: the greatest size of the pruned layers' packed weights instead; each layer gets the pattern
            by which the model loses least within it. A pattern's name, such as ``"4:6"``, stands for the size
            of all of them in that pattern.
        patterns: what a budget chooses from for each layer; with ``"dense"`` a layer may also stay dense.
            ``None``: `pattern` and ``"dense"``.
        recovery: by what `sparseflow.recover` is expected to divide the loss afterwards; `max_loss` bounds
            what is left then.
        ms: the numbers of rows M (tokens in a call) at which the saved time counts.
        pattern: ``"2:4"`` keeps two of every four weights along K; ``"4:6"`` four of six and ``"6:8"`` six of
            eight, which cost the model less and save less. Further ones keep all but two of an even number
            up to 32, for which there is no packed format. A last, shorter block keeps as many at most. Or a
            mapping from fnmatch patterns of layer names to patterns or ``"dense"``: a layer's own name counts
            first, then the first that matches it; layers that none matches stay dense.
        damping: SparseGPT adds this share of the mean diagonal of XᵀX to its diagonal; a reconstruction adds
            at least as much.
        block: for SparseGPT the number of columns after which the remaining columns are updated, rounded
            down to whole blocks of the pattern; a multiple of 4.
        reconstruct: ``"layer"`` prunes the layers of a block one after the other. By least squares, before
            and after the method chooses which weights to keep, each layer's output in the pruned model is
            fitted to its output in the dense model. ``"attention"``, ``"mlp"`` (all but attention) and
            ``"block"`` then train the kept weights and biases of those layers with Adam to fit the outputs of
            the attention or of the block.
        steps: number of Adam's steps, each on one batch.
        permute: permute the input channels of layers in blocks to reduce the loss (as in RIA), together with
            the layers that produce them, so that the model computes the same. Channels stay, with a note in
            the report, if that can't be proved for a block.
        unreached: ``"dense"`` keeps layers that no batch reaches dense; ``"magnitude"`` prunes them by
            magnitude.
        device: where blocks run and are pruned, one at a time; the model and the activations stay on the
            model's device. ``None``: the model's device.
        checkpoint: a folder for the weights of finished blocks. After an interruption the same call on the
            same dense model resumes from it, with bit-identical results.
        seed: of the order of the batches in training. Results are reproducible on the same machine.
        progress: show a progress bar on stderr; ``None``: only on a terminal.

    Returns:
        The report, with one entry for each linear layer.

    Raises:
        ArgumentError: an option has a wrong value, calibration data is missing, a weight has no data, the
            checkpoint is another run's, or blocks are to be reconstructed within `torch.inference_mode`.
        WeightError: a weight holds NaN or Inf; nothing was pruned.
        InferenceOnlyError: the model is to be calibrated in training mode; nothing was pruned.
        CalibrationError: the model refuses a batch, a layer's inputs hold NaN or Inf, or the device's memory
            is too small. Earlier blocks may be pruned already; later ones are unchanged.
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
    if reconstruct == "block":
        require_gradients("sf.prune(reconstruct='block')")
    if isinstance(pattern, Mapping):
        require_matches("prune", pattern, model, option="pattern")
    if max_loss is None and max_bytes is None and skip == "auto":
        max_loss = DEFAULT_MAX_LOSS
    if max_loss is None and max_bytes is None:
        options.require_no_choice(patterns, recovery)
        return _pruned(model, calibration, options, progress)
    options.require_budgetable()
    again = {
        f.name: getattr(options, f.name)
        for f in fields(options)
        if f.name not in ("method", "skip", "skip_defaults", "pattern")
    }
    budget = Budget(max_loss, max_bytes, tuple(patterns or (str(pattern), DENSE)), recovery, tuple(ms))

    def prune_again(batches: Sequence[object], skipped: Sequence[str], given: str | Chosen) -> PruneReport:
        how = {"skip": skipped, "skip_defaults": False, "pattern": given, "progress": progress}
        return prune(model, method, batches, **how, **again)  # type: ignore[arg-type]

    return prune_within(model, calibration, budget, options.skipped, progress, prune_again)


def _pruned(
    model: nn.Module, calibration: Iterable[object] | None, options: PruneOptions, progress: bool | None
) -> PruneReport:
    """Prune every layer that the options don't skip."""
    if calibration is None:
        options.require_calibration()
    layers = options.layers(model)
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
        warn(note, QualityWarning)
    remarks = (*notes, *scarce, *_shortcomings(outcomes, options, pruner.undrifted))
    return PruneReport(outcomes, remarks, options.named)


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
            f"layers can make up for another, or as blocks of {options.named} don't divide them: "
            f"{_some(kept)}."
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
