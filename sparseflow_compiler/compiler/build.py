"""From a model and inputs to an executable program: capture, import, passes, packing, lowering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.compiler.bank import ProgramWeights, WeightBank
from sparseflow.compiler.clock import Clock
from sparseflow.compiler.decisions import LayerDecision
from sparseflow.compiler.mlp_plans import MlpPlan
from sparseflow.compiler.options import CompileOptions
from sparseflow.compiler.output_errors import output_errors
from sparseflow.compiler.run_phases import PhaseRun
from sparseflow.execution.inner import Runner, make_runner
from sparseflow.execution.writes import write_in_graph
from sparseflow.frontend import CapturedProgram, Executable, ImportedProgram, capture, import_program
from sparseflow.frontend.sharing import require_own_memory
from sparseflow.lowering import to_fx
from sparseflow.passes.phases import PipelineOptions
from sparseflow.runtime.calling.carried import Carried
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.signature import ResultKind
from sparseflow.runtime.calling.writes import WriteGuard
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import find
from sparseflow.support.progress import Progress


@dataclass(frozen=True)
class Program:
    """One captured and compiled program.

    Attributes:
        captured: decides which calls it serves.
        executable: runs them.
        graph: the lowered torch.fx graph, which writes inputs and buffers in place where the model does.
        runner: what runs the graph.
        written: the leaves of a call that the graph writes.
        stages: the module as imported (``"torch"``), with sparse layers (``"sparse_gemm"``), as executed
            (``"runtime"``).
        decisions: what became of each linear layer.
        policies: the measured policy behind each entry of `decisions`.
        pipeline: what its passes were made from, with all that was decided between them.
        seconds: how long each stage took.
        output_errors: of layers in lossy formats by their weights' names, as `output_errors` measures them.
        contextual: how each MLP that has a predictor runs, by the name of its up layer.
        not_contextual: why other layers of MLPs aren't, by their weights' names, where they may be 2:4.
        unpruned: whether it has matrices that pruning would make 2:4, and none that is.
        buffers: of the model, those that the graph writes.
    """

    captured: CapturedProgram
    executable: Executable
    graph: torch.fx.GraphModule
    runner: Runner
    written: frozenset[int]
    stages: Mapping[str, ir.Operation]
    decisions: tuple[LayerDecision, ...]
    policies: Mapping[str, Policy]
    pipeline: PipelineOptions
    seconds: Mapping[str, float]
    output_errors: Mapping[str, float] = field(default_factory=dict)
    contextual: Mapping[str, MlpPlan] = field(default_factory=dict)
    not_contextual: Mapping[str, str] = field(default_factory=dict)
    unpruned: bool = False
    buffers: frozenset[str] = frozenset()

    @property
    def changes_call(self) -> bool:
        """Whether it writes tensors of its calls, or gives their objects new ones."""
        return bool(self.written) or bool(self.executable.signature.outputs.updates)


def build_program(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    options: CompileOptions,
    bank: WeightBank,
    progress: Progress,
    carried: Carried | None = None,
) -> Program:
    """Compile `model` for calls like this one. Nothing of the model changes unless all of it succeeds.

    Args:
        model: the user's; a copy of it is traced.
        args: positional example inputs.
        kwargs: example inputs by keyword.
        options: of the compilation.
        bank: the weights that all programs of the model share.
        progress: told of each stage.
        carried: attributes of the model that calls pass and return, as `capture` has it.

    Raises:
        SparseFlowError: what failed, where, and the way out.
    """
    clock = Clock(progress)
    with clock.stage("export"):
        carried = Carried() if carried is None else carried
        captured = capture(model, args, kwargs, carried=carried)
    with clock.stage("import"):
        imported, weights = _imported(captured, bank)
    changed = [str(r.target) for r in imported.signature.results if r.kind is ResultKind.BUFFER]
    require_own_memory(changed, imported.weights)
    phases = PhaseRun(imported.module, imported.weights, weights, options, clock)
    phases.run()

    with clock.stage("lowering"):
        graph = to_fx(imported.module, weights)
    with clock.stage("pack") as step:
        bank.pack(step)
    errors: dict[str, float] = {}
    if options.format is not None and find(options.format).lossy:
        with clock.stage("compare"):
            errors = output_errors(
                graph, captured.call_signature.flatten(args, kwargs, carried.state()).leaves, bank
            )
    signature, written = write_in_graph(
        graph, imported.signature, {name: bank.source(name) for name in changed}
    )
    guard = WriteGuard.of(type(model).__name__, captured.names, graph, written)
    runner = make_runner(
        graph, options.execution, device_of(model), written, grows=bool(signature.outputs.updates)
    )
    executable = Executable(runner.run, signature, captured.call_signature, guard=guard)
    return Program(
        captured,
        executable,
        graph,
        runner,
        written,
        phases.stages,
        phases.decisions,
        phases.policies,
        phases.pipeline,
        clock.seconds,
        errors,
        phases.contextual,
        phases.not_contextual,
        phases.unpruned,
        frozenset(changed),
    )


def _imported(captured: CapturedProgram, bank: WeightBank) -> tuple[ImportedProgram, ProgramWeights]:
    """The program in the Torch dialect; the model's weights join the bank, its constants are its own."""
    context = ir.Context()
    dialect.load(context)
    imported = import_program(captured, context)
    constants = {name: imported.weights[name] for name in imported.weights.constants}
    bank.add({name: tensor for name, tensor in imported.weights.items() if name not in constants})
    return imported, ProgramWeights(bank, constants)
