"""`sparseflow.recover`: win back what pruning took, without data."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.utils._triton import has_triton

from sparseflow.errors import ArgumentError, InferenceOnlyError
from sparseflow.finetune.compiled_blocks import compiled_blocks
from sparseflow.finetune.left_out import LeftOut
from sparseflow.finetune.logit_divergence import compiled_divergence
from sparseflow.finetune.masks import Masks
from sparseflow.finetune.objective import Objective
from sparseflow.finetune.optimizers import Kind, make_optimizer
from sparseflow.finetune.recovery_checkpoint import RecoveryFile, fingerprint
from sparseflow.finetune.recovery_options import RecoverOptions
from sparseflow.finetune.recovery_report import RecoverReport, Stop
from sparseflow.finetune.recovery_run import Clock, Recovery, full_precision, saved_rows
from sparseflow.finetune.recovery_text import Batches, Data, Sources, Text
from sparseflow.finetune.student import Pair
from sparseflow.finetune.teacher_states import TeacherStates
from sparseflow.integrations.transformers.argument_names import generates
from sparseflow.integrations.transformers.models import own_tokenizer
from sparseflow.integrations.transformers.own_text import Generate
from sparseflow.integrations.transformers.recomputing import recomputed_layers
from sparseflow.integrations.transformers.static_caches import without_cache
from sparseflow.integrations.transformers.whole_rows import whole_rows
from sparseflow.runtime.calling.frozen import require_uncompiled
from sparseflow.runtime.calling.inference import device_of
from sparseflow.support.grad_mode import require_gradients
from sparseflow.support.progress import progress_bars
from sparseflow.support.training_mode import trained_part

if TYPE_CHECKING:
    from sparseflow.contextual.activations.activation_thresholds import ActivationThresholds
    from sparseflow.integrations.transformers.types import PreTrainedTokenizerBase

WRITING = 0.3
"""The share of the minutes in which text is written, unless a number of tokens is."""
COMPILING_PAYS = 3.0
"""Minutes of training from which compiling the layers on a GPU pays."""
_LOGITS_COPIES = 4
"""Copies of a batch's logits in float32 that a step holds at a time."""


