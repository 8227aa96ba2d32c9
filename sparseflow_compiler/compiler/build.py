"""From a model and inputs to an executable program: capture, import, passes, packing, lowering."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch_mlir import ir

from sparseflow import dialect
from sparseflow.compiler.bank import ProgramWeights, WeightBank
from sparseflow.compiler.decisions import LayerDecision, decide
from sparseflow.compiler.measured import measured_policies
from sparseflow.compiler.mlp_plans import MlpPlan, left_over, plan_contextual
from sparseflow.compiler.options import CompileOptions
from sparseflow.compiler.output_errors import output_errors
from sparseflow.dialect.matchers import operations, weights_of
from sparseflow.dialect.weight import KIND
from sparseflow.execution.inner import Runner, make_runner
from sparseflow.execution.writes import write_in_graph
from sparseflow.frontend import CapturedProgram, Executable, ImportedProgram, capture, import_program
from sparseflow.frontend.sharing import require_own_memory
from sparseflow.lowering import to_fx
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.passes.canonicalize_linear import CanonicalizeLinear
from sparseflow.passes.cast_weights import cast_weights
from sparseflow.passes.causal_attention import CausalAttention
from sparseflow.passes.choose_format import ChooseFormat
from sparseflow.passes.drop_true_masks import DropTrueMasks
from sparseflow.passes.explain_products import ExplainProducts
from sparseflow.passes.fuse_epilogue import FuseEpilogue
from sparseflow.passes.fuse_gate import FuseGate
from sparseflow.passes.lower_contextual_mlp import LowerContextualMlp
from sparseflow.passes.lower_sparse_gemm import LowerSparseGemm
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.merge_projections import MergeProjections
from sparseflow.runtime import first_violation
from sparseflow.runtime.calling.carried import Carried
from sparseflow.runtime.calling.inference import device_of
from sparseflow.runtime.calling.signature import ResultKind
from sparseflow.runtime.calling.writes import WriteGuard
from sparseflow.runtime.dispatch import Policy
from sparseflow.runtime.formats import find
from sparseflow.support.progress import Progress, Step


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
        seconds: how long each stage took.
        output_errors: of layers in lossy formats by their weights' names, as `output_errors` measures them.
        contextual: how each MLP that has a predictor runs, by the name of its up layer.
        not_contextual: why other layers of MLPs aren't, by their weights' names, where they may be 2:4.
        unpruned: whether it has matrices that pruning would make 2:4, and none that is.
    """

    captured: CapturedProgram
    executable: Executable
    graph: torch.fx.GraphModule
    runner: Runner
    written: frozenset[int]
    stages: Mapping[str, ir.Operation]
    decisions: tuple[LayerDecision, ...]
    policies: Mapping[str, Policy]
    seconds: Mapping[str, float]
    output_errors: Mapping[str, float] = field(default_factory=dict)
    contextual: Mapping[str, MlpPlan] = field(default_factory=dict)
    not_contextual: Mapping[str, str] = field(default_factory=dict)
    unpruned: bool = False


