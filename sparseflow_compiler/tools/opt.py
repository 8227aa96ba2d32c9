"""``sparseflow-opt``: run passes over MLIR, as mlir-opt does. Starts without torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from sparseflow.errors import ArgumentError, SparseFlowError
from sparseflow.support.extras import refusal
from sparseflow.tools.command_line import Arguments, parse_arguments
from sparseflow.tools.limits import Limits, guarded, input_size

_FAILED, _MISUSED, _INTERRUPTED = 1, 2, 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the driver, in this process.

    Args:
        args: the command line without the program's name; ``sys.argv`` when left out.

    Returns:
        The exit code: 0; 1 when the input or a pass failed; 2 when the command line is wrong.
    """
    try:
        return _run(parse_arguments(args))
    except SystemExit as stop:  # argparse ends this way after printing help
        return int(stop.code or 0)
    except SparseFlowError as error:
        return _report(str(error), _MISUSED if isinstance(error, ArgumentError) else _FAILED)
    except BrokenPipeError:
        # The reader has closed the pipe; avoid Python's second complaint on flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _FAILED
    except KeyboardInterrupt:
        return _INTERRUPTED
    except MemoryError:
        return _report("out of memory", _FAILED)
    except ImportError as error:
        missing = refusal("sparseflow-opt", error)
        return _report(str(missing or f"internal error, please report it: {error}"), _FAILED)
    except Exception as error:  # a traceback helps no user
        return _report(f"internal error, please report it: {type(error).__name__}: {error}", _FAILED)


def console_main() -> None:
    """Run `main` in a process with limits; the entry point of the installed script."""
    try:
        arguments = parse_arguments(None)
    except (SparseFlowError, SystemExit):
        sys.exit(main())  # which reports the error, or shows the help again
    if arguments.no_limits or arguments.only_lists:
        sys.exit(main())
    sys.exit(guarded(main, Limits.for_input(input_size(arguments.input))))


def _report(message: str, code: int) -> int:
    print(f"sparseflow-opt: error: {message}", file=sys.stderr)
    return code


def _run(arguments: Arguments) -> int:
    if arguments.only_lists:
        _write(arguments.output, _listing(arguments))
        return 0
    # MLIR is imported only here, so that help is fast.
    from sparseflow.tools.driver import process

    outcome = process(arguments)
    for message in outcome.messages:
        _report(message, _FAILED)
    if outcome.messages:
        return _FAILED
    _write(arguments.output, outcome.output)
    return 0


def _listing(arguments: Arguments) -> str:
    from sparseflow.tools import passes_doc

    if arguments.list_passes == "markdown":
        return passes_doc.as_markdown()
    listings = (
        (arguments.list_passes, passes_doc.as_text),
        (arguments.list_pipelines, passes_doc.pipelines_as_text),
    )
    return "\n".join(listing() for wanted, listing in listings if wanted)


def _write(path: str, content: str | bytes) -> None:
    data = content.encode() if isinstance(content, str) else content
    if path == "-" and isinstance(content, str):
        sys.stdout.write(content)
        sys.stdout.flush()
    elif path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        try:
            Path(path).write_bytes(data)
        except OSError as error:
            rule = f"can't be written: {error.strerror}"
            raise ArgumentError(f"output '{path}'", rule, "Give another -o.") from None