def recover(
    model: nn.Module,
    dense: nn.Module,
    minutes: float = 20.0,
    text: Text | None = None,
    *,
    activations: ActivationThresholds | None = None,
    text_share: float = 0.5,
    tokenizer: PreTrainedTokenizerBase | None = None,
    tokens: int | None = None,
    length: int = 512,
    steps: int | None = None,
    batch: int | None = None,
    micro: int | None = None,
    lr: float | None = None,
    objective: Objective | None = None,
    optimizer: Kind = "adamw",
    masters: bool = True,
    gradient_checkpointing: bool = False,
    compile_layers: bool | None = None,
    generate: Generate | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> RecoverReport:
    """Train a sparse model in place to predict what the dense one does, on text that the dense one writes.

    No data is needed. A causal language model answers messages that it writes itself in its chat template,
    and goes on from common first words; an encoder draws sentences from its masked-language-model head, or
    words from its vocabulary. Then the pruned model is distilled: KL from the dense model's predictions for a
    model with logits, hidden states and embeddings for an encoder. Every zero that pruning made stays zero,
    in whatever pattern it is; inputs below the thresholds of `activations` are left out while it learns. The
    model ends with the weights of the lowest held-out loss, that before the
    training included, so on held-out text it is never worse than it was.

    Args:
        model: pruned, or with thresholds, in evaluation mode; in 16 or 32 bits.
        dense: the model as it was, on the same device, in evaluation mode; unchanged.
        minutes: wall time for everything: writing, training, measuring. The last step and measurement are
            begun only if they will end within it, as far as the ones before tell.
        text: the user's own, to mix in: a text, a `pathlib.Path` to one, 1-d token ids, or a list of these
            (for an encoder one sentence each). Or batches as for `sparseflow.prune`, of any input: then
            nothing is written. They make a step each.
        activations: thresholds of the model's layers, which then needn't be pruned. Gradients pass as if
            every input were read. Each threshold follows its layer's inputs meanwhile, so that it leaves out
            the same share; at the end choose them anew, by
            ``sf.calibrate_activations(model, rate=activations)``.
        text_share: the share of rows that come from `text`; with 1 nothing is written.
        tokenizer: the dense model's; None reads it from the folder that the model was loaded from.
        tokens: how many to write; None: as many as 30% of the minutes allow.
        length: tokens in a row, and the most of a text.
        steps: the most updates; None: as many as the minutes allow. With `tokens` and `steps`, and minutes
            enough for both, results repeat with a seed on the same machine.
        batch: rows a step; None: 32 on a GPU, 4 on a CPU.
        micro: rows at once, whose gradients add up to a step; divides `batch`. None: as many as a quarter of
            the GPU's memory holds the logits of.
        lr: the highest learning rate, after a linear warm-up and before a cosine to zero; None: 3e-4 for up
            to 200M parameters, falling with the square root of their number, and where the loss is KL, times
            its value before the training over 0.3 nats, a third to four times.
        objective: what is minimised; None: as above.
        optimizer: ``"adamw"``; for big models ``"adamw-8bit"`` (bitsandbytes or torchao) or
            ``"adamw-offload"`` (torchao), on GPUs and if the library is installed.
        masters: train weights in 16 bits as float32, and round them at the end; without, small updates
            vanish, but memory is saved.
        gradient_checkpointing: recompute layers in the backward pass instead of keeping their activations.
        compile_layers: run the layers of both models by torch.compile, which takes half a minute and makes
            steps faster after it. None: on a GPU with Triton, if `COMPILING_PAYS` minutes are left to train.
        generate: writes in place of ``dense.generate``, with its arguments: ``compiled.generate`` of a
            compiled dense model where that is faster.
        checkpoint: a file that is written every two minutes: weights, optimiser, text and position. After an
            interruption the same call on the same models goes on from it, and its minutes go on too. A
            finished run is restored as it ended. Delete it when the model is saved.
        seed: of writing and of the order of rows.
        progress: progress bars on stderr; ``None``: only on a terminal.

    Returns:
        The held-out loss before and after, what was written and trained, and why it stopped.

    Raises:
        ArgumentError: an option has a wrong value, the models don't belong together, nothing is pruned, the
            text can't be read or written, or the call is within `torch.inference_mode`.
        InferenceOnlyError: a model is in training mode.
        MissingDependencyError: the optimiser's library isn't installed.
        FinetuneError: the loss is not finite, or there is too little text for the minutes.
        CheckpointError: the checkpoint can't be read or written.
    """
    options = RecoverOptions(
        minutes=minutes,
        text_share=text_share,
        tokens=tokens,
        length=length,
        steps=steps,
        batch=batch,
        micro=micro,
        lr=lr,
        objective=objective,
        optimizer=optimizer,
        masters=masters,
        gradient_checkpointing=gradient_checkpointing,
        compile_layers=compile_layers,
        seed=seed,
    )
    clock = Clock(minutes)
    require_gradients("sf.recover")
    _require_models(model, dense)
    masks, left_out = Masks.of_zeros(model, dense, required=not activations), LeftOut(model, activations)
    mark = fingerprint(model, dense, (options, left_out.thresholds))
    file = RecoveryFile(checkpoint, mark) if checkpoint is not None else None
    saved = file.read() if file is not None else None
    sources = Sources(dense, tokenizer or own_tokenizer(dense), text, text_share, length, generate)
    cuda = [device_of(model)] if device_of(model).type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng(cuda))
        bars = stack.enter_context(progress_bars(progress))
        torch.manual_seed(seed)
        data: Data | None = saved_rows(saved) if saved else None
        if data is None:
            data = sources.collect(tokens, lambda: WRITING * clock.allowed - clock.spent, bars.stage("write"))
        # Those that keep 8 bits round.
        kept = masks.held(updates_vanish=optimizer == "adamw")
        for context in (without_cache(model), without_cache(dense), kept, left_out.held()):
            stack.enter_context(context)
        if masters:
            stack.enter_context(full_precision(model))
        stack.enter_context(recomputed_layers(model, gradient_checkpointing))
        if data.whole:
            stack.enter_context(whole_rows(model, dense))
        if _compiles(options, device_of(model), clock.left):
            stack.enter_context(compiled_blocks(model, dense))
            stack.enter_context(compiled_divergence())
        run = _run(model, dense, masks, left_out, data, clock, options, file)
        if saved:
            run.restore(saved)
        else:
            run.at.writing = clock.spent / 60
            run.save_text()
        run.train(bars.stage("recover"))
    return _report(run, options, len(left_out))


def _run(
    model: nn.Module,
    dense: nn.Module,
    masks: Masks,
    left_out: LeftOut,
    data: Data,
    clock: Clock,
    options: RecoverOptions,
    file: RecoveryFile | None,
) -> Recovery:
    """Return the training, with what the options leave open chosen."""
    device = device_of(model)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not learning:
        raise ArgumentError("sf.recover(model)", "no parameter requires gradients", "requires_grad_(True)")
    size = sum(parameter.numel() for parameter in learning)
    lr = options.lr or 3e-4 * min(1.0, (2e8 / size) ** 0.5)
    batch, micro = _sizes(model, data, options)
    autocast = torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    # Asked for hidden states once, to see what it returns, transformers' models keep hooks for them.
    objective = options.objective or (Objective(kl=1.0) if generates(dense) else None)
    pair = Pair(model, dense, objective, autocast)
    made = make_optimizer(options.optimizer, learning, lr)
    with pair.precision():
        states = TeacherStates.of(dense, data, objective, _free_memory(device))
    return Recovery(
        pair,
        masks,
        left_out,
        data,
        made,
        clock,
        batch,
        micro,
        options.steps,
        options.seed,
        file,
        _why_unrecorded(data, options),
        states,
        rate_by_loss=options.lr is None and objective is not None and objective.kl > 0,
    )


