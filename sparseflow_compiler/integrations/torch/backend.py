"""The backend that `torch.compile` finds by name: the entry point `torch_dynamo_backends`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from torch import fx

from sparseflow.compiler.options import CompileOptions
from sparseflow.errors import ArgumentError
from sparseflow.integrations.torch.graph import Graph
from sparseflow.integrations.torch.region import Region

_CALL = "torch.compile(backend='sparseflow'"
_OPTIONS = tuple(field.name for field in fields(CompileOptions) if field.name != "inplace")


def sparseflow(
    graph: fx.GraphModule,
    example_inputs: Sequence[object],
    *,
    options: Mapping[str, object] | None = None,
    mode: str | None = None,
) -> Callable[..., object]:
    """Compile one graph that torch.compile captured.

    The graph is compiled when it first runs, because its inputs are real only then. Errors then reach the
    user unchanged, not as torch's BackendCompilerFailed.

    Args:
        graph: takes parameters, buffers, inputs and sizes alike as arguments.
        example_inputs: unused; the metadata of the placeholders is enough.
        options: those of `sparseflow.compile` except `inplace`.
        mode: refused; the options choose the same.
    """
    try:
        chosen = _options(options or {}, mode)
    except ArgumentError as error:
        return _raising(error)
    return Region(Graph.of(graph), chosen)


def _options(options: Mapping[str, Any], mode: str | None) -> CompileOptions:
    if mode is not None:
        raise ArgumentError(
            f"{_CALL}, mode={mode!r})",
            "the backend has no modes",
            'leave mode out, or choose what runs the graphs: options={"inner": "inductor"}',
        )
    if unknown := sorted(set(options) - set(_OPTIONS)):
        raise ArgumentError(
            f"{_CALL}, options={{{unknown[0]!r}: …}})",
            f"the options are {', '.join(_OPTIONS)}",
            "for releasing dense weights use sparseflow.compile(inplace=True)"
            if unknown[0] == "inplace"
            else "leave it out",
        )
    skip = options.get("skip")
    return CompileOptions(**{**options, **({"skip": tuple(skip)} if isinstance(skip, list) else {})})


def _raising(error: ArgumentError) -> Callable[..., NoReturn]:
    def run(*_: object) -> NoReturn:
        raise error

    return run
