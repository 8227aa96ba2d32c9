"""A captured program: what torch.export made of a model, and which calls it can serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind, OutputSpec

from sparseflow.errors import CaptureError
from sparseflow.frontend.calls import CallSignature
from sparseflow.frontend.flat_module import PREFIX, FlatModule
from sparseflow.frontend.guards import ShapeGuards, build_guards
from sparseflow.frontend.names import explain_difference, leaf_names
from sparseflow.frontend.signature import Result, ResultKind, Signature
from sparseflow.frontend.structure import Flat


@dataclass(frozen=True)
class TensorSpec:
    """What a program fixes about an input tensor besides its sizes."""

    dtype: torch.dtype
    rank: int
    device: torch.device

    @classmethod
    def of(cls, leaf: Any) -> TensorSpec | None:
        """The specification of a tensor, None for a counter."""
        return cls(leaf.dtype, leaf.ndim, leaf.device) if isinstance(leaf, torch.Tensor) else None

    def violation(self, leaf: Any) -> str | None:
        """Return how a leaf departs from this, or None if it doesn't."""
        if not isinstance(leaf, torch.Tensor):
            return f"{leaf!r}, not a tensor"
        if leaf.dtype == self.dtype and leaf.ndim == self.rank and leaf.device == self.device:
            return None
        return f"{leaf.ndim}-d {leaf.dtype} on {leaf.device}, not {self.rank}-d {self.dtype} on {self.device}"


@dataclass(frozen=True)
class CapturedProgram:
    """A model as one graph, for every call of the same structure and of shapes within its ranges.

    Attributes:
        exported: the program, in functional ATen; its names have the prefix of the wrapping module.
        call_signature: how the model's arguments are named.
        signature: how arguments and results map to the user's call.
        tensors: what is fixed about each input tensor; None for a counter.
        guards: the conditions on shapes.
        names: the user's names of the inputs, for messages.
    """

    exported: ExportedProgram
    call_signature: CallSignature
    signature: Signature
    tensors: tuple[TensorSpec | None, ...]
    guards: ShapeGuards
    names: tuple[str, ...] = field(repr=False)

    @property
    def range_constraints(self) -> Mapping[Any, Any]:
        """The range of each symbolic size, as torch.export found it."""
        constraints: Mapping[Any, Any] = self.exported.range_constraints
        return constraints

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Flat:
        """Take a call apart, for `accepts_flat` and the executable."""
        return self.call_signature.flatten(args, kwargs or {})

    def accepts(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> str | None:
        """Return None if the program can serve the call, else the reason why it can't."""
        return self.accepts_flat(self.flatten(args, kwargs))

    def accepts_flat(self, call: Flat) -> str | None:
        """Like `accepts`, for a call that is taken apart already."""
        if call.structure != self.signature.inputs:
            return explain_difference(call, self.signature.inputs)
        for i, (leaf, spec) in enumerate(zip(call.leaves, self.tensors, strict=True)):
            if spec is not None and (reason := spec.violation(leaf)) is not None:
                return f"{self.names[i]} is {reason}"
        return self.guards.violation(call.leaves, self.names)


def describe(exported: ExportedProgram, call_signature: CallSignature, flat: FlatModule) -> CapturedProgram:
    """Wrap a program that was exported from `flat`."""
    call = flat.call
    specs = tuple(map(TensorSpec.of, call.leaves))
    guards = build_guards(_fake_inputs(exported), exported.range_constraints, _conditions(exported))
    signature = Signature(call.structure, _results(exported), flat.outputs)
    return CapturedProgram(exported, call_signature, signature, specs, guards, tuple(leaf_names(call)))


def _input_names(exported: ExportedProgram) -> list[str]:
    """The placeholders of the user's tensors, in order."""
    specs = exported.graph_signature.input_specs
    return [spec.arg.name for spec in specs if spec.kind is InputKind.USER_INPUT]


def _fake_inputs(exported: ExportedProgram) -> list[Any]:
    placeholders = {node.name: node for node in exported.graph.nodes if node.op == "placeholder"}
    return [placeholders[name].meta["val"] for name in _input_names(exported)]


def _conditions(exported: ExportedProgram) -> list[Any]:
    """The shape guards of the trace, symbols that were replaced meanwhile resolved."""
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
