"""The compiled model: one callable over all programs that its calls need."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sparseflow.api.inspected import Inspected
from sparseflow.api.programs import Programs
from sparseflow.api.view import Part
from sparseflow.compiler.bank import WeightBank
from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError, ArtifactError, CaptureError, InferenceOnlyError
from sparseflow.execution.dense_calls import DenseCalls, call_key
from sparseflow.execution.generation import Generator
from sparseflow.frontend.exclusive import COMPILING, is_captured, is_tracing
from sparseflow.frontend.state.compiled_parts import eager_forward, own_forward
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.lowered import LoweredCall

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program
    from sparseflow.execution.comparison import Compared, DenseModel
    from sparseflow.execution.warmup import Call, Sizes
    from sparseflow.runtime.calling.carried import State
    from sparseflow.runtime.calling.structure import Flat


class CompiledModel(Inspected):
    """The result of `sparseflow.compile`, called like the model that it was made from.

    The first call captures the model. A later call is served by a captured program unless none accepts its
    inputs (torch.export specialises sizes 0 and 1 and everything that is not a tensor); then another program
    is captured over the same packed weights. Attributes that this class doesn't have are the model's.

    It is for inference only: models in training mode and inputs that require gradients are refused.

    Args:
        model: the model.
        options: the options of the compilation.
        bank: weights shared with other compiled models; by default its own.
    """

    def __init__(self, model: nn.Module, options: CompileOptions, bank: WeightBank | None = None) -> None:
        super().__init__(model)
        self._options = options
        self._programs = Programs(model, self._subject, options, bank)
        self._replaced_forward = vars(model).get("forward")
        self._generator = Generator(model, self.part, self.forward, self.lowered, options.execution)
        self._compared: dict[str, Compared] = {}
        self._not_compared = ""
        self._dense_calls = DenseCalls()

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the model, with the arguments and the result of the model's own forward.

        Raises:
            InferenceOnlyError: an input requires gradients, or the model is in training mode.
            CaptureError: torch.export can't capture the model for these inputs.
        """
        if is_tracing():
            return self._inlined(args, kwargs)
        if not self._model.training:  # else the call is refused, and the programs are for when that is over
            self._see_changes()
            if self._dense_calls and (dense := self._dense_calls.find(args, kwargs)) is not None:
                return self._run_dense(dense, args, kwargs)
        repeated = None if self._model.training else self._programs.repeated.find(args, kwargs)
        if repeated is not None:
            known, values, leaves = repeated
            return known.run(values, leaves)
        program, call, state = self._programs.serving(args, kwargs, self._check_inference)
        results = program.executable.results(call)
        output = program.executable.output(results, call)
        if state is not None:
            self._programs.carried.write(state)
        elif program.captured.ambient.gradients is None:  # else more than arguments decide
            self._programs.repeated.learn(args, kwargs, call, program.executable, results, output)
        return output

    def refresh(self) -> None:
        """Drop all captured programs, so that the next call captures the model as it is now.

        It isn't needed after weights were replaced or written in place, or submodules, hooks, flags and
        configurations changed: those are noticed. Anything else that forward reads stays as it was when a
        program was captured.

        Raises:
            ArgumentError: the original weights were released when they were packed.
        """
        self._programs.require_originals("refresh()")
        with COMPILING:
            self._programs.forget()
            self._compared, self._not_compared, self._dense_calls = {}, "", DenseCalls()
            self._parts.clear()
            self._generator.forget()

    def capture(self, *args: object, **kwargs: object) -> None:
        """Capture and compile for inputs like these without running them."""
        self._ready(args, kwargs)

    def lowered(self, *args: object, **kwargs: object) -> LoweredCall:
        """Return the graph that serves a call, to be run as a part of another.

        Raises:
            CaptureError: the model can't be captured for these inputs, or its calls change it.
        """
        program, call, state = self._ready(args, kwargs)
        signature = program.executable.signature
        if state is not None or signature.outputs.updates:
            rule = "the call replaces attributes of the model or of its arguments"
            raise CaptureError(self._subject, rule, "pass a static cache")
        return LoweredCall(program.graph, signature, call)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return device_of(self._model)

    @property
    def generator(self) -> Generator:
        """The generator behind `generate`, for benchmarks."""
        return self._generator

    def generate(self, *args: object, **kwargs: object) -> Any:
        """Run transformers' `generate`, with every forward run by the compiled model.

        Raises:
            ArgumentError: the model has no `generate`.
        """
        return self._generator.generate(*args, **kwargs)

    def warmup(
        self,
        *args: object,
        batch: Sizes | None = None,
        seq: Sizes | None = None,
        decode: bool = True,
        padded: bool = False,
        generate: Mapping[str, object] | None = None,
        inputs: Sequence[str] = ("input_ids",),
        compare: bool = True,
        **kwargs: object,
    ) -> None:
        """Capture, compile, build plans and record CUDA graphs ahead, for calls of these sizes.

        With example inputs, the model is called with them as often as needed; what it writes in place, such
        as a cache, is written. With sizes, inputs of a transformers model are made for every pair.

        The calls are then timed in turns with the dense model, run in the same way, and the report has both
        figures. A call that loses more than 2%, measured twice, is served by the dense model from then on,
        with any inputs of the same sizes, if the options leave the choice to measurements; the report says
        so. A ``SlowerWarning`` names other calls that lose: those of `generate`, and those whose options ask
        for a sparse weight or for other numbers. All this is left out, and the report says so, if the dense
        weights were released, or if the model writes state that further calls would change.

        Args:
            args: example inputs.
            batch: numbers of sequences or images.
            seq: numbers of tokens.
            decode: for a causal language model, warm `generate` up, both prefill and decoding, instead of a
                plain call.
            padded: whether batches to generate for will be left-padded.
            generate: options that the calls of `generate` will have, such as ``max_new_tokens`` and
                ``cache_implementation``; a static cache of another length needs another program.
            inputs: names of the inputs that plain calls will have, such as ``attention_mask``.
            compare: whether to time the dense model too; it takes seconds for each call and, with inductor,
                its compilation.
            kwargs: example keyword inputs.

        Raises:
            ArgumentError: a size is wrong, sizes and example inputs are both given, or inputs can't be made
                for the model.
        """
        from sparseflow.execution import warmup
        from sparseflow.integrations.transformers.argument_names import generates

        if args or kwargs:
            if batch is not None or seq is not None:
                raise ArgumentError("warmup", "takes sizes or example inputs, not both")
            calls = [warmup.example_call(args, kwargs)]
        else:
            sized = warmup.calls(self._model, batch, seq, inputs)
            generating = decode and generates(self._model)
            calls = [
                warmup.generate_call(call, generate or {}, padded) if generating else warmup.plain_call(call)
                for call in sized
            ]
        for call in calls:
            if call.arguments is not None:
                self._dense_calls.forget(call_key(*call.arguments))  # to be measured anew
            warmup.repeat(call, self, self.device)
        if compare:
            self._compare(calls, written=bool(args or kwargs))

    def _compare(self, calls: Sequence[Call], *, written: bool) -> None:
        """Time calls in turns with the dense model.

        Args:
            calls: calls that are warmed up.
            written: whether the programs write to inputs of these calls.
        """
        from sparseflow.execution.comparison import DenseModel, compare, failure, warn_of_losses

        self._not_compared = self._why_not_compared(written)
        if self._not_compared:
            return
        forward = eager_forward(self._model)
        dense = DenseModel(self.model_behind, forward, self.device, self._options.execution)
        self._not_compared = failure(calls, dense)
        if self._not_compared:
            return
        found = compare(calls, self, dense, self.device)
        if self._options.chooses_by_speed and not self._programs.ask_for_gradients:
            found = self._with_the_faster(calls, found, dense)
        self._compared |= {one.call: one for one in found}
        warn_of_losses(type(self._model).__name__, found, self.device)

    def _with_the_faster(
        self, calls: Sequence[Call], found: Sequence[Compared], dense: DenseModel
    ) -> list[Compared]:
        """Let the dense model serve the plain calls that lose, and return what was found with that."""
        from sparseflow.execution.comparison import compare

        settled = []
        for call, one in zip(calls, found, strict=True):
            key = None if call.arguments is None else call_key(*call.arguments)
            if key is not None and one.loses:
                # A disturbance must not decide, which can only be seen by measuring once more.
                (one,) = compare([call], self, dense, self.device)
                if one.loses:
                    self._dense_calls.add(key, dense)
                    one = dataclasses.replace(one, runs_dense=True)
            settled.append(one)
        return settled

    def _run_dense(
        self, dense: Callable[..., object], args: Sequence[object], kwargs: Mapping[str, object]
    ) -> object:
        """Serve a call by the dense model, without gradients as programs run."""
        self.require_no_gradients((*args, *kwargs.values()))
        with torch.no_grad():
            return dense(*args, **kwargs)

    def _why_not_compared(self, written: bool) -> str:
        """Return why the dense model can't be timed; empty if it can."""
        if self._options.inplace:
            return "its dense weights were released (inplace=True)"
        if own_forward(self._model) is not vars(self._model).get("forward"):
            return "the model's own forward is the compiled one"
        if self._programs.carried.places or any(p.buffers for p in self._programs.all):
            return "it keeps state, which a call of the dense model would change"
        if written and any(p.changes_call for p in self._programs.all):
            return "it writes its inputs, which a call of the dense model would do once more"
        return ""

    def save(self, path: str | os.PathLike[str], *, tokenizer: object = None) -> None:
        """Write all programs captured so far to a folder, for `sparseflow.load`.

        The folder holds the MLIR, the torch.fx programs as data, the packed weights as safetensors, the
        report and the policies; for a transformers model that generates, also its configuration, that of
        `generate` and, if `generate` was called, the programs of its encoder. An artifact that is already
        there is replaced.

        Args:
            path: the folder; its parent must exist.
            tokenizer: a tokenizer of transformers to save with it.

        Raises:
            ArgumentError: `tokenizer` is something else.
            CaptureError: nothing was captured yet.
            ArtifactError: something other than an artifact is there, or the model's calls or operators can't
                be saved.
        """
        from sparseflow.api.save import save
        from sparseflow.integrations.transformers import saved
        from sparseflow.integrations.transformers.encoders import encoder_path

        self._programs.captured(0)
        documents, files = saved.documents(self._model), saved.tokenizer_files(tokenizer)
        beside = encoder_path(self._model)
        encoder = self._parts.get(beside)
        captured = [] if encoder is None else encoder._savable()
        parts = {beside: captured} if captured else {}
        name = type(self._model).__name__
        save(path, name, self.device, self._savable(), self.report, documents, files, parts)

    def _savable(self) -> list[Program]:
        """Return the programs, which hold no state.

        Raises:
            ArtifactError: forward keeps something for the next call.
        """
        if places := self._programs.carried.places:
            raise ArtifactError(
                self._subject,
                f"forward keeps {places[0].path} for the next call; artifacts hold no state",
                "keep it in a buffer, or pass it as an argument and return it",
            )
        return self._programs.all

    def part(self, name: str, function: Callable[..., object]) -> CompiledModel:
        """Return a function of the model, compiled beside its forward over the same weights."""
        self._see_changes()
        if name not in self._parts:
            part, bank = Part(self.model_behind, function), self._programs.bank
            self._parts[name] = CompiledModel(part, self._options, bank)
        return self._parts[name]

    def _ready(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Program, Flat, State | None]:
        self._see_changes()
        return self._programs.serving(args, kwargs, self._check_inference)

    def _see_changes(self) -> None:
        """Start over if the user replaced or wrote tensors that the programs have copies of."""
        if self._programs.changed() is None:
            return
        with COMPILING:
            # Another thread may have started over while this one waited.
            if (changed := self._programs.changed()) is not None:
                self._programs.require_originals(f"{changed} was changed")
                self.refresh()

    def _inlined(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        """Return the eager model's result while another model that calls this one is captured.

        Raises:
            CaptureError: the eager model computes something else, or is itself being captured.
        """
        if is_captured(self._model):
            raise CaptureError(
                self._subject,
                "the model calls its own compiled form, which calls the model, without end",
                "let hooks and forward call the eager model's parts",
            )
        return self.original(*args, **kwargs)

    @property
    def original(self) -> nn.Module:
        """The eager model, for capturing a model that this one is part of.

        Raises:
            CaptureError: it computes something else than this, or its weights were released.
        """
        options = self._options
        if (
            options.inplace
            or options.prune
            or options.format != CompileOptions.format
            or options.contextual is not None
        ):
            raise CaptureError(
                self._subject,
                "it is part of a model that is being compiled, and its own options change or release weights",
                "compile the outer model only, or leave out inplace, prune, format and contextual here",
            )
        return self.model_behind

    def runs(self, model: nn.Module) -> bool:
        """Return whether this was compiled from `model`."""
        return self._model is model

    @property
    def replaced_forward(self) -> object:
        """The `forward` that was an attribute of the model when it was compiled, if any."""
        return self._replaced_forward

    def _check_inference(self, call: Flat) -> None:
        if self._model.training:
            raise InferenceOnlyError(
                self._subject,
                "the model is in training mode, and compiling is for inference only",
                "call model.eval()",
            )
        self.require_no_gradients(call.leaves)
