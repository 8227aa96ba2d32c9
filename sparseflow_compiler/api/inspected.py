"""Inspection of a compiled model: its report, and its programs as MLIR, passes and graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from sparseflow.api.view import ModelView
from sparseflow.errors import ArgumentError

if TYPE_CHECKING:
    from sparseflow.api.programs import Programs
    from sparseflow.execution.comparison import Compared
    from sparseflow.execution.generation import Generator
    from sparseflow.reports.report import Report

Stage = Literal["torch", "sparse_gemm", "runtime"]


class Inspected(ModelView):
    """The part of a compiled model that is read, not run."""

    _programs: Programs
    _generator: Generator
    _compared: dict[str, Compared]
    _not_compared: str

    @property
    def report(self) -> Report:
        """The report: every linear layer with its decision and reason, over all captured programs."""
        from sparseflow.compiler.costs import compilations
        from sparseflow.compiler.decisions import make_report
        from sparseflow.compiler.gains import what_pruning_would_do

        programs = [p for model in (self, *self._parts.values()) for p in model._programs.all]
        report = make_report(type(self._model).__name__, programs, self._programs.bank, self._options)
        report.model["if_pruned"] = what_pruning_would_do(programs, self._programs.bank, self._options)
        report.model["captures"] = list(self._programs.captures)
        for name, part in self._parts.items():
            report.model["captures"] += [f"{name}: {why}" for why in part._programs.captures]
        report.model["compilations"] = compilations(programs)
        report.model["generate"] = dict(self._generator.notes)
        report.model["dense_methods"] = list(self.dense_methods)
        report.model["measured"] = [one.to_dict() for one in self._compared.values()]
        report.model["not_measured"] = self._not_compared
        return report

    def mlir(self, stage: Stage = "sparse_gemm", *, program: int = 0) -> str:
        """Return the MLIR text of a captured program.

        Args:
            stage: ``"torch"`` as imported, ``"sparse_gemm"`` after matching and policies, ``"runtime"`` as
                executed.
            program: the program's index, in order of capture.
        """
        stages = self._programs.captured(program).phases.stages
        if stage not in stages:
            raise ArgumentError(
                f"mlir(stage={stage!r})", f"stage must be one of {', '.join(map(repr, stages))}"
            )
        return str(stages[stage])

    def pipeline(self, *, program: int = 0) -> str:
        """Return the passes that made a captured program, with everything measured and decided between them.

        ``sparseflow-opt --pass-pipeline`` turns ``mlir("torch")`` into ``mlir("runtime")`` with it.

        Args:
            program: the program's index, in order of capture.
        """
        from sparseflow.passes import format_pipeline
        from sparseflow.passes.phases import pipeline

        return format_pipeline(pipeline("runtime", self._programs.captured(program).phases.pipeline))

    def graph(self, *, program: int = 0) -> torch.fx.GraphModule:
        """Return the executable torch.fx graph of a captured program."""
        return self._programs.captured(program).graph

    def extra_repr(self) -> str:
        """Return the model's class and the number of programs, for `repr`."""
        return f"{type(self._model).__name__}, programs={len(self._programs.all)}"
