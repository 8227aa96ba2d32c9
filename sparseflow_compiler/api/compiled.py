"""The compiled model: one callable over as many captured programs as its calls need."""

from __future__ import annotations

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
from sparseflow.execution.generation import Generator
from sparseflow.frontend.exclusive import COMPILING, is_captured, is_tracing
from sparseflow.frontend.state.compiled_parts import eager_forward, own_forward
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.lowered import LoweredCall

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program
    from sparseflow.execution.comparison import Compared
    from sparseflow.execution.warmup import Call, Sizes
    from sparseflow.runtime.calling.carried import State
    from sparseflow.runtime.calling.structure import Flat


class CompiledModel(Inspected):
    """What `sparseflow.compile` returns: called like the model it was made from.

    The first call captures the model; a later call is served by a captured program unless none accepts its
    inputs (torch.export specialises sizes 0 and 1 and everything that is not a tensor), in which case another
    program is captured over the same packed weights. Attributes that this class doesn't have are the model's.

    Inference only: a model in training mode and inputs that require gradients are refused.

    Args:
        model: the model.
        options: of the compilation.
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

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the model. Arguments and result are those of the model's own forward.

        Raises:
            InferenceOnlyError: an input requires gradients, or the model is in training mode.
            CaptureError: torch.export can't capture the model for these inputs.
        """
        if is_tracing():
            return self._inlined(args, kwargs)
        self._see_changes()
        repeated = None if self._model.training else self._programs.repeated.find(args, kwargs)
        if repeated is not None:
            known, values, leaves = repeated
            return known.run(values, leaves)
        program, call, state = self._programs.serving(args, kwargs, self._check_inference)
        results = program.executable.results(call)
        output = program.executable.output(results, call)
        if state is not None:
            self._programs.carried.write(state)
        else:
            self._programs.repeated.learn(args, kwargs, call, program.executable, results, output)
        return output

    def refresh(self) -> None:
        """Forget what was captured, so that the next call sees the model as it is now.

        Weights that were exchanged or written in place, other submodules, hooks, flags and configurations are
        seen without it. What forward reads besides is as it was when a program was captured.

        Raises:
            ArgumentError: the original weights were released as they were packed.
        """
        self._programs.require_originals("refresh()")
        with COMPILING:
            self._programs.forget()
            self._compared, self._not_compared = {}, ""
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
        """Where the model is."""
        return device_of(self._model)

    @property
    def generator(self) -> Generator:
        """What `generate` runs, to be measured."""
        return self._generator

    def generate(self, *args: object, **kwargs: object) -> Any:
        """Transformers' `generate`, with every forward run by the compiled model.

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

        With example inputs the model is called with them, as often as it takes; what it writes in place, such
        as a cache, it writes. With sizes instead, inputs of a transformers model are made for every pair.

        Then these calls are timed beside the dense model, run in the same way; the report has both figures,
        and a ``SlowerWarning`` names those that lose more than 2%. Not so for a model whose dense weights
        were released, and for one that writes its state, which further calls would change: the report says
        so.

        Args:
            args: example inputs.
            batch: numbers of sequences or images.
            seq: numbers of tokens.
            decode: for a causal language model warm `generate`, prefill and decoding, not the plain call.
            padded: whether batches to generate for will be left-padded.
            generate: options that the calls of `generate` will have, such as ``max_new_tokens`` and
                ``cache_implementation``: a static cache of another length needs another program.
            inputs: names of the inputs that plain calls will have, such as ``attention_mask``.
            compare: whether to time the dense model too: seconds a call, and with inductor its compilation.
            kwargs: example keyword inputs.

        Raises:
            ArgumentError: sizes that are none, sizes and example inputs together, or a model for which inputs
                can't be made.
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
            warmup.repeat(call, self, self.device)
        if compare:
            self._compare(calls, written=bool(args or kwargs))

    def _compare(self, calls: Sequence[Call], *, written: bool) -> None:
        """Time calls beside the dense model.

        Args:
            calls: that are warm.
            written: whether what programs write is an input of these calls.
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
        self._compared |= {one.call: one for one in found}
        warn_of_losses(type(self._model).__name__, found, self.device)

    def _why_not_compared(self, written: bool) -> str:
        """Why the dense model can't be timed; empty if it can."""
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

        It holds the MLIR, the torch.fx programs as data, the packed weights as safetensors, report and
        policies; of a transformers model that generates also its configuration and that of `generate`. An
        artifact of that name is replaced.

        Args:
            path: the folder; the one above must exist.
            tokenizer: of transformers, to be saved with it.

        Raises:
            ArgumentError: `tokenizer` is something else.
            CaptureError: nothing was captured yet.
            ArtifactError: something else is there, or the model's calls or operators can't be saved.
        """
        from sparseflow.api.save import save
        from sparseflow.integrations.transformers import saved

        self._programs.captured(0)
        if places := self._programs.carried.places:
            raise ArtifactError(
                self._subject,
                f"forward keeps {places[0].path} for the next call; artifacts hold no state",
                "keep it in a buffer, or pass it as an argument and return it",
            )
        documents, files = saved.documents(self._model), saved.tokenizer_files(tokenizer)
        name = type(self._model).__name__
        save(path, name, self.device, self._programs.all, self.report, documents, files)

    def part(self, name: str, function: Callable[..., object]) -> CompiledModel:
        """A function of the model, compiled beside its forward over the same weights."""
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
        """Start anew where the user exchanged or wrote what the programs have copies of."""
        if (changed := self._programs.changed()) is not None:
            self._programs.require_originals(f"{changed} was changed")
            self.refresh()

    def _inlined(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> object:
        """The eager model's result, where another model that calls this one is being captured.

        Raises:
            CaptureError: the eager model computes something else, or is the one that is being captured.
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
        """The eager model, for a capture of a model that this one is part of.

        Raises:
            CaptureError: it computes something else than this, or its weights are gone.
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
        """Whether this was compiled from `model`."""
        return self._model is model

    @property
    def replaced_forward(self) -> object:
        """The `forward` that the model had as an attribute when it was compiled, if any."""
        return self._replaced_forward

    def _check_inference(self, call: Flat) -> None:
        if self._model.training:
            raise InferenceOnlyError(
                self._subject,
                "the model is in training mode, and compiling is for inference only",
                "call model.eval()",
            )
        self.require_no_gradients(call.leaves)
