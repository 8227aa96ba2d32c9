"""A model that was loaded from an artifact."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, fx

from sparseflow.errors import ArgumentError
from sparseflow.runtime.artifact.manifest import read_json
from sparseflow.runtime.artifact.values import require
from sparseflow.runtime.calling.contract import Contract
from sparseflow.runtime.calling.executable import Executable
from sparseflow.runtime.calling.frozen import samples
from sparseflow.runtime.calling.inference import InferenceModule
from sparseflow.runtime.calling.lowered import LoweredCall
from sparseflow.runtime.calling.repeated import RepeatedCalls
from sparseflow.runtime.calling.write_guard import WriteGuard
from sparseflow.support.documents import Document

if TYPE_CHECKING:
    from sparseflow.runtime.calling.structure import Flat


@dataclass(frozen=True)
class LoadedProgram:
    """A program of an artifact.

    Attributes:
        contract: decides which calls it serves.
        graph: the torch.fx graph, which writes inputs and buffers in place where the model does.
        written: the leaves of a call that it writes.
        device: where the model is.
        grows: whether it replaces tensors of an object of its call, such as a growing cache.
    """

    contract: Contract
    graph: fx.GraphModule
    written: frozenset[int]
    device: torch.device

    @property
    def grows(self) -> bool:
        """Whether the program replaces tensors of an object of its call."""
        return bool(self.contract.signature.outputs.updates)


MakeRunner = Callable[[LoadedProgram], tuple[Callable[..., Sequence[object]], bool]]
"""Returns the callable that runs a program, and whether autograd's dispatch may be skipped."""


def plain_runner(program: LoadedProgram) -> tuple[Callable[..., Sequence[object]], bool]:
    """Run the graph as it is."""
    return program.graph, True


class LoadedModel(InferenceModule):
    """A model returned by `sparseflow.load`, which serves the captured calls.

    Args:
        name: of the model's class.
        folder: of the artifact.
        programs: in order of capture; the first that accepts a call runs it.
        make_runner: makes what runs a program.
        parts: the programs of functions that are called beside forward, by name.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        programs: Sequence[LoadedProgram],
        make_runner: MakeRunner = plain_runner,
        parts: Mapping[str, Sequence[LoadedProgram]] | None = None,
    ) -> None:
        super().__init__(f"loaded {name}")
        self._parts = {
            part: LoadedModel(f"{name}.{part}", folder, own, make_runner)
            for part, own in (parts or {}).items()
        }
        self._name, self._folder, self._programs = name, folder, tuple(programs)
        self._runs: list[Executable] = []
        self._repeated = RepeatedCalls()
        for program in programs:
            run, direct = make_runner(program)
            contract = program.contract
            guard = WriteGuard.of(self._subject, contract.names, program.graph, program.written)
            signature = contract.signature
            self._runs.append(Executable(run, signature, contract.call_signature, guard=guard, direct=direct))

    def forward(self, *args: object, **kwargs: object) -> object:
        """Run the model. Arguments and result are those of the model's own forward.

        Raises:
            InferenceOnlyError: an input requires gradients.
            ArgumentError: no program of the artifact accepts the call.
        """
        repeated = self._repeated.find(args, kwargs)
        if repeated is not None:
            known, values, leaves = repeated
            return known.run(values, leaves)
        call = self._programs[0].contract.flatten(args, kwargs)
        self.require_no_gradients(call.leaves)
        program, executable = self._serving(call)
        results = executable.results(call)
        output = executable.output(results, call)
        if program.contract.ambient.gradients is None:  # else more than arguments decide
            self._repeated.learn(args, kwargs, call, executable, results, output)
        return output

    def lowered(self, *args: object, **kwargs: object) -> LoweredCall:
        """Return the graph that serves a call, to be run as a part of another.

        Raises:
            ArgumentError: no program accepts the call, or it replaces tensors of its arguments.
        """
        call = self._programs[0].contract.flatten(args, kwargs)
        program, executable = self._serving(call)
        if program.grows:
            raise ArgumentError(
                self._subject, "the call replaces tensors of its arguments", "pass a static cache"
            )
        return LoweredCall(program.graph, executable.signature, call)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self._programs[0].device

    def part(self, name: str) -> LoadedModel | None:
        """Return a function that is called beside forward, such as an encoder; None if it wasn't saved."""
        return self._parts.get(name)

    @property
    def name(self) -> str:
        """The name of the model's class."""
        return self._name

    @property
    def report(self) -> Document:
        """The report of the compilation, as its ``to_dict`` made it."""
        report: Document = require(read_json(self._folder, "report.json"), dict)
        return report

    def mlir(self, stage: str = "sparse_gemm", *, program: int = 0) -> str:
        """Return the MLIR text of a program.

        Args:
            stage: ``"torch"`` as imported, ``"sparse_gemm"`` after matching and policy, ``"runtime"`` as
                executed.
            program: which program, in order of capture.

        Raises:
            ArgumentError: there is no such stage.
        """
        stages = ("torch", "sparse_gemm", "runtime")
        if stage not in stages:
            raise ArgumentError(
                f"mlir(stage={stage!r})", f"stage must be one of {', '.join(map(repr, stages))}"
            )
        index = range(len(self._programs))[program]
        return (self._folder / f"program-{index}.{stage}.mlir").read_text()

    def graph(self, *, program: int = 0) -> fx.GraphModule:
        """Return the executable torch.fx graph of a program."""
        return self._programs[program].graph

    @property
    def _way_out(self) -> str:
        return "compile the model as you want it; sf.load(path, device=…) chooses among devices of one type"

    @property
    def _way_to_keep(self) -> str:
        return f"it is kept in {self._folder}, and sf.load reads it"

    def _samples(self) -> list[Tensor]:
        return samples(buffer for program in self._programs for buffer in program.graph.buffers())

    def _no_parameters(self, *args: object, **kwargs: object) -> NoReturn:
        """Refuse: the programs have packed weights, which have no names of the model.

        Raises:
            ArgumentError: always.
        """
        rule = "its weights are packed and merged and aren't parameters"
        self._refuse("parameters()", rule, "loaded.report lists the layers, loaded.device is where they are")

    parameters = named_parameters = buffers = named_buffers = _no_parameters

    def extra_repr(self) -> str:
        """Return the model's class and the number of programs, for `repr`."""
        return f"{self._name}, programs={len(self._programs)}"

    def _serving(self, call: Flat) -> tuple[LoadedProgram, Executable]:
        refusal = ""
        for program, run in zip(self._programs, self._runs, strict=True):
            refused = program.contract.accepts_flat(call)
            if refused is None:
                return program, run
            refusal = refused
        raise ArgumentError(
            self._subject,
            f"none of its {len(self._programs)} programs accepts this call: {refusal}",
            "call the compiled model like this once before saving it",
        )
