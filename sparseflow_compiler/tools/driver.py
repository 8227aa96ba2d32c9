"""Process the input of ``sparseflow-opt`` chunk by chunk."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.errors import ArgumentError, ParseError, PassError, SparseFlowError
from sparseflow.passes.base import Pass, PassFailedError
from sparseflow.passes.pipelines import (
    check_passes,
    format_pipeline,
    label,
    named_pipeline,
    parse_pipeline,
    run_pipeline,
)
from sparseflow.tools.command_line import Arguments
from sparseflow.tools.diagnostics import Diagnostic, diagnostic, mismatches, read_expectations
from sparseflow.tools.limits import doing
from sparseflow.tools.source import Chunk, read_chunks

_SEPARATOR = "\n// -----\n"


@dataclass(frozen=True)
class Outcome:
    """The result of processing the input.

    Attributes:
        output: what to print on success.
        messages: the errors.
    """

    output: str | bytes
    messages: tuple[str, ...]


@dataclass(frozen=True)
class _Result:
    """The result of a chunk: output or error, and its diagnostics."""

    output: str | bytes
    error: SparseFlowError | None
    reports: tuple[Diagnostic, ...]


def process(arguments: Arguments) -> Outcome:
    """Read the input, run the passes and print the modules.

    Raises:
        ArgumentError: a pass is unknown or has wrong options.
        ParseError: the input can't be read.
    """
    passes = _passes(arguments)
    if arguments.dump_pipeline:
        print(format_pipeline(passes), file=sys.stderr)
    outputs: list[str | bytes] = []
    messages: list[str] = []
    for chunk in read_chunks(arguments.input, arguments.split):
        result = _process_chunk(chunk, passes, arguments)
        messages += _messages(chunk, result, arguments.verify_diagnostics)
        if result.error is None:
            outputs.append(result.output)
    return Outcome(_join(outputs), tuple(messages))


def _passes(arguments: Arguments) -> tuple[Pass, ...]:
    try:
        named = arguments.named
        passes = parse_pipeline(arguments.pipeline) if named is None else named_pipeline(named)
        check_passes(passes, ir.Context())
    except PassError as error:
        raise ArgumentError(error.subject, error.rule, error.remedy) from None
    return passes


def _join(outputs: Sequence[str | bytes]) -> str | bytes:
    if outputs and isinstance(outputs[0], bytes):
        return outputs[0]
    return _SEPARATOR.join(str(output) for output in outputs)


def _messages(chunk: Chunk, result: _Result, verify: bool) -> list[str]:
    if verify and isinstance(chunk.content, str):
        expected = list(read_expectations(chunk.name, chunk.content))
        return list(mismatches(chunk.name, expected, result.reports))
    for report in result.reports:
        if report.kind in ("warning", "remark"):
            print(report, file=sys.stderr)
    # The parser calls every input "-".
    return [] if result.error is None else [str(result.error).replace('"-":', f"{chunk.name}:")]


def _process_chunk(chunk: Chunk, passes: Sequence[Pass], arguments: Arguments) -> _Result:
    context = ir.Context()
    context.allow_unregistered_dialects = arguments.allow_unregistered
    load(context)
    reports: list[Diagnostic] = []

    def handle(found: ir.Diagnostic) -> bool:
        reports.append(diagnostic(chunk.name, found.severity.name.lower(), found.location, found.message))
        return True

    handler = context.attach_diagnostic_handler(handle)
    try:
        doing(f"{chunk.place}: reading")
        module = _parse(chunk, context, reports)
        doing(f"{chunk.place}: running passes")
        _run(module, passes, chunk, arguments)
        doing(f"{chunk.place}: printing")
        return _Result(_print(module, arguments), None, tuple(reports))
    except ParseError as error:
        return _Result("", error, tuple(reports))
    except PassError as error:
        reports += _reports_of(chunk, error)
        return _Result("", error, tuple(reports))
    finally:
        handler.detach()


def _parse(chunk: Chunk, context: ir.Context, reports: list[Diagnostic]) -> ir.Module:
    try:
        return ir.Module.parse(chunk.content, context)
    except ir.MLIRError as error:
        found = list(_flatten(chunk, error.error_diagnostics))
        reports += found
        first = next((report for report in found if report.kind == "error"), None)
        if first is None:
            raise ParseError(chunk.name, "is not MLIR that can be read") from None
        rest = [str(report) for report in found if report is not first]
        raise ParseError(first.place, "\n  ".join([first.message, *rest])) from None


def _flatten(chunk: Chunk, infos: Sequence[ir.DiagnosticInfo]) -> list[Diagnostic]:
    found = []
    for info in infos:
        found.append(diagnostic(chunk.name, info.severity.name.lower(), info.location, info.message))
        found += _flatten(chunk, info.notes)
    return found


def _reports_of(chunk: Chunk, error: PassError) -> list[Diagnostic]:
    places = error.diagnostics if isinstance(error, PassFailedError) else ()
    found = [diagnostic(chunk.name, "error", location, message) for location, message in places]
    return found or [Diagnostic("error", None, "unknown location", error.rule)]


def _run(module: ir.Module, passes: Sequence[Pass], chunk: Chunk, arguments: Arguments) -> None:
    def show(pass_: Pass, module: ir.Module) -> None:
        print(f"// -----// IR Dump After {label(pass_)} //----- //", file=sys.stderr)
        print(_text(module, arguments), file=sys.stderr)

    after_each = show if arguments.print_after_all else None
    source = chunk.name if chunk.is_whole else None
    for timing in run_pipeline(module, passes, after_each=after_each, source=source):
        if arguments.timing:
            print(f"{timing.seconds:9.4f} s  {timing.name}", file=sys.stderr)


def _print(module: ir.Module, arguments: Arguments) -> str | bytes:
    if not arguments.bytecode:
        return _text(module, arguments)
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def _text(module: ir.Module, arguments: Arguments) -> str:
    text: str = module.operation.get_asm(enable_debug_info=arguments.debug_info, assume_verified=True)
    return text.rstrip("\n") + "\n"
