"""The compiled model: one callable over as many captured programs as its calls need."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from sparseflow.api.view import ModelView, Part
from sparseflow.compiler.bank import WeightBank, release_parameter
from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError, ArtifactError, CaptureError, InferenceOnlyError, UnprunedWarning
from sparseflow.execution.generation import Generator
from sparseflow.frontend.exclusive import COMPILING, is_captured, is_tracing
from sparseflow.frontend.state.compiled_parts import eager_forward
from sparseflow.frontend.state.later import Held
from sparseflow.pruning.prunable import Prunable
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.carried import Carried
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.lowered import LoweredCall
from sparseflow.runtime.calling.structure import COUNTERS
from sparseflow.support.extras import require_compiler
from sparseflow.support.progress import progress_bars

if TYPE_CHECKING:
    from sparseflow.compiler.build import Program
    from sparseflow.execution.warmup import Sizes
    from sparseflow.reports.report import Report
    from sparseflow.runtime.calling.carried import State
    from sparseflow.runtime.calling.structure import Flat

Stage = Literal["torch", "sparse_gemm", "runtime"]

MAX_PROGRAMS = 32
"""Beyond this many programs something varies in every call that torch.export takes for a constant."""


def warn_of_dense_weights(model: str) -> None:
    """Say that compiling changes no weight, and what does."""
    warnings.warn(
        f"no weight of {model} is 2:4, so all of its layers run densely: prune it first, "
        "sf.prune(model, method, calibration), or compile with prune='magnitude', which costs more quality",
        UnprunedWarning,
        stacklevel=2,
    )


class CompiledModel(ModelView):
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
        self._shares_bank = bank is not None
        self._bank = bank or self._new_bank()
        self._held: Held | None = None
        self._programs: list[Program] = []
        self._captures: list[str] = []
        self._carried = Carried()
        self._replaced_forward = vars(model).get("forward")
        self._generator = Generator(model, self.part, self.forward, self.lowered, options.execution)
        self._call_signature = CallSignature.of(eager_forward(model))

    def forward(self, *args: object, **kwargs: object) -> Any:
        """Run the model. Arguments and result are those of the model's own forward.

        Raises:
            InferenceOnlyError: an input requires gradients, or the model is in training mode.
            CaptureError: torch.export can't capture the model for these inputs.
        """
        if is_tracing():
            return self._inlined(args, kwargs)
        program, call, state = self._ready(args, kwargs)
        if program.runner.inductor is not None:
            result = program.executable.run_flat(call)
        else:
            # Nothing requires gradients here; passing the autograd layer by saves half of an operator's
            # overhead.
            with torch._C._AutoDispatchBelowAutograd():
                result = program.executable.run_flat(call)
        if state is not None:
            self._carried.write(state)
        return result

    def refresh(self) -> None:
        """Forget what was captured, so that the next call sees the model as it is now.

        Weights that were exchanged or written in place, other submodules, hooks, flags and configurations are
        seen without it. What forward reads besides is as it was when a program was captured.

        Raises:
            ArgumentError: the original weights were released as they were packed.
        """
        self._require_originals("refresh()")
        with COMPILING:
            self._programs, self._captures, self._carried, self._held = [], [], Carried(), None
            self._parts.clear()
            self._generator.forget()
            if not self._shares_bank:
                self._bank = self._new_bank()

    def capture(self, *args: object, **kwargs: object) -> None:
        """Capture and compile for inputs like these without running them."""
        self._ready(args, kwargs)

    def lowered(self, *args: object, **kwargs: object) -> LoweredCall:
        """The graph that serves a call, to be run as a part of another.

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
    def report(self) -> Report:
        """Every linear layer with its decision and reason, as of the programs captured so far."""
        from sparseflow.compiler.costs import compilations
        from sparseflow.compiler.decisions import make_report

        programs = [p for model in (self, *self._parts.values()) for p in model._programs]
        report = make_report(type(self._model).__name__, programs, self._bank, self._options)
        report.model["captures"] = list(self._captures)
        for name, part in self._parts.items():
            report.model["captures"] += [f"{name}: {why}" for why in part._captures]
        report.model["compilations"] = compilations(programs)
        report.model["generate"] = dict(self._generator.notes)
        report.model["dense_methods"] = list(self.dense_methods)
        return report

    def mlir(self, stage: Stage = "sparse_gemm", *, program: int = 0) -> str:
        """The MLIR text of a captured program.

        Args:
            stage: ``"torch"`` as imported, ``"sparse_gemm"`` after matching and policy,
                ``"runtime"`` as executed.
            program: which program, in order of capture.
        """
        captured = self._captured(program)
        if stage not in captured.stages:
            raise ArgumentError(
                f"mlir(stage={stage!r})", f"stage must be one of {', '.join(map(repr, captured.stages))}"
            )
        return str(captured.stages[stage])

    def pipeline(self, *, program: int = 0) -> str:
        """The passes that made a captured program, with all that was measured and decided between them.

        ``sparseflow-opt --pass-pipeline`` makes ``mlir("runtime")`` of ``mlir("torch")`` by it.

        Args:
            program: which program, in order of capture.
        """
        from sparseflow.passes import format_pipeline
        from sparseflow.passes.phases import pipeline

        return format_pipeline(pipeline("runtime", self._captured(program).pipeline))

    def graph(self, *, program: int = 0) -> torch.fx.GraphModule:
        """The executable torch.fx graph of a captured program."""
        return self._captured(program).graph

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
        **kwargs: object,
    ) -> None:
        """Capture, compile, build plans and record CUDA graphs ahead, for calls of these sizes.

        With example inputs the model is called with them, as often as it takes; what it writes in place, such
        as a cache, it writes. With sizes instead, inputs of a transformers model are made for every pair.

        Args:
            args: example inputs.
            batch: numbers of sequences or images.
            seq: numbers of tokens.
            decode: for a causal language model warm `generate`, prefill and decoding, not the plain call.
            padded: whether batches to generate for will be left-padded.
            generate: options that the calls of `generate` will have, such as ``max_new_tokens`` and
                ``cache_implementation``: a static cache of another length needs another program.
            inputs: names of the inputs that plain calls will have, such as ``attention_mask``.
            kwargs: example keyword inputs.

        Raises:
            ArgumentError: sizes that are none, sizes and example inputs together, or a model for which inputs
                can't be made.
        """
        from sparseflow.execution import warmup
        from sparseflow.integrations.transformers.arguments import generates

        if args or kwargs:
            if batch is not None or seq is not None:
                raise ArgumentError("warmup", "takes sizes or example inputs, not both")
            warmup.repeat(functools.partial(self, *args, **kwargs), self.device)
            return
        for call in warmup.calls(self._model, batch, seq, inputs):
            if decode and generates(self._model):
                warmup.generate_calls(self.generate, call, generate or {}, padded)
            else:
                warmup.repeat(functools.partial(self, **call), self.device)

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

        self._captured(0)
        if self._carried.places:
            raise ArtifactError(
                self._subject,
                f"forward keeps {self._carried.places[0].path} for the next call; artifacts hold no state",
                "keep it in a buffer, or pass it as an argument and return it",
            )
        documents, files = saved.documents(self._model), saved.tokenizer_files(tokenizer)
        name = type(self._model).__name__
        save(path, name, self.device, self._programs, self.report, documents, files)

    def part(self, name: str, function: Callable[..., object]) -> CompiledModel:
        """A function of the model, compiled beside its forward over the same weights."""
        self._see_changes()
        if name not in self._parts:
            self._parts[name] = CompiledModel(Part(self.model_behind, function), self._options, self._bank)
        return self._parts[name]

    def extra_repr(self) -> str:
        """The model's class and the number of programs, for `repr`."""
        return f"{type(self._model).__name__}, programs={len(self._programs)}"

    def _captured(self, program: int) -> Program:
        if not self._programs:
            raise CaptureError(
                self._subject,
                "nothing was captured yet",
                "call the model once, or pass example inputs to sf.compile",
            )
        return self._programs[program]

    def _ready(
        self, args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> tuple[Program, Flat, State | None]:
        """A program for a call; the call taken apart; and the attributes of the model that it carries."""
        self._see_changes()
        while True:
            places, counters = self._carried.places, len(COUNTERS)
            state = self._carried.state()
            call = self._call_signature.flatten(args, kwargs, state)
            self._check_inference(call)
            program = self._program(call, args, kwargs)
            # A capture may have learnt what else is an input of its program: the call has more leaves then.
            if self._carried.places is places and len(COUNTERS) == counters:
                return program, call, state

    def _new_bank(self) -> WeightBank:
        release = functools.partial(release_parameter, self._model) if self._options.inplace else None
        prunable = functools.partial(Prunable.of, self._model)
        return WeightBank(prune=self._options.prune is not None, release=release, prunable=prunable)

    def _require_originals(self, subject: str) -> None:
        if self._options.inplace and self._programs:
            raise ArgumentError(
                f"{self._subject}, {subject}",
                "the model was compiled in place: its own weights were released as they were packed",
                "load the model again and compile that, or compile it without inplace=True",
            )

    def _see_changes(self) -> None:
        """Start anew where the user exchanged or wrote what the programs have copies of."""
        if self._held is None or self._held.is_as_it_was():
            return
        changed = self._held.what_changed()
        self._require_originals(f"{changed} was changed")
        self.refresh()

    def _program(self, call: Flat, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Program:
        for program in self._programs:
            if program.captured.accepts_flat(call) is None:
                return program
        with COMPILING:
            # Another thread may have captured it while this one waited.
            refusals = [program.captured.accepts_flat(call) for program in self._programs]
            if None in refusals:
                return self._programs[refusals.index(None)]
            self._check_program_count(refusals)
            return self._build(args, kwargs, refusals[-1] if refusals else None)

    def _build(self, args: tuple[object, ...], kwargs: Mapping[str, object], refusal: str | None) -> Program:
        require_compiler(self._subject)
        from sparseflow.compiler.build import build_program

        places = self._carried.places
        with progress_bars(self._options.progress) as progress:
            program = build_program(
                self._model, args, kwargs, self._options, self._bank, progress, self._carried
            )
        if program.unpruned and not self._programs and not self._bank.told_of_no_pruning:
            self._bank.told_of_no_pruning = True
            warn_of_dense_weights(type(self._model).__name__)
        if self._carried.places is not places:  # the programs so far don't know of them
            self._programs, self._captures = [], []
        self._programs.append(program)
        carried = {(id(place.module), place.name) for place in self._carried.places}
        self._held = None if self._shares_bank else Held(self._model, carried)
        self._captures.append(
            "first call" if refusal is None else f"the program before it refused: {refusal}"
        )
        return program

    def _inlined(self, args: tuple[object, ...], kwargs: Mapping[str, object]) -> Any:
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
    def replaced_forward(self) -> Any:
        """The `forward` that the model had as an attribute when it was compiled, if any."""
        return self._replaced_forward

    def _check_program_count(self, refusals: list[str | None]) -> None:
        if len(refusals) < MAX_PROGRAMS:
            return
        raise CaptureError(
            self._subject,
            f"{MAX_PROGRAMS} programs were captured and none accepts this call: {refusals[-1]}",
            "pass what varies from call to call as a tensor",
        )

    def _check_inference(self, call: Flat) -> None:
        if self._model.training:
            raise InferenceOnlyError(
                self._subject,
                "the model is in training mode, and compiling is for inference only",
                "call model.eval()",
            )
        self.require_no_gradients(call.leaves)
