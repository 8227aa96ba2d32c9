"""The command `sparseflow`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from sparseflow.cli.bench import bench
from sparseflow.cli.calibrate import calibrate
from sparseflow.cli.compile import compile_model
from sparseflow.cli.eval import evaluate
from sparseflow.cli.exit_codes import EPILOG, FAILED, INTERRUPTED, MISUSED, SUCCESS
from sparseflow.cli.info import info
from sparseflow.cli.profile import profile
from sparseflow.cli.prune import prune
from sparseflow.cli.quiet_output import quietly
from sparseflow.cli.recover import recover
from sparseflow.cli.report import report
from sparseflow.cli.roi import roi
from sparseflow.cli.tune import tune
from sparseflow.cli.validate import validate
from sparseflow.cli.verbosity import Quiet, Verbose, chosen, speaking, spoken
from sparseflow.errors import SparseFlowError
from sparseflow.support.extras import refusal
from sparseflow.support.version import __version__

app = typer.Typer(
    name="sparseflow",
    help="Make PyTorch models faster with structured sparsity.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("compile")(spoken(quietly(compile_model)))
app.command("eval")(spoken(quietly(evaluate)))
app.command()(spoken(quietly(prune)))
app.command()(spoken(quietly(recover)))
app.command()(spoken(quietly(calibrate)))
app.command()(spoken(quietly(profile)))
app.command()(spoken(quietly(tune)))
app.command()(spoken(validate))
app.command()(spoken(report))
app.command()(spoken(info))
app.add_typer(roi, name="roi")
app.add_typer(bench, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sparseflow {__version__}")
        raise typer.Exit


@app.callback()
def _all_commands(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    context.with_resource(speaking(chosen(quiet, verbose)))


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 on success; 1 on an error, with a message on stderr, or a failed check; 2 on wrong usage; 3 if a
        deadline left something undone; 130 on interruption.
    """
    try:
        result = app(args=None if args is None else list(args), standalone_mode=False)
        sys.stdout.flush()
    except SparseFlowError as error:
        return _failed(error)
    except typer.Exit as stop:
        return int(stop.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        print("sparseflow: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe, as `| head` does; avoid another flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:
        return _failed(error)
    except ImportError as error:
        if (refused := refusal("sparseflow", error)) is None:
            raise
        return _failed(refused)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's class, which isn't imported just to name it
            return _failed(str(error).partition(". ")[0])
        show = getattr(error, "show", None)  # a usage error of click's, vendored or not
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", MISUSED))
    return result if isinstance(result, int) else SUCCESS


def _failed(why: object) -> int:
    print(f"sparseflow: error: {why}", file=sys.stderr)
    return FAILED


def console_main() -> None:
    """Run `main` and exit with its status."""
    sys.exit(main())
