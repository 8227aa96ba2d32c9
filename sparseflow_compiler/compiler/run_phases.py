"""The phases of the passes over a program: what each takes is decided on what the phase before left."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch_mlir import ir

from sparseflow.compiler.bank import ProgramWeights
from sparseflow.compiler.clock import Clock
from sparseflow.compiler.column_plans import NO_THRESHOLD, ColumnPlan, plan_columns
from sparseflow.compiler.decisions import EXACT, LayerDecision, decide
from sparseflow.compiler.dense_marks import (
    dense_marks,
    is_unpruned,
    pattern_marks,
    prunable_weights,
    verdicts,
)
from sparseflow.compiler.measured_policies import measured_policies
from sparseflow.compiler.mlp_plans import OUTSIDE_REASON, MlpPlan, not_contextual_reasons, plan_contextual
from sparseflow.compiler.options import CompileOptions
from sparseflow.dialect.matchers import operations, weights_of
from sparseflow.passes import run_pipeline
from sparseflow.passes.apply_policy import ApplyPolicy
from sparseflow.passes.cast_weights import cast_weights
from sparseflow.passes.eligibility import eligible_weights
from sparseflow.passes.match_sparse_linear import MatchSparseLinear
from sparseflow.passes.phases import PHASES, PipelineOptions, phase
from sparseflow.runtime.attention.prompt_attention import why_not_flash_on
from sparseflow.runtime.dispatch import Policy


@dataclass
class PhaseRun:
    """What the phases made of a program, and what was decided between them.

    Attributes:
        pipeline: what the passes were made from.
        stages: the module as imported (``"torch"``), with sparse layers (``"sparse_gemm"``), as executed
            (``"runtime"``).
        decisions: what became of each linear layer.
        policies: the measured policy behind each of them.
        contextual: how each MLP that has a predictor runs, by the name of its up layer.
        columns: how each layer that has a threshold runs, by name.
        not_contextual: why other layers of MLPs aren't, by their weights' names, where they may be 2:4.
        unpruned: whether it has matrices that pruning would make 2:4, and none that is.
        prunable: the weights that pruning would make 2:4.
    """

    pipeline: PipelineOptions
    stages: dict[str, ir.Operation] = field(default_factory=dict)
    decisions: tuple[LayerDecision, ...] = ()
    policies: Mapping[str, Policy] = field(default_factory=dict)
    contextual: Mapping[str, MlpPlan] = field(default_factory=dict)
    columns: Mapping[str, ColumnPlan] = field(default_factory=dict)
    not_contextual: Mapping[str, str] = field(default_factory=dict)
    unpruned: bool = False
    prunable: frozenset[str] = frozenset()


def run_phases(
    module: ir.Module,
    tensors: Mapping[str, torch.Tensor],
    weights: ProgramWeights,
    options: CompileOptions,
    clock: Clock,
    device: torch.device,
    head: str = "",
) -> PhaseRun:
    """Take a module from the Torch dialect to what the lowering takes, in place.

    Args:
        module: of the program.
        tensors: its weights as the model has them.
        weights: those of the bank and the program's constants.
        options: of the compilation.
        clock: times the passes and the measuring.
        device: where the model is.
        head: name of the weight that is stored as `options.lm_head` says; empty if there is none.

    Raises:
        SparseFlowError: a pass failed, or nothing fits a predictor.
    """
    passes = PipelineOptions(
        queries="any" if why_not_flash_on(device) is None else "few",
        skip=options.skipped,
        format=options.sparse_format or EXACT,
        head=head,
        head_format=options.lm_head or "" if head else "",
        memory=options.memory,
    )
    driver = _Driver(module, tensors, weights, options, clock, PhaseRun(passes))
    driver.run()
    return driver.made


@dataclass(frozen=True)
class _Driver:
    """Runs the phases one by one, each with what is decided before it."""

    module: ir.Module
    tensors: Mapping[str, torch.Tensor]
    weights: ProgramWeights
    options: CompileOptions
    clock: Clock
    made: PhaseRun

    def run(self) -> None:
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
        self.made.stages["torch"] = self.module.operation.clone()
        for name in PHASES:
            before.get(name, _nothing)()
            passes = phase(name, self.made.pipeline).passes
            with self.clock.stage("passes"):
                if passes:
                    run_pipeline(self.module, passes)
                after.get(name, _nothing)()
        self.made.stages["runtime"] = self.module.operation

    def _mark(self) -> None:
        with self.clock.stage("passes"):
            found = verdicts(self.module, self.tensors, self.options, self.weights.bank)
        if self.options.prune is None and self.options.contextual is None:
            self.made.unpruned, self.made.prunable = is_unpruned(found), prunable_weights(found)
        self.made.pipeline = replace(
            self.made.pipeline,
            dense=dense_marks(found) or None,
            patterns=pattern_marks(found) or None,
        )

    def _plan(self) -> None:
        if self.options.thresholds is not None:
            with self.clock.stage("measure") as step:
                table, columns = plan_columns(self.module, self.weights, self.options, step)
            stays = NO_THRESHOLD.format(self.options.format)
            reason = stays if self.options.sparse_format is None else ""
            self.made.columns = columns
            self.made.pipeline = replace(self.made.pipeline, columns=table, outside_reason=reason)
        if self.options.predictors is not None:
            with self.clock.stage("measure") as step:
                table, plans = plan_contextual(self.module, self.weights, self.options, step)
            reason = OUTSIDE_REASON if self.options.format is None else ""
            self.made.contextual = plans
            self.made.pipeline = replace(self.made.pipeline, contextual=table, outside_reason=reason)

    def _leave(self) -> None:
        if self.options.predictors is not None:
            self.made.not_contextual = not_contextual_reasons(self.module)

    def _choose(self) -> None:
        bank = self.weights.bank
        bank.choose_layers(eligible_weights(self.module, MatchSparseLinear(skip=self.options.skipped).limits))
        # Where the model isn't known its layers are what the graph shows.
        bank.choose(weights_of(operations(self.module, ("sparse_gemm.linear",))))
        bank.choose(cast_weights(self.module))

    def _measure(self) -> None:
        with self.clock.stage("measure") as step:
            policies, dense = measured_policies(self.module, self.weights.bank, self.options, step)
        self.made.policies = policies
        self.made.pipeline = replace(self.made.pipeline, policies=ApplyPolicy.of(policies, dense).table)

    def _decide(self) -> None:
        self.made.stages["sparse_gemm"] = self.module.operation.clone()
        self.made.decisions = decide(self.module)


def _nothing() -> None:
    """Do nothing: most phases need no decision before them."""
