"""The command line of ``sparseflow-opt``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from sparseflow.errors import ArgumentError
from sparseflow.passes.phases import PHASES
from sparseflow.passes.registry import PASSES


@dataclass(frozen=True)
class Arguments:
    """Parsed arguments.

    Attributes:
        input: path of the input, ``-`` for stdin.
        output: path of the output, ``-`` for stdout.
        pipeline: the passes as text, empty for none.
        named: a pipeline by its name, with options, instead of `pipeline`; None without one.
        split: treat parts between ``// -----`` lines as files of their own.
        verify_diagnostics: compare diagnostics with ``expected-…`` comments.
        print_after_all: print the IR after each pass to stderr.
        dump_pipeline: print the pipeline that will be run to stderr, as `pipeline` takes it.
        timing: print how long each pass took to stderr.
        debug_info: print locations.
        bytecode: write MLIR bytecode instead of text.
        allow_unregistered: accept operations of dialects that are not loaded.
        no_limits: run without limits on time and memory.
        list_passes: ``text`` or ``markdown`` to list the passes instead, else None.
        list_pipelines: list the pipelines instead.
    """

    input: str
    output: str
    pipeline: str
    named: str | None
    split: bool
    verify_diagnostics: bool
    print_after_all: bool
    dump_pipeline: bool
    timing: bool
    debug_info: bool
    bytecode: bool
    allow_unregistered: bool
    no_limits: bool
    list_passes: str | None
    list_pipelines: bool

    @property
    def only_lists(self) -> bool:
        """Whether no input is read."""
        return self.list_passes is not None or self.list_pipelines


def parse_arguments(args: Sequence[str] | None) -> Arguments:
    """Read a command line; flags that aren't options are passes, in the order given.

    Raises:
        ArgumentError: it is malformed.
        SystemExit: help was asked for and printed.
    """
    known, rest = _parser().parse_known_args(args)
    fields = dict(vars(known))
    flags = [_flag_to_text(flag) for flag in rest]
    ways = {"--pass-pipeline": known.pipeline, "--pipeline": known.named, "flags of passes": flags or None}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        raise _usage(f"{' and '.join(given)} exclude each other", "Put all passes in one of them.")
    fields["pipeline"] = known.pipeline if known.pipeline is not None else ",".join(flags)
    if known.bytecode and known.split:
        raise _usage("--emit-bytecode and --split-input-file exclude each other", "Split the file first.")
    return Arguments(**fields)


def _flag_to_text(flag: str) -> str:
    name, equals, options = flag.removeprefix("--").partition("=")
    if not flag.startswith("--") or not name:
        raise _usage(f"unexpected argument '{flag}'", "`sparseflow-opt --help` shows what there is.")
    return f"{name}{{{options}}}" if equals else name


def _usage(rule: str, remedy: str) -> ArgumentError:
    return ArgumentError("command line", rule, remedy)


class _Parser(argparse.ArgumentParser):
    """A parser that raises SparseFlow's errors."""

    def error(self, message: str) -> NoReturn:
        raise _usage(message, "`sparseflow-opt --help` shows what there is.")


def _parser() -> _Parser:
    parser = _Parser(
        prog="sparseflow-opt",
        description="Run passes over MLIR and print the result.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("input", nargs="?", default="-", help="MLIR, text or bytecode; - is stdin (default)")
    parser.add_argument(
        "-o", dest="output", default="-", metavar="FILE", help="output; - is stdout (default)"
    )
    parser.add_argument(
        "--pass-pipeline", dest="pipeline", metavar="TEXT", help="passes in mlir-opt's syntax"
    )
    parser.add_argument(
        "--pipeline",
        dest="named",
        metavar="NAME[{OPTIONS}]",
        help="the passes that sf.compile runs, up to there",
    )
    listing = parser.add_argument("--list-passes", nargs="?", const="text", choices=("text", "markdown"))
    listing.help = "describe the passes, and stop"
    for flag, field, text in _SWITCHES:
        parser.add_argument(flag, dest=field, action="store_true", help=text)
    return parser


_SWITCHES = (
    ("--split-input-file", "split", "treat parts between '// -----' lines as files of their own"),
    ("--verify-diagnostics", "verify_diagnostics", "compare diagnostics with '// expected-error' comments"),
    ("--list-pipelines", "list_pipelines", "describe the pipelines, and stop"),
    ("--dump-pass-pipeline", "dump_pipeline", "print the pipeline that will be run to stderr"),
    ("--mlir-print-ir-after-all", "print_after_all", "print the IR after each pass to stderr"),
    ("--mlir-timing", "timing", "print how long each pass took to stderr"),
    ("--mlir-print-debuginfo", "debug_info", "print locations"),
    ("--emit-bytecode", "bytecode", "write MLIR bytecode instead of text"),
    ("--allow-unregistered-dialect", "allow_unregistered", "accept operations of unknown dialects"),
    ("--no-limits", "no_limits", "take as much time and memory as it takes"),
)


def _epilog() -> str:
    return "\n".join(
        [
            "passes, run in the order given (--list-passes describes them):",
            *(f"  --{name}[=OPTIONS]" for name in PASSES),
            "  --NAME[=OPTIONS] of any pass that MLIR or torch-mlir brings, such as --canonicalize or --cse",
            "",
            "pipelines, each from the Torch dialect on (--list-pipelines describes them):",
            *(f"  --pipeline={name}" for name in PHASES),
        ]
    )
