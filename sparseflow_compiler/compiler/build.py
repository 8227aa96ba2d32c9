"""From a model and inputs to an executable program: capture, import, passes, packing, lowering."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.compiler.bank import ProgramWeights, WeightBank
from sparseflow.compiler.clock import Clock
from sparseflow.compiler.head_weight import head_weight
from sparseflow.compiler.if_pruned import Product, products_if_pruned
from sparseflow.compiler.options import CompileOptions
from sparseflow.compiler.output_errors import output_errors
from sparseflow.compiler.run_phases import PhaseRun, run_phases
from sparseflow.execution.inner import Runner, make_runner
from sparseflow.execution.writes import write_in_graph
from sparseflow.frontend import CapturedProgram, Executable, ImportedProgram, capture, import_program
from sparseflow.frontend.sharing import require_own_memory
from sparseflow.lowering import to_fx
from sparseflow.runtime.calling.carried import Carried
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.signature import ResultKind
from sparseflow.runtime.calling.write_guard import WriteGuard
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
        phases: what the passes made of it, and what was decided between them.
        seconds: how long each stage took.
        output_errors: of layers in lossy formats by their weights' names, as `output_errors` measures them.
        buffers: of the model, those that the graph writes.
    """

    captured: CapturedProgram
    executable: Executable
    graph: torch.fx.GraphModule
    runner: Runner
    written: frozenset[int]
    phases: PhaseRun
    seconds: Mapping[str, float]
    output_errors: Mapping[str, float]
    buffers: frozenset[str]

    @property
    def changes_call(self) -> bool:
        """Whether it writes tensors of its calls, or gives their objects new ones."""
        return bool(self.written) or bool(self.executable.signature.outputs.updates)

    @functools.cached_property
    def products_if_pruned(self) -> tuple[Product, ...]:
        """The sparse products that the program would have if its prunable weights were 2:4."""
        made = self.phases
        return products_if_pruned(made.stages["torch"], made.pipeline, made.prunable)


def build_program(
    model: nn.Module,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
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
    clock, carried = Clock(progress), Carried() if carried is None else carried
    with clock.stage("export"):
        captured = capture(model, args, kwargs, carried=carried)
    with clock.stage("import"):
        imported, weights = _imported(captured, bank)
    changed = [str(r.target) for r in imported.signature.results if r.kind is ResultKind.BUFFER]
    require_own_memory(changed, imported.weights)
    head = "" if options.lm_head is None else head_weight(model, imported.weights)
    if head:
        bank.choose_head(head)
    phases = run_phases(imported.module, imported.weights, weights, options, clock, device_of(model), head)
    with clock.stage("lowering"):
        graph = to_fx(imported.module, weights, device_of(model).type)
    with clock.stage("pack") as step:
        bank.pack(step)
    errors: dict[str, float] = {}
    if any(name is not None and find(name).lossy for name in (options.sparse_format, options.lm_head)):
        with clock.stage("compare"):
            call = captured.call_signature.flatten(args, kwargs, carried.state())
            errors = output_errors(graph, call.leaves, bank)
    buffers = {name: bank.source(name) for name in changed}
    signature, written = write_in_graph(graph, imported.signature, buffers)
    grows = bool(signature.outputs.updates)
    runner = make_runner(graph, options.execution, device_of(model), written, grows=grows)
    guard = WriteGuard.of(type(model).__name__, captured.names, graph, written)
    direct = runner.inductor is None
    executable = Executable(runner.run, signature, captured.call_signature, guard=guard, direct=direct)
    writes = frozenset(changed)
    return Program(captured, executable, graph, runner, written, phases, clock.seconds, errors, writes)


def _imported(captured: CapturedProgram, bank: WeightBank) -> tuple[ImportedProgram, ProgramWeights]:
    """Import a program to the Torch dialect, and add the model's weights to the bank."""
    context = ir.Context()
    dialect.load(context)
    imported = import_program(captured, context)
    constants = {name: imported.weights[name] for name in imported.weights.constants}
    bank.add({name: tensor for name, tensor in imported.weights.items() if name not in constants})
    return imported, ProgramWeights(bank, constants)