def _why_unrecorded(data: Data, options: RecoverOptions) -> str:
    """Return why steps are not to be recorded as a CUDA graph; empty if they are."""
    if not data.alike:
        return "batches are of different shapes"
    return "layers are recomputed" if options.gradient_checkpointing else ""


def _compiles(options: RecoverOptions, device: torch.device, left: float) -> bool:
    """Return whether layers are to be compiled; recomputing is left to eager torch."""
    if options.compile_layers is not None:
        return options.compile_layers
    return (
        not options.gradient_checkpointing
        and device.type == "cuda"
        and has_triton()
        and left >= 60 * COMPILING_PAYS
    )


def _sizes(model: nn.Module, data: Data, options: RecoverOptions) -> tuple[int, int]:
    """Return rows a step and rows at once."""
    if isinstance(data, Batches):
        return options.batch or 1, 1
    device = device_of(model)
    batch = options.batch or options.micro or (32 if device.type == "cuda" else 4)
    if options.micro is not None:
        return batch, options.micro
    vocabulary = int(getattr(getattr(model, "config", None), "vocab_size", 0))
    row = max(1, options.length * vocabulary * 4 * _LOGITS_COPIES)
    free = _free_memory(device)
    most = max(1, free // 4 // row)
    return batch, max(part for part in range(1, batch + 1) if batch % part == 0 and part <= most)


def _free_memory(device: torch.device) -> int:
    """Return a GPU's free bytes, those included that torch keeps for later; of a CPU, a sensible share."""
    if device.type != "cuda":
        return 4 << 30
    torch.cuda.empty_cache()  # pruning and writing left it full
    return torch.cuda.mem_get_info(device)[0]


def _require_models(model: object, dense: object) -> None:
    for name, one in (("model", model), ("dense", dense)):
        require_uncompiled(one, f"sf.recover({name})")
        if not isinstance(one, nn.Module):
            raise ArgumentError(f"sf.recover({name})", f"must be a torch.nn.Module, not {type(one).__name__}")
        if (part := trained_part(one)) is not None:
            rule = f"{part or 'it'} is in training mode"
            raise InferenceOnlyError(f"sf.recover({name})", rule, f"{name}.eval()")
    mine, theirs = cast(nn.Module, model), cast(nn.Module, dense)
    if mine is theirs or next(mine.parameters(), None) is next(theirs.parameters(), None):
        raise ArgumentError(
            "sf.recover(dense)", "shares its weights with the pruned model", "copy.deepcopy(model) before"
        )
    if device_of(mine) != device_of(theirs):
        raise ArgumentError(
            "sf.recover(dense)", f"is on {device_of(theirs)}, the model on {device_of(mine)}", "move it"
        )


def _report(run: Recovery, options: RecoverOptions, left_out: int) -> RecoverReport:
    at, objective, data = run.at, run.pair.objective, run.data
    assert objective is not None, "the first look settled it"
    notes = list(data.notes)
    if run.recorded.refusal and device_of(run.student).type == "cuda":
        notes.append(f"Steps ran kernel by kernel, not as a CUDA graph: {run.recorded.refusal}.")
    if isinstance(run.states, str) and run.states:
        notes.append(f"The dense model ran over rows that it had read before: {run.states}.")
    if at.best >= at.looks[0].loss:
        notes.append("Training gained nothing on held-out text: the model has the weights that it had.")
    return RecoverReport(
        before=at.looks[0].loss,
        after=at.best,
        unit="nats a token" if objective.kl else "objective",
        looks=tuple(at.looks),
        tokens_written=data.written,
        tokens_given=data.given,
        tokens_trained=at.tokens,
        held_out=data.held,
        steps=at.step,
        minutes=run.clock.spent / 60,
        minutes_writing=at.writing,
        stopped=cast(Stop, at.stopped),
        masked=run.masks.layers,
        zeros=run.masks.zeros,
        left_out=left_out,
        objective=objective,
        lr=max(run.lrs),
        batch=run.batch,
        micro=run.micro,
        seed=options.seed,
        notes=tuple(notes),
    )