@dataclass
class _Clock:
    """Seconds of each stage, measured and shown."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[Step]:
        step = self.progress.stage(name)
        start = time.perf_counter()
        yield step
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        step(1, 1)


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
    clock = _Clock(progress)
    with clock.stage("export"):
        carried = Carried() if carried is None else carried
        captured = capture(model, args, kwargs, carried=carried)
    with clock.stage("import"):
        imported, weights = _imported(captured, bank)
    changed = [str(r.target) for r in imported.signature.results if r.kind is ResultKind.BUFFER]
    require_own_memory(changed, imported.weights)
    module, stages = imported.module, {"torch": imported.module.operation.clone()}

    with clock.stage("passes"):
        run_pipeline(module, [CausalAttention(), DropTrueMasks(), CanonicalizeLinear()])
        unpruned = _keep_dense(module, imported.weights, options, bank)
    contextual, left = _form_contextual(module, weights, options, clock)
    with clock.stage("passes"):
        run_pipeline(module, [MatchSparseLinear(skip=options.skipped)])
        bank.choose(weights_of(operations(module, ("sparse_gemm.linear",))))
        bank.choose(cast_weights(module, MatchSparseLinear(skip=options.skipped)))
        run_pipeline(module, [ExplainProducts(), MergeProjections(), FuseEpilogue()])
        run_pipeline(module, [ChooseFormat(options.format), FuseGate()])
    with clock.stage("measure") as step:
        policies, dense = measured_policies(module, bank.device, options, step)
    with clock.stage("passes"):
        run_pipeline(module, [ApplyPolicy.of(policies, dense)])
        stages["sparse_gemm"] = module.operation.clone()
        decisions = decide(module)
        run_pipeline(module, [LowerSparseGemm(options.memory), LowerContextualMlp()])
        stages["runtime"] = module.operation

    with clock.stage("lowering"):
        graph = to_fx(module, weights)
    with clock.stage("pack") as step:
        bank.pack(step)
    errors: dict[str, float] = {}
    if find(options.format).lossy:
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
        stages,
        decisions,
        policies,
        clock.seconds,
        errors,
        contextual,
        left,
        unpruned,
    )


def _form_contextual(
    module: ir.Module, weights: ProgramWeights, options: CompileOptions, clock: _Clock
) -> tuple[Mapping[str, MlpPlan], Mapping[str, str]]:
    """Make operators of the MLPs that have a predictor; how they run, and why other layers of MLPs aren't."""
    if not options.contextual:
        return {}, {}
    with clock.stage("measure") as step:
        form, plans = plan_contextual(module, weights, options, step)
        run_pipeline(module, [form])
        return plans, left_over(module)


def _imported(captured: CapturedProgram, bank: WeightBank) -> tuple[ImportedProgram, ProgramWeights]:
    """The program in the Torch dialect; the model's weights join the bank, its constants are its own."""
    context = ir.Context()
    dialect.load(context)
    imported = import_program(captured, context)
    constants = {name: imported.weights[name] for name in imported.weights.constants}
    bank.add({name: tensor for name, tensor in imported.weights.items() if name not in constants})
    return imported, ProgramWeights(bank, constants)


def _keep_dense(
    module: ir.Module, tensors: Mapping[str, torch.Tensor], options: CompileOptions, bank: WeightBank
) -> bool:
    """Mark the weights that nothing may make sparse, so that no pass does.

    Returns:
        Whether there are matrices that are not 2:4, none that is, and pruning is not asked for.
    """
    found = {"2:4": 0, "not 2:4": 0}
    kept, pruned = bank.kept(), options.prune is not None
    for op in operations(module, ("sparse_gemm.weight",)):
        name = ir.StringAttr(op.attributes["name"]).value
        if (pruned and name not in kept) or KIND in op.attributes:
            reason = (
                "a program captured before reads its weight unpruned" if bank.is_read_as_it_is(name) else None
            )
        elif bank.was_packed(name):  # then it was 2:4, and its dense bytes may be gone
            reason = None
        else:
            tensor = tensors[name].detach()
            why = f"pruning leaves it as it is: {kept[name]}" if pruned else "nothing is to prune it"
            reason = _not_24(tensor.t() if "transposed" in op.attributes else tensor, name, why)
            if tensor.dim() == 2 and tensor.is_floating_point():
                found["2:4" if reason is None else "not 2:4"] += 1
        if reason:
            with module.context:
                op.attributes["sparse_gemm.dense"] = ir.StringAttr.get(reason)
    return options.sparsity == "2:4" and not pruned and found["not 2:4"] > 0 and not found["2:4"]


def _not_24(tensor: torch.Tensor, name: str, why: str) -> str | None:
    if tensor.dim() != 2 or not tensor.is_floating_point():
        return None
    bad = first_violation(tensor, name=name)
    return bad and f"its weight is not 2:4 (row {bad[0]}, group {bad[1]}), and {why}"
