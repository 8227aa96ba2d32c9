"""A captured program and the calls that it can serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec

from sparseflow.errors import CaptureError
from sparseflow.frontend.flat_module import PREFIX, FlatModule
from sparseflow.frontend.guard_builder import build_guards
from sparseflow.runtime.calling.ambient import Ambient
from sparseflow.runtime.calling.call_names import leaf_names
from sparseflow.runtime.calling.calls import CallSignature
from sparseflow.runtime.calling.contract import Contract, TensorSpec
from sparseflow.runtime.calling.gradients import GradientMode
from sparseflow.runtime.calling.signature import Result, ResultKind, Signature


@dataclass(frozen=True)
class CapturedProgram(Contract):
    """A model as one graph, and the calls for which it is valid.

    Attributes:
        exported: the program, in functional ATen; its names have the prefix of the wrapping module.
    """

    exported: ExportedProgram

    @property
    def range_constraints(self) -> Mapping[object, object]:
        """The range of each symbolic size, as torch.export found it."""
        constraints: Mapping[object, object] = self.exported.range_constraints
        return constraints


def describe(
    exported: ExportedProgram,
    call_signature: CallSignature,
    flat: FlatModule,
    gradients: GradientMode | None,
) -> CapturedProgram:
    """Wrap a program that was exported from `flat`.

    Args:
        exported: the program.
        call_signature: of the model.
        flat: what was exported.
        gradients: the mode that the trace depends on; None for any.
    """
    call = flat.call
    results = _results(exported)
    written = {result.target for result in results if result.kind is ResultKind.INPUT}
    specs = tuple(
        TensorSpec.of(leaf, layout=flat.layouts_matter or i in written, gradients=gradients is not None)
        for i, leaf in enumerate(call.leaves)
    )
    guards = build_guards(_fake_inputs(exported), exported.range_constraints, _conditions(exported))
    signature = Signature(call.structure, results, flat.outputs)
    names = tuple(leaf_names(call))
    ambient = Ambient.now()._replace(gradients=gradients)
    return CapturedProgram(call_signature, signature, specs, guards, names, ambient, exported)


def _input_names(exported: ExportedProgram) -> list[str]:
    """Return the placeholders of the user's tensors, in order."""
    specs = exported.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]


def _fake_inputs(exported: ExportedProgram) -> list[object]:
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    return [placeholders[name].meta["val"] for name in _input_names(exported)]


def _conditions(exported: ExportedProgram) -> list[object]:
    """Return the shape guards of the trace, with replaced symbols resolved."""
    for node in exported.graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            return [mode.shape_env.replace(guard.expr) for guard in mode.shape_env.guards]
    return []


def _results(exported: ExportedProgram) -> tuple[Result, ...]:
    leaf_of = {name: i for i, name in enumerate(_input_names(exported))}
    results = []
    for spec in exported.graph_signature.output_specs:
        if spec.kind is OutputKind.BUFFER_MUTATION:
            results.append(Result(ResultKind.BUFFER, str(spec.target).removeprefix(PREFIX)))
        elif spec.kind is OutputKind.USER_INPUT_MUTATION:
            results.append(Result(ResultKind.INPUT, leaf_of[str(spec.target)]))
        elif spec.kind is OutputKind.USER_OUTPUT:
            results.append(Result(ResultKind.OUTPUT))
        else:
            raise _unsupported_result(spec)
    return tuple(results)


def _unsupported_result(spec: OutputSpec) -> CaptureError:
    subject = str(spec.target or spec.arg).removeprefix(PREFIX)
    if spec.kind.name == "PARAMETER_MUTATION":
        return CaptureError(
            subject,
            "the model writes this parameter in forward, and a compiled model's weights are fixed",
            "if it does so in the first call only, call the model once before compiling it",
        )
    rule = f"a captured program can't return a result of kind {spec.kind.name}"
    return CaptureError(subject, rule, "leave it out of forward")
