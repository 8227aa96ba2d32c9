"""The phases of the passes over a program: what each takes is decided on what the phase before left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.clock import Clock
from sparseflow.compiler.decisions import EXACT, LayerDecision, decide
from sparseflow.compiler.dense_marks import dense_marks
from sparseflow.compiler.measured import measured_policies
from sparseflow.compiler.mlp_plans import OTHERS, MlpPlan, left_over, plan_contextual
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import operations, weights_of
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.passes.cast_weights import cast_weights
from sparseflow.passes.eligibility import eligible_weights
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.phases import PHASES, PipelineOptions, phases
from sparseflow.runtime.dispatch import Policy


@dataclass
class PhaseRun:
    """Takes a module from the Torch dialect to what the lowering takes, in place.

    Attributes:
        module: of the program.
        tensors: its weights as the model has them.
        weights: those of the bank and the program's constants.
        options: of the compilation.
        clock: times the passes and the measuring.
        pipeline: what the passes are made from; complete after `run`.
        stages: the module as imported (``"torch"``), with sparse layers (``"sparse_gemm"``), as executed
            (``"runtime"``).
        decisions: what became of each linear layer.
        policies: the measured policy behind each of them.
        contextual: how each MLP that has a predictor runs, by the name of its up layer.
        not_contextual: why other layers of MLPs aren't, by their weights' names, where they may be 2:4.
        unpruned: whether it has matrices that pruning would make 2:4, and none that is.
    """

    module: ir.Module
    tensors: Mapping[str, torch.Tensor]
    weights: ProgramWeights
    options: CompileOptions
    clock: Clock
    pipeline: PipelineOptions = field(init=False)
    stages: dict[str, ir.Operation] = field(init=False, default_factory=dict)
    decisions: tuple[LayerDecision, ...] = field(init=False, default=())
    policies: Mapping[str, Policy] = field(init=False, default_factory=dict)
    contextual: Mapping[str, MlpPlan] = field(init=False, default_factory=dict)
    not_contextual: Mapping[str, str] = field(init=False, default_factory=dict)
    unpruned: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        options = self.options
        self.pipeline = PipelineOptions(
            skip=options.skipped, format=options.format or EXACT, memory=options.memory
        )

    def run(self) -> None:
        """Run every phase, each with what is decided before it.

        Raises:
            SparseFlowError: a pass failed, or nothing fits a predictor.
        """
        before: dict[str, Callable[[], None]] = {
            "marked": self._mark,
            "contextual": self._plan,
            "sparse-gemm": self._measure,
        }
        after: dict[str, Callable[[], None]] = {
            "contextual": self._leave,
            "matched": self._choose,
            "sparse-gemm": self._decide,
        }
        self.stages["torch"] = self.module.operation.clone()
        for index, name in enumerate(PHASES):
            before.get(name, _nothing)()
            passes = phases(self.pipeline)[index].passes
            with self.clock.stage("passes"):
                if passes:
                    run_pipeline(self.module, passes)
                after.get(name, _nothing)()
        self.stages["runtime"] = self.module.operation

    def _mark(self) -> None:
        with self.clock.stage("passes"):
            marks, self.unpruned = dense_marks(self.module, self.tensors, self.options, self.weights.bank)
        self.pipeline = replace(self.pipeline, dense=marks or None)

    def _plan(self) -> None:
        if self.options.contextual is not None:
            with self.clock.stage("measure") as step:
                table, self.contextual = plan_contextual(self.module, self.weights, self.options, step)
            others = OTHERS if self.options.format is None else ""
            self.pipeline = replace(self.pipeline, contextual=table, others=others)

    def _leave(self) -> None:
        self.not_contextual = {} if self.options.contextual is None else left_over(self.module)

    def _choose(self) -> None:
        bank = self.weights.bank
        bank.choose_layers(eligible_weights(self.module, MatchSparseLinear(skip=self.options.skipped).limits))
        # Where the model isn't known its layers are what the graph shows.
        bank.choose(weights_of(operations(self.module, ("sparse_gemm.linear",))))
        bank.choose(cast_weights(self.module))

    def _measure(self) -> None:
        with self.clock.stage("measure") as step:
            found = measured_policies(self.module, self.weights.bank, self.options, step)
        self.policies, dense = found
        self.pipeline = replace(self.pipeline, policies=ApplyPolicy.of(self.policies, dense).table)

    def _decide(self) -> None:
        self.stages["sparse_gemm"] = self.module.operation.clone()
        self.decisions = decide(self.module)


def _nothing() -> None:
    """Nothing is decided before or looked at after most phases."""
