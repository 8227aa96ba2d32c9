"""Parse pipelines of passes from text, and run them on a module."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

from torch_mlir import ir

from sparseflow.dialect import load
from sparseflow.errors import PassError
from sparseflow.passes.base import Pass, PassFailedError, RefusalError
from sparseflow.passes.native_passes import NativePass
from sparseflow.passes.option_text import format_pass, parse_fields, parse_options
from sparseflow.passes.phases import PipelineOptions, pipeline, settings
from sparseflow.passes.pipeline_text import Element, parse_elements
from sparseflow.passes.registry import PASSES, pass_class


@dataclass(frozen=True)
class Timing:
    """The time of a pass, including the verification after it."""

    name: str
    seconds: float


def parse_pipeline(text: str) -> tuple[Pass, ...]:
    """Parse a pipeline written as text.

    Raises:
        PassError: the text is malformed, or one of our passes is misplaced or has wrong options. Passes of
            MLIR itself are looked up later, in ``run_pipeline``, because that needs a context.
    """
    passes: list[Pass] = []
    for element in parse_elements(text):
        passes.extend(_resolve(element))
    return tuple(passes)


def named_pipeline(text: str) -> tuple[Pass, ...]:
    """Return the passes of a named pipeline, such as ``runtime{memory=fast}``: all phases up to that one.

    Raises:
        PassError: the text is malformed, or there is no such pipeline or option.
    """
    elements = parse_elements(text)
    if len(elements) != 1 or elements[0].body is not None:
        raise PassError(f"pipeline '{text}'", "isn't a single name", "Write it like 'runtime{memory=fast}'.")
    (named,) = elements
    values = parse_fields(f"pipeline '{named.name}'", settings(named.name), named.options)
    return pipeline(named.name, PipelineOptions(**values))


def format_pipeline(passes: Sequence[Pass]) -> str:
    """Return the passes as text, in mlir-opt's syntax, which ``parse_pipeline`` parses."""
    texts = [p.text if isinstance(p, NativePass) else format_pass(p) for p in passes]
    return f"builtin.module({','.join(texts)})"


def _resolve(element: Element) -> Sequence[Pass]:
    if element.name == "builtin.module" and element.body is not None:
        return parse_pipeline(element.body)
    if element.name in PASSES:
        if element.body is not None:
            raise PassError(f"pass '{element.name}'", "takes no passes inside", "Options go in braces.")
        return (parse_options(pass_class(element.name), element.options),)
    _check_nested(element)
    return (NativePass(element.text),)


def _check_nested(element: Element) -> None:
    for inner in parse_elements(element.body or ""):
        if inner.name in PASSES:
            raise PassError(
                f"pass '{inner.name}'",
                f"runs on a module, not inside '{element.name}(…)'",
                f"Move it out: builtin.module(…,{inner.text}).",
            )
        _check_nested(inner)


def check_passes(passes: Sequence[Pass], context: ir.Context) -> None:
    """Check that MLIR knows the passes that aren't ours.

    Raises:
        PassError: it doesn't know one, or not its options.
    """
    for pass_ in passes:
        if isinstance(pass_, NativePass):
            pass_.check(context)


def run_pipeline(
    module: ir.Module,
    passes: str | Sequence[Pass],
    *,
    after_each: Callable[[Pass, ir.Module], None] | None = None,
    source: str | None = None,
) -> tuple[Timing, ...]:
    """Run passes on a module in place, verifying it before the first and after each.

    Args:
        module: the module to rewrite; missing dialects are loaded into its context. After a failure it is in
            the state in which the failing pass left it.
        passes: a pipeline as text, or passes.
        after_each: called after each pass, for printing or counting.
        source: path of a file with the module as it is now, for the command that reproduces a failure;
            without it a failure writes such a file.

    Returns:
        One timing for each pass.

    Raises:
        PassError: a pass is unknown, has wrong options, or failed; for a failure the error names a command
            that reproduces it.
    """
    sequence = parse_pipeline(passes) if isinstance(passes, str) else tuple(passes)
    load(module.context)
    with module.context, ir.Location.unknown():
        check_passes(sequence, module.context)
        _verify_input(module)
        snapshot = None if source else module.operation.clone()
        timings = []
        for index, pass_ in enumerate(sequence):
            try:
                timings.append(_run_one(pass_, module))
            except Exception as error:
                path = source or _write(snapshot or module.operation)
                command = _command(sequence[: index + 1], path, module.context)
                raise _failure(pass_, error, command) from error
            if after_each is not None:
                after_each(pass_, module)
    return tuple(timings)


def _run_one(pass_: Pass, module: ir.Module) -> Timing:
    start = perf_counter()
    pass_.run(module)
    if not isinstance(pass_, NativePass):  # the pass manager verified already
        module.operation.verify()
    return Timing(label(pass_), perf_counter() - start)


def label(pass_: Pass) -> str:
    """Return the name of a pass in messages."""
    return pass_.text if isinstance(pass_, NativePass) else pass_.name


def _verify_input(module: ir.Module) -> None:
    try:
        module.operation.verify()
    except ir.MLIRError as error:
        raise PassFailedError("the module", f"is not valid: {error}", "", diagnostics(error)) from error


def diagnostics(error: Exception) -> list[tuple[ir.Location, str]]:
    """Return the locations and messages that an error contains, if any."""
    if isinstance(error, RefusalError):
        return [(error.location, error.rule)]
    if isinstance(error, ir.MLIRError):
        return [(found.location, found.message) for found in error.error_diagnostics]
    return []


def _command(passes: Sequence[Pass], path: str, context: ir.Context) -> str:
    words = ["sparseflow-opt", f"--pass-pipeline={format_pipeline(passes)}", path]
    if context.allow_unregistered_dialects:
        words.insert(1, "--allow-unregistered-dialect")
    return shlex.join(words)


def _failure(pass_: Pass, error: Exception, command: str) -> PassFailedError:
    subject, remedy = f"pass '{label(pass_)}'", f"Reproduce it with: {command}"
    if isinstance(error, PassError) and error.remedy:
        remedy = f"{error.remedy}\n    {remedy}"
    return PassFailedError(subject, _rule(error, subject), remedy, diagnostics(error))


def _rule(error: Exception, subject: str) -> str:
    """Return what failed, without repeating the name of the pass."""
    if isinstance(error, RefusalError):
        return f"refuses {error.subject}: {error.rule}"
    if isinstance(error, PassError):
        return error.rule if error.subject == subject else f"{error.subject}: {error.rule}"
    if isinstance(error, ir.MLIRError):
        return f"failed: {error}"
    return f"failed with {type(error).__name__}: {error}; that is a bug in the pass"


def _write(snapshot: ir.Operation) -> str:
    with tempfile.NamedTemporaryFile("w", prefix="sparseflow-", suffix=".mlir", delete=False) as file:
        file.write(snapshot.get_asm(enable_debug_info=True, assume_verified=True))
    return file.name
